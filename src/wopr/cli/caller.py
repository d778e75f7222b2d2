"""A command that is one of the API's callers: its address and key as options, and the journal of what it changes."""

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, TypeVar
from urllib.parse import urlsplit

import typer

from wopr.cli.output import (
    USAGE,
    DryRunOption,
    JsonOption,
    ProgressKind,
    ProgressOption,
    fail,
    json_document,
    progress,
    result,
)

if TYPE_CHECKING:
    from wopr.cli.progress import Progress
    from wopr.client import ApiClient

Result = TypeVar("Result")
Work = Callable[["ApiClient"], Awaitable[Result]]

# An API under one of these runs on this machine, which has a better name.
OWN_NAMES = ("localhost", "127.0.0.1", "::1")

UrlOption = Annotated[str, typer.Option(help="Address of the API; default: API_URL.")]
KeyOption = Annotated[str, typer.Option(envvar="WOPR_KEY", help="Your API key, wopr_write_…")]


@dataclass(frozen=True)
class Caller:
    """Who asks which API, and how the answer is written."""

    url: UrlOption = ""
    key: KeyOption = ""
    as_json: JsonOption = False

    def run(self, work: "Work[Result]") -> Result:
        """Do the work with a client of the API; without a key the command ends with how to get one."""
        from wopr.client import ApiClient

        if not self.key:
            fail(
                "No API key was given.",
                remedy="Make one on the Keys page, then: export WOPR_KEY=wopr_write_…",
                code=USAGE,
            )

        async def run() -> Result:
            async with ApiClient(self.address(), key=self.key) as api:
                return await work(api)

        return asyncio.run(run())

    def address(self) -> str:
        """The API's address: the option, or the setting."""
        from wopr.core.settings import load_settings

        return self.url or load_settings().api_url

    def say_planned(self, document: dict[str, object], words: str) -> None:
        """What `--dry-run` answers."""
        if self.as_json:
            json_document({**document, "dry_run": True})
        else:
            result(words)


@dataclass(frozen=True)
class Changer(Caller):
    """A caller whose command changes something, which may take a while."""

    dry_run: DryRunOption = False
    progress: ProgressOption = ProgressKind.AUTO

    def stages(self) -> "Progress":
        """The stages of the command, on the API's machine."""
        host = urlsplit(self.address()).hostname or ""
        return progress(self.progress, "" if host in OWN_NAMES else host, as_json=self.as_json)


@contextlib.contextmanager
def journaled(name: str, **data: str) -> Iterator[None]:
    """Record in the journal what the block changes."""
    from wopr.core.settings import load_settings
    from wopr.ops.journal import Journal

    with Journal(load_settings().wopr_home).operation(name, **data):
        yield
