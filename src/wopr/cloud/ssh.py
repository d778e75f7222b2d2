"""Machines over SSH: the one door to asyncssh. A program is run from a list of arguments, each of them quoted.

A machine's own key must be known: from the user's files, from a file, or as `host_key`, which whoever meets a machine
for the first time gets from `Ssh.met` and keeps. An unknown or another one is refused.
"""

import asyncio
import contextlib
import os
import shlex
import stat
import sys
import termios
import tty
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, TextIO

from wopr.core.environment import environment
from wopr.core.errors import UpstreamFailed

if TYPE_CHECKING:
    import asyncssh  # where it is needed it is imported then: it takes longer than most commands on this machine

RUN_SECONDS = 60.0
CONNECT_SECONDS = 15.0
KEEPALIVE_SECONDS = 5
SSH_PORT = 22
# A connection's commands at once. sshd refuses the eleventh, unless its MaxSessions says otherwise.
SESSIONS_MAX = 8
SESSION_TRIES_MAX = 40
SESSION_PAUSE_SECONDS = 0.25


class SshFailed(UpstreamFailed):
    """The machine could not be reached, did not let us in, or a command did not end. `answered`: sshd was there."""

    default_code = "ssh_failed"

    def __init__(self, message: str, *, remedy: str = "", answered: bool = False) -> None:
        super().__init__(message, remedy=remedy)
        self.answered = answered


class NotEnded(SshFailed):
    """The machine was there, and a command did not end within its time."""


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
    """The lines of what a program wrote; of our own programs the error alone.

    What they tell before it is how far they came, and the remedy after it is for who runs them.
    """
    lines = [line.strip() for line in wrote.splitlines() if line.strip()]
    began = next((number for number, line in enumerate(lines) if line.startswith("error: ")), 0)
    return [line.removeprefix("error: ") for line in lines[began:] if not line.startswith("fix: ")] or lines


@dataclass(frozen=True)
class Trust:
    """Whom to believe, and who we are. None everywhere: the user's own files, agent and keys."""

    known_hosts: str | None = None  # a file
    key: str | None = None  # a file
    private_key: str | None = field(default=None, repr=False)  # OpenSSH's format
    host_key: str | None = None  # the line of the public key; empty: whoever answers, and `met` says who
    connect_seconds: float = CONNECT_SECONDS


