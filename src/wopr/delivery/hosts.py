"""The machines on which releases run: this one, or another over SSH, with the same code on top.

A host runs a program from a list of arguments and reads and writes files whole. There is no shell in between on this
machine; over SSH, whose protocol only knows one string, each argument is quoted.
"""

import asyncio
import contextlib
import os
import re
import shlex
import signal
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from posixpath import dirname
from typing import Protocol

from wopr.cloud.ssh import RUN_SECONDS, SSH_PORT, NotEnded, Output, Ssh, SshFailed
from wopr.core.errors import Invalid
from wopr.delivery.errors import HostAway, HostFailed

__all__ = ["RUN_SECONDS", "Host", "LocalHost", "Output", "SshHost", "host_of", "write_command"]

KILLED_SECONDS = 5.0
# Whole or absent, and still there after the power was cut: a new file, on the disk, then renamed over the old one. Its
# bytes are counted, as the end of what comes in may only mean that whoever sent it was killed, or that the way broke.
WRITE_SCRIPT = (
    'umask 077; mkdir -p "$2" && { cat > "$1.new" && [ "$(stat -c %s "$1.new")" = "$4" ] && chmod "$3" "$1.new"'
    ' && sync "$1.new" && mv -f "$1.new" "$1" || { rm -f "$1.new"; exit 1; }; } && sync "$2"'
)
PORTS = 65_536
ADDRESS = re.compile(
    r"^((?P<user>[^@\s]+)@)?(\[(?P<six>[0-9a-fA-F:.%\w]+)\]|(?P<name>[^@:\s\[\]/]+))(:(?P<port>\d+))?$"
)
READ_SCRIPT = '[ -e "$1" ] || exit 44; cat "$1"'
ABSENT = 44


class Host(Protocol):
    """One machine with Docker."""

    async def run(self, argv: Sequence[str], *, input: bytes = b"", timeout: float = RUN_SECONDS) -> Output:
        """Run a program to its end. HostFailed when it can't be started, or does not end in `timeout` seconds."""

    async def read(self, path: str) -> bytes | None:
        """A whole file; None when there is none."""

    async def write(self, path: str, data: bytes, mode: int = 0o600) -> None:
        """Replace a file: afterwards it is the old or the new one, never a part, even after a power cut."""

    def describe(self) -> str:
        """The name by which people know it."""

    async def close(self) -> None:
        """Give back what it holds."""


def write_command(path: str, mode: int, size: int) -> tuple[str, ...]:
    """The command that writes its standard input, of `size` bytes, to a file on any host. Fewer change nothing."""
    return ("sh", "-c", WRITE_SCRIPT, "write", path, dirname(path), f"{mode:o}", str(size))


@dataclass(frozen=True)
class LocalHost:
    """This machine."""

    name: str = "this machine"

    async def run(self, argv: Sequence[str], *, input: bytes = b"", timeout: float = RUN_SECONDS) -> Output:
        starting = asyncio.ensure_future(_started(argv))
        try:
            process = await asyncio.shield(starting)
        except asyncio.CancelledError:
            # Given up in the middle of it, asyncio would leave what it started behind, and might wait for it for ever.
            await asyncio.shield(_killed_once_started(starting))
            raise
        except OSError as error:
            raise HostFailed(f"{argv[0]} can't be run on {self.name}: {error}", remedy="Is it installed?") from error
        try:
            async with asyncio.timeout(timeout):
                out, err = await process.communicate(input)
        except BaseException as error:
            # Shielded: who gives up twice must not leave a process behind that nobody waits for.
            await asyncio.shield(_killed(process))
            if isinstance(error, TimeoutError):
                raise HostFailed(f"`{shlex.join(argv)[:200]}` did not end within {timeout:.0f} s.") from error
            raise
        return Output(process.returncode or 0, out, err)

    async def read(self, path: str) -> bytes | None:
        try:
            return await asyncio.to_thread(Path(path).read_bytes)
        except FileNotFoundError:
            return None

    async def write(self, path: str, data: bytes, mode: int = 0o600) -> None:
        await _written(self, path, data, mode)

    def describe(self) -> str:
        return self.name

    async def close(self) -> None:
        return None


async def _started(argv: Sequence[str]) -> asyncio.subprocess.Process:
    pipe = asyncio.subprocess.PIPE
    # A session of its own: Ctrl-C is for us; a command is not cut in the middle by it.
    return await asyncio.create_subprocess_exec(*argv, stdin=pipe, stdout=pipe, stderr=pipe, start_new_session=True)


async def _killed_once_started(starting: "asyncio.Future[asyncio.subprocess.Process]") -> None:
    with contextlib.suppress(OSError):
        await _killed(await starting)


async def _killed(process: asyncio.subprocess.Process) -> None:
    """End a command with everything that it started, and let go of its pipes, which somebody else may hold open."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(KILLED_SECONDS):
            await process.communicate()


class SshHost(Ssh):
    """A machine that is reached over SSH. Its key must be known already: an unknown one is refused, never learned."""

    async def run(self, argv: Sequence[str], *, input: bytes = b"", timeout: float = RUN_SECONDS) -> Output:
        try:
            return await super().run(argv, input=input, timeout=timeout)
        except SshFailed as error:
            kind = HostFailed if isinstance(error, NotEnded) else HostAway
            raise kind(error.message, remedy=error.remedy) from error

    async def read(self, path: str) -> bytes | None:
        got = await self.run(("sh", "-c", READ_SCRIPT, "read", path))
        if got.code == ABSENT:
            return None
        if not got.ok:
            raise HostFailed(f"{path} on {self.describe()} can't be read: {got.complaint}")
        return got.out

    async def write(self, path: str, data: bytes, mode: int = 0o600) -> None:
        await _written(self, path, data, mode)


def host_of(text: str) -> Host:
    """`user@name[:port]`, or nothing for this machine; an IPv6 address stands in brackets. Invalid for what is none."""
    if not text:
        return LocalHost()
    match = ADDRESS.match(text)
    port = int(match["port"] or SSH_PORT) if match else 0
    if match is None or not 0 < port < PORTS:
        raise Invalid(f"{text!r} is no user@name[:port]", remedy="Write it as root@api.example.com.")
    return SshHost(match["six"] or match["name"], match["user"] or "root", port)


async def _written(host: Host, path: str, data: bytes, mode: int) -> None:
    done = await host.run(write_command(path, mode, len(data)), input=data)
    if not done.ok:
        raise HostFailed(f"{path} on {host.describe()} can't be written: {done.complaint}")
