"""Options that say which installation a command means: its folder, its host, its name; and what follows from them."""

import re
import shlex
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from wopr.cli.progress import Progress, Stage
    from wopr.delivery.hosts import Host
    from wopr.delivery.place import Place
    from wopr.ops.journal import Journal

DIR = "/root/wopr-platform"
# Commands on an installation, as remedies name them.
OURS = re.compile(r"\bwopr (deploy|rollback|releases|lock show|lock release|secrets list)\b")
# What goes on behind a step, for whoever waits. Behind those that are not named, nothing takes long.
NEXT = {
    "asked for the lock": "waiting for it",
    "locked": "looking at what is there",
    "preflight": "fetching images",
    "pulled": "looking whether they fit",
    "image fits": "reading the migrations",
    "candidate": "getting the database and its slot ready",
    "dumped": "migrating the database",
    "environment": "starting containers",
    "started": "waiting until it is ready",
    "serving": "watching it while the one before drains",
    "drained": "watching it",
    "observed": "emptying the other slot",
    "refused": "removing what is left of it",
    "going back": "bringing back the one before",
}


@dataclass(frozen=True)
class Where:
    """The installation that is meant."""

    dir: Annotated[str, typer.Option("--dir", help="Folder of the installation on its host.")] = DIR
    host: Annotated[str, typer.Option("--host", help="user@name[:port] over SSH; empty: this machine.")] = ""
    name: Annotated[str, typer.Option("--name", help="Name that sets it apart on a shared engine; default: wopr.")] = ""

    def machine(self) -> "Host":
        """The host, not yet connected; an address that can't be one ends the command."""
        from wopr.core.errors import Invalid
        from wopr.delivery.hosts import host_of

        try:
            return host_of(self.host)
        except Invalid as error:
            raise typer.BadParameter(error.message, param_hint="--host") from error

    async def place(self, host: "Host") -> "Place":
        """The folder, with the name that its first release was given."""
        from wopr.delivery.commands import parsed_env
        from wopr.delivery.place import NAME, Place

        folder = self.dir if self.host else str(self._here())
        known = parsed_env((await host.read(Place(folder).stack_env) or b"").decode())
        return Place(folder, self.name or known.get("WOPR_NAME", NAME))

    def paste(self, command: str) -> str:
        """A command on the same installation, to be pasted."""
        given = (("--dir", self.dir, DIR), ("--host", self.host, ""), ("--name", self.name, ""))
        return shlex.join(
            (*command.split(), *(word for name, is_, usual in given if is_ != usual for word in (name, is_)))
        )

    def pasted(self, remedy: str) -> str:
        """A remedy whose commands mean the same installation."""
        return OURS.sub(lambda command: self.paste(command[0]), remedy)

    def journal(self) -> "Journal":
        """The installation's own journal; for another host the one of this machine's operator."""
        from wopr.core.settings import load_settings
        from wopr.ops.journal import Journal

        return Journal(load_settings().wopr_home if self.host else self._here())

    def _here(self) -> Path:
        return Path(self.dir).expanduser().resolve()


def whole_journal(home: Path) -> "Journal":
    """The journal in a folder of this machine; where releases are in it, with what their API journalled apart."""
    import asyncio

    from wopr.delivery.place import Place
    from wopr.ops.journal import Journal

    journal = Journal(home)
    if Path(Place(str(home)).state).exists():
        asyncio.run(_take_in(Where(str(home)), journal))
    return journal


async def _take_in(where: Where, journal: "Journal") -> None:
    from wopr.delivery.api_journal import take_in

    host = where.machine()
    await take_in(host, await where.place(host), journal)


@dataclass
class Teller:
    """Tells each step of an operation once it is done, with the seconds that it took, and meanwhile what goes on."""

    progress: "Progress"
    machine: str
    _since: float = field(init=False)
    _now: "Stage | None" = field(default=None, init=False)

    def __post_init__(self) -> None:
        self._since = self.progress.clock()

    def __call__(self, what: str, detail: str) -> None:
        self.end()
        self.progress.ended(self.machine, what, self.progress.clock() - self._since, detail)
        self._since = self.progress.clock()
        if following := NEXT.get(what):
            self._now = self.progress.stage(self.machine, following, keep=False)

    def end(self) -> None:
        """Nothing goes on any more."""
        if self._now is not None:
            self._now.forget()
            self._now = None


def operator() -> str:
    """Who asks: this user on this machine."""
    import getpass
    import socket

    try:
        return f"{getpass.getuser()}@{socket.gethostname()}"
    except (KeyError, OSError):
        return socket.gethostname()
