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
from dataclasses import dataclass, field
from pathlib import Path
from posixpath import dirname
from typing import TYPE_CHECKING, Protocol

from wopr.core.errors import Invalid
from wopr.delivery.errors import HostFailed

if TYPE_CHECKING:
    import asyncssh  # where it is needed it is imported then: it takes longer than most commands on this machine

RUN_SECONDS = 60.0
KILLED_SECONDS = 5.0
CONNECT_SECONDS = 15.0
KEEPALIVE_SECONDS = 5
# Whole or absent, and still there after the power was cut: a new file, on the disk, then renamed over the old one.
WRITE_SCRIPT = (
    'umask 077; mkdir -p "$2" && { cat > "$1.new" && chmod "$3" "$1.new" && sync "$1.new" && mv -f "$1.new" "$1"'
    ' || { rm -f "$1.new"; exit 1; }; } && sync "$2"'
)
SSH_PORT, PORTS = 22, 65_536
ADDRESS = re.compile(
    r"^((?P<user>[^@\s]+)@)?(\[(?P<six>[0-9a-fA-F:.%\w]+)\]|(?P<name>[^@:\s\[\]/]+))(:(?P<port>\d+))?$"
)
READ_SCRIPT = '[ -e "$1" ] || exit 44; cat "$1"'
ABSENT = 44


@dataclass(frozen=True)
class Output:
    """How a command ended."""

    code: int
    out: bytes = b""
    err: bytes = b""

    @property
    def ok(self) -> bool:
        return self.code == 0

    @property
    def text(self) -> str:
        return self.out.decode("utf-8", "replace").strip()

    @property
    def complaint(self) -> str:
        """The last line that says why, for a person."""
        lines = complaints((self.err or self.out).decode("utf-8", "replace"))
        return lines[-1] if lines else f"exit code {self.code}"


def complaints(wrote: str) -> Sequence[str]:
    """The lines of what a program wrote; of our errors without the remedy, which is for who runs that program."""
    lines = [line.strip() for line in wrote.splitlines() if line.strip()]
    return [line.removeprefix("error: ") for line in lines if not line.startswith("fix: ")] or lines


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


def write_command(path: str, mode: int) -> tuple[str, ...]:
    """The command that writes its standard input to a file on any host."""
    return ("sh", "-c", WRITE_SCRIPT, "write", path, dirname(path), f"{mode:o}")


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
            out, err = await asyncio.wait_for(process.communicate(input), timeout)
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
        await asyncio.wait_for(process.communicate(), KILLED_SECONDS)


@dataclass
class SshHost:
    """A machine that is reached over SSH. Its key must be known already: an unknown one is refused, never learned."""

    address: str
    user: str = "root"
    port: int = SSH_PORT
    known_hosts: str | None = None  # None: the user's own files
    key: str | None = None  # None: the user's agent and keys
    _connection: "asyncssh.SSHClientConnection | None" = field(default=None, repr=False)
    _connecting: asyncio.Lock = field(default_factory=asyncio.Lock, repr=False)

    async def run(self, argv: Sequence[str], *, input: bytes = b"", timeout: float = RUN_SECONDS) -> Output:
        import asyncssh

        connection = await self._connected()
        # Without an end of its input a command that reads it would wait for ever.
        stdin = asyncssh.PIPE if input else asyncssh.DEVNULL
        try:
            done = await connection.run(
                shlex.join(argv), input=input or None, stdin=stdin, encoding=None, timeout=timeout
            )
        except asyncssh.TimeoutError as error:
            raise HostFailed(f"`{shlex.join(argv)[:200]}` did not end within {timeout:.0f} s.") from error
        except (asyncssh.Error, OSError) as error:
            await self.close()
            raise HostFailed(f"The connection to {self.describe()} broke: {error}", remedy="Run it again.") from error
        return Output(_code(done), _bytes(done.stdout), _bytes(done.stderr))

    async def read(self, path: str) -> bytes | None:
        got = await self.run(("sh", "-c", READ_SCRIPT, "read", path))
        if got.code == ABSENT:
            return None
        if not got.ok:
            raise HostFailed(f"{path} on {self.describe()} can't be read: {got.complaint}")
        return got.out

    async def write(self, path: str, data: bytes, mode: int = 0o600) -> None:
        await _written(self, path, data, mode)

    def describe(self) -> str:
        return f"{self.user}@{self.address}" + (f":{self.port}" if self.port != SSH_PORT else "")

    async def close(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.close()
            await connection.wait_closed()

    async def _connected(self) -> "asyncssh.SSHClientConnection":
        async with self._connecting:
            if self._connection is None or self._connection.is_closed():
                self._connection = await self._connect()
            return self._connection

    async def _connect(self) -> "asyncssh.SSHClientConnection":
        import asyncssh

        options: dict[str, object] = {"known_hosts": self.known_hosts} if self.known_hosts else {}
        if self.key:
            options["client_keys"] = [self.key]
        try:
            return await asyncssh.connect(
                self.address,
                port=self.port,
                username=self.user,
                connect_timeout=CONNECT_SECONDS,
                keepalive_interval=KEEPALIVE_SECONDS,
                **options,
            )
        except asyncssh.HostKeyNotVerifiable as error:
            raise HostFailed(
                f"The key of {self.describe()} is not known here: {error}",
                remedy=f"Compare its fingerprint, then: ssh -p {self.port} {self.user}@{self.address} true",
            ) from error
        except (asyncssh.Error, OSError) as error:
            raise HostFailed(
                f"{self.describe()} can't be reached: {error or type(error).__name__}",
                remedy=f"Try: ssh -p {self.port} {self.user}@{self.address} true",
            ) from error


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
    done = await host.run(write_command(path, mode), input=data)
    if not done.ok:
        raise HostFailed(f"{path} on {host.describe()} can't be written: {done.complaint}")


def _code(done: "asyncssh.SSHCompletedProcess") -> int:
    """The exit code; 255 for a command that a signal ended, as ssh does."""
    return done.exit_status if done.exit_status is not None and done.exit_status >= 0 else 255


def _bytes(value: object) -> bytes:
    return value if isinstance(value, bytes) else str(value or "").encode()
