"""A machine that is reached over SSH: a real server on loopback, with keys for one test, that runs what it is told."""

import asyncio
import os
import pty
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path

import asyncssh

from wopr.cloud.ssh import Trust
from wopr.delivery.hosts import SshHost

Running = dict["asyncio.Task[None]", asyncio.subprocess.Process]


class _Server(asyncssh.SSHServer):
    def begin_auth(self, username: str) -> bool:
        return True


async def _run(running: "Running", breaks: str, process: "asyncssh.SSHServerProcess[bytes]") -> None:
    """Give the command to a shell, as sshd does."""
    if process.get_terminal_type():
        await _run_in_terminal(process)
        return
    started = await asyncio.create_subprocess_exec(
        "sh",
        "-c",
        process.command or "",
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        start_new_session=True,
    )
    task = asyncio.current_task()
    assert task is not None
    running[task] = started
    out, err = await started.communicate(await process.stdin.read())
    if breaks and breaks in (process.command or ""):
        process.stdout.write(out[: len(out) // 2])
        process.channel.get_connection().abort()
        return
    process.stdout.write(out)
    process.stderr.write(err)
    process.exit(started.returncode or 0)


async def _run_in_terminal(process: "asyncssh.SSHServerProcess[bytes]") -> None:
    """The same with a terminal of its own, which was asked for."""
    ours, its = pty.openpty()
    started = await asyncio.create_subprocess_exec(
        "sh", "-c", process.command or "", stdin=its, stdout=its, stderr=its, start_new_session=True
    )
    os.close(its)
    await process.redirect(stdin=os.dup(ours), stdout=ours)
    process.exit(await started.wait())
    await process.wait_closed()


@asynccontextmanager
async def ssh_machine(folder: Path, *, known: bool = True, breaks: str = "") -> AsyncIterator[SshHost]:
    """This machine, over SSH. `known` says whether its key is in the file of known hosts. The connection breaks once
    half of what a command has to say is on its way, when `breaks` stands in that command."""
    folder.mkdir(parents=True, exist_ok=True)  # noqa: ASYNC240 - a moment
    host_key, user_key = asyncssh.generate_private_key("ssh-ed25519"), asyncssh.generate_private_key("ssh-ed25519")
    user_key.write_private_key(folder / "id")
    (folder / "id").chmod(0o600)
    user_key.write_public_key(folder / "authorized")
    running: Running = {}
    server = await asyncssh.listen(
        "127.0.0.1",
        0,
        server_factory=_Server,
        server_host_keys=[host_key],
        authorized_client_keys=str(folder / "authorized"),
        process_factory=partial(_run, running, breaks),
        encoding=None,
    )
    port = server.get_port()
    other = asyncssh.generate_private_key("ssh-ed25519")
    key = (host_key if known else other).export_public_key().decode().strip()
    (folder / "known").write_text(f"[127.0.0.1]:{port} {key}\n")
    host = SshHost("127.0.0.1", "root", port, Trust(str(folder / "known"), str(folder / "id")))
    try:
        yield host
    finally:
        await host.close()
        server.close()
        await server.wait_closed()
        # A command whose caller gave up goes on, as under sshd, but not longer than this machine.
        for one in running.values():
            if one.returncode is None:
                os.killpg(one.pid, signal.SIGKILL)
        await asyncio.gather(*running, return_exceptions=True)  # who asked is gone, so some can't be answered
