"""The docker command, which reaches an engine wherever the user's own reaches it."""

import asyncio
import contextlib
import os
import signal
from asyncio.subprocess import PIPE, Process
from collections.abc import Callable

from wopr.emulators.digitalocean.errors import ActionFailed

CALL_SECONDS_MAX = 120.0
_TOLD_CHARACTERS = 1_000


class DockerRefused(ActionFailed):
    """The docker command ended with an error; the text is what it wrote."""


async def docker(
    *arguments: str, stdin: bytes = b"", seconds: float = CALL_SECONDS_MAX, tell: Callable[[str], None] | None = None
) -> str:
    """What the command writes; DockerRefused when it fails or takes too long. `tell` hears each line as it comes."""
    process = await started(*arguments)
    try:
        async with asyncio.timeout(seconds):
            out, err = await (_heard(process, tell) if tell else process.communicate(stdin))
    except TimeoutError:
        raise DockerRefused(f"docker {arguments[0]} did not end within {seconds:.0f} s") from None
    finally:
        await ended(process)
    if process.returncode != 0:
        text = err.decode(errors="replace").strip()[-_TOLD_CHARACTERS:]
        raise DockerRefused(f"docker {arguments[0]} ended with {process.returncode}: {text}")
    return out.decode(errors="replace")


async def started(*arguments: str) -> Process:
    """The command as a process, in a session of its own: Ctrl-C at the terminal is for the stand-in."""
    try:
        return await asyncio.create_subprocess_exec(
            "docker", *arguments, stdin=PIPE, stdout=PIPE, stderr=PIPE, start_new_session=True
        )
    except FileNotFoundError:
        raise DockerRefused("there is no docker command; real machines need one, simulated machines don't") from None


async def ended(process: Process) -> None:
    """Make sure that nothing of it is left."""
    if process.returncode is None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        await process.wait()


async def _heard(process: Process, tell: Callable[[str], None]) -> tuple[bytes, bytes]:
    async def read(stream: asyncio.StreamReader | None) -> bytes:
        assert stream is not None, "it was started with pipes"
        lines = []
        async for line in stream:
            lines.append(line)
            tell(line.decode(errors="replace").rstrip())
        return b"".join(lines)

    out, err = await asyncio.gather(read(process.stdout), read(process.stderr))
    await process.wait()
    return out, err