@dataclass
class Ssh:
    """A connection that is opened when it is needed, and again after it broke."""

    address: str
    user: str = "root"
    port: int = SSH_PORT
    trust: Trust = field(default_factory=Trust)
    met: str | None = None  # the machine's key, once connected
    _connection: "asyncssh.SSHClientConnection | None" = field(default=None, repr=False)
    _connecting: asyncio.Lock = field(default_factory=asyncio.Lock, repr=False)
    _sessions: asyncio.Semaphore = field(default_factory=lambda: asyncio.Semaphore(SESSIONS_MAX), repr=False)

    async def run(self, argv: Sequence[str], *, input: bytes = b"", timeout: float = RUN_SECONDS) -> Output:
        """Run a program to its end; SshFailed when that does not come. Waiting for its turn takes none of its time."""
        import asyncssh

        async with self._sessions:
            for _ in range(SESSION_TRIES_MAX):
                try:
                    return await self._run(argv, input, timeout)
                except asyncssh.ChannelOpenError:  # nothing was run: those that ended are not yet gone at the server
                    await asyncio.sleep(SESSION_PAUSE_SECONDS)
        raise SshFailed(
            f"{self.describe()} runs no more commands for us.",
            remedy="Does its sshd have a low MaxSessions?",
            answered=True,
        )

    async def _run(self, argv: Sequence[str], input: bytes, timeout: float) -> Output:
        import asyncssh

        connection = await self._connected()
        # Without an end of its input a command that reads it would wait for ever.
        stdin = asyncssh.PIPE if input else asyncssh.DEVNULL
        try:
            async with asyncio.timeout(timeout):  # asyncssh's own is `wait_for`, which may lose a cancellation
                done = await connection.run(shlex.join(argv), input=input or None, stdin=stdin, encoding=None)
        except asyncssh.ChannelOpenError:
            if connection.is_closed():
                raise SshFailed(f"The connection to {self.describe()} broke.", remedy="Run it again.") from None
            raise
        except TimeoutError as error:
            message = f"`{shlex.join(argv)[:200]}` did not end within {timeout:.0f} s."
            raise NotEnded(message, answered=True) from error
        except (asyncssh.Error, OSError) as error:
            await self.close()
            raise SshFailed(f"The connection to {self.describe()} broke: {error}", remedy="Run it again.") from error
        if done.exit_status is None:  # what it wrote until then would be taken for all that it had to say
            message = f"The connection to {self.describe()} broke in the middle of a command."
            raise SshFailed(message, remedy="Run it again.", answered=True)
        return Output(_code(done.exit_status), _bytes(done.stdout), _bytes(done.stderr))

    def describe(self) -> str:
        """The name by which people know it."""
        return f"{self.user}@{self.address}" + (f":{self.port}" if self.port != SSH_PORT else "")

    async def close(self) -> None:
        """Give the connection back."""
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.close()
            with contextlib.suppress(OSError):
                await connection.wait_closed()

    async def attach(self, argv: Sequence[str]) -> int:
        """Run a program on our own input and output, in a terminal where they are one; its exit code.

        SshFailed when it can't be begun.
        """
        connection = await self._connected()
        terminal = sys.stdin.isatty() and sys.stdout.isatty()
        kind = environment().get("TERM", "dumb") if terminal else None
        size = os.get_terminal_size(sys.stdout.fileno()) if terminal else ()
        with _raw(sys.stdin.fileno()) if terminal else contextlib.nullcontext():
            done = await connection.run(
                shlex.join(argv),
                stdin=_input(),
                stdout=sys.stdout,
                stderr=sys.stderr,
                encoding=None,
                term_type=kind,
                term_size=size,
            )
        return _code(done.returncode or 0)

    async def _connected(self) -> "asyncssh.SSHClientConnection":
        async with self._connecting:
            if self._connection is None or self._connection.is_closed():
                self._connection = await self._connect()
            return self._connection

    async def _connect(self) -> "asyncssh.SSHClientConnection":
        import asyncssh

        try_it = f"ssh -p {self.port} {self.user}@{self.address} true"
        try:
            connection = await asyncssh.connect(
                self.address,
                port=self.port,
                username=self.user,
                connect_timeout=self.trust.connect_seconds,
                login_timeout=self.trust.connect_seconds,
                keepalive_interval=KEEPALIVE_SECONDS,
                **_options(self.trust),
            )
        except asyncssh.HostKeyNotVerifiable as error:
            raise SshFailed(
                f"The key of {self.describe()} is not known here: {error}",
                remedy=f"Compare its fingerprint, then: {try_it}",
                answered=True,
            ) from error
        except (asyncssh.Error, OSError, UnicodeError) as error:  # the last one of a name that can be none
            raise SshFailed(
                f"{self.describe()} can't be reached: {error or type(error).__name__}",
                remedy=f"Try: {try_it}",
                answered=isinstance(error, asyncssh.Error | ConnectionRefusedError),
            ) from error
        key = connection.get_server_host_key()
        self.met = key.export_public_key().decode().strip() if key else None
        return connection


def _options(trust: Trust) -> dict[str, object]:
    """What asyncssh is to be told beyond its defaults, which are the user's files."""
    import asyncssh

    options: dict[str, object] = {"known_hosts": trust.known_hosts} if trust.known_hosts else {}
    if trust.host_key is not None:
        known = [asyncssh.import_public_key(trust.host_key)] if trust.host_key else None
        options["known_hosts"] = (known, [], []) if known else None
    if trust.key:
        options["client_keys"] = [trust.key]
    if trust.private_key is not None:
        options |= {"client_keys": [asyncssh.import_private_key(trust.private_key)], "agent_path": None, "config": None}
    return options


@contextlib.contextmanager
def _raw(terminal: int) -> Iterator[None]:
    """A terminal whose keys all go to the other side, Ctrl-C among them; as it was at the end."""
    before = termios.tcgetattr(terminal)
    try:
        tty.setraw(terminal)
        yield
    finally:
        termios.tcsetattr(terminal, termios.TCSADRAIN, before)


def _input() -> "int | TextIO":
    """Our input where something can come from there; /dev/null and its like can't be waited for."""
    import asyncssh

    mode = os.fstat(sys.stdin.fileno()).st_mode
    comes = sys.stdin.isatty() or stat.S_ISFIFO(mode) or stat.S_ISREG(mode) or stat.S_ISSOCK(mode)
    return sys.stdin if comes else asyncssh.DEVNULL


def _code(status: int) -> int:
    """The exit code; 255 for a command that a signal ended, as ssh does."""
    return status if status >= 0 else 255


def _bytes(value: object) -> bytes:
    return value if isinstance(value, bytes) else str(value or "").encode()
