"""`wopr bots`: a customer's bots, through the API as one of its callers."""

import asyncio
import contextlib
import sys
from collections.abc import Awaitable, Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import typer

from wopr.cli.output import (
    FAILED,
    USAGE,
    DryRunOption,
    JsonOption,
    YesOption,
    confirm,
    dim,
    fail,
    json_document,
    json_line,
    result,
    say,
    table,
)

if TYPE_CHECKING:
    from wopr.client import ApiClient
    from wopr.client.conversation import Receipt
    from wopr.client.fleet import Bot

SETTLE_SECONDS_MAX = 30.0
POLL_SECONDS = 0.2
RECEIPT_SECONDS_MAX = 5.0
RECEIPT_QUIET_SECONDS = 1.0
MOVING = ("starting", "stopping", "deleting")

app = typer.Typer(help="Make bots, look after them, talk to them.", no_args_is_help=True, rich_markup_mode=None)

Result = TypeVar("Result")
Work = Callable[["ApiClient"], Awaitable[Result]]

BotArgument = Annotated[str, typer.Argument(help="The bot's name or id.", metavar="BOT")]
UrlOption = Annotated[str, typer.Option("--url", help="Address of the API; default: API_URL.")]
KeyOption = Annotated[str, typer.Option("--key", envvar="WOPR_KEY", help="Your API key, wopr_write_…")]
NoWaitOption = Annotated[bool, typer.Option("--no-wait", help="Do not wait until the bot has got there.")]


@app.command("list", epilog="Example: wopr bots list --json")
def list_(url: UrlOption = "", key: KeyOption = "", as_json: JsonOption = False) -> None:
    """List your bots with what they are doing."""
    found = _run(url, key, lambda api: api.fleet.bots())
    if as_json:
        json_document({"bots": [_document(bot) for bot in found]})
        return
    rows = [(bot.name, bot.state, bot.size, bot.model, f"${bot.price_month_usd}", bot.id) for bot in found]
    table(("name", "state", "size", "model", "a month", "id"), rows, "There are no bots yet: wopr bots create NAME")


app.command("ls", hidden=True, epilog="Example: wopr bots ls")(list_)


@app.command("show", epilog="Example: wopr bots show Ada")
def show(bot: BotArgument, url: UrlOption = "", key: KeyOption = "", as_json: JsonOption = False) -> None:
    """Show everything about one bot."""
    found = _run(url, key, lambda api: _find(api, bot))
    if as_json:
        json_document({"bot": _document(found)})
        return
    for name, value in _document(found).items():
        if value not in (None, ""):
            result(f"{name:<16} {value}")


@app.command("create", epilog="Example: wopr bots create Ada --template tutor")
def create(
    name: Annotated[str, typer.Argument(help="What it is called.")],
    template: Annotated[str, typer.Option(help="Character to start from: assistant, support, tutor, joshua …")] = "",
    persona: Annotated[str, typer.Option(help="Who it is, in your own words.")] = "",
    instructions: Annotated[str, typer.Option(help="How it works, in your own words.")] = "",
    model: Annotated[str, typer.Option(help="Model that answers; see wopr models list.")] = "",
    voice: Annotated[str, typer.Option(help="Voice that speaks.")] = "",
    size: Annotated[str, typer.Option(help="small, standard or large.")] = "",
    no_wait: NoWaitOption = False,
    dry_run: DryRunOption = False,
    url: UrlOption = "",
    key: KeyOption = "",
    as_json: JsonOption = False,
) -> None:
    """Make a bot; it starts at once."""
    named = {"template": template, "persona": persona, "instructions": instructions}
    named |= {"name": name, "model": model, "voice": voice, "size": size}
    wanted = {field: value for field, value in named.items() if value}
    if dry_run:
        _say_planned({"bot": wanted}, f"would make {name}", as_json=as_json)
        return

    async def make(api: "ApiClient") -> "Bot":
        made = await api.fleet.create(wanted)
        return made if no_wait else await _settled(api, made)

    with _journal("bots.create", bot=name):
        made = _run(url, key, make)
    _say_bot(made, as_json=as_json)


@app.command("start", epilog="Example: wopr bots start Ada")
def start(
    bot: BotArgument,
    no_wait: NoWaitOption = False,
    dry_run: DryRunOption = False,
    url: UrlOption = "",
    key: KeyOption = "",
    as_json: JsonOption = False,
) -> None:
    """Start a bot; one that runs goes on."""
    _change(_Change("start", bot, not no_wait, dry_run, as_json), url, key)


@app.command("stop", epilog="Example: wopr bots stop Ada")
def stop(
    bot: BotArgument,
    no_wait: NoWaitOption = False,
    dry_run: DryRunOption = False,
    url: UrlOption = "",
    key: KeyOption = "",
    as_json: JsonOption = False,
) -> None:
    """Stop a bot: it keeps its memory and costs nothing."""
    _change(_Change("stop", bot, not no_wait, dry_run, as_json), url, key)


@app.command("restart", epilog="Example: wopr bots restart Ada")
def restart(
    bot: BotArgument,
    no_wait: NoWaitOption = False,
    dry_run: DryRunOption = False,
    url: UrlOption = "",
    key: KeyOption = "",
    as_json: JsonOption = False,
) -> None:
    """Replace a bot's process by a fresh one."""
    _change(_Change("restart", bot, not no_wait, dry_run, as_json), url, key)


@app.command("rm", epilog="Example: wopr bots rm Ada --yes")
def rm(
    bot: BotArgument,
    yes: YesOption = False,
    dry_run: DryRunOption = False,
    url: UrlOption = "",
    key: KeyOption = "",
    as_json: JsonOption = False,
) -> None:
    """Delete a bot with everything it remembers."""
    found = _run(url, key, lambda api: _find(api, bot))
    if dry_run:
        _say_planned({"deleted": found.id}, f"would delete {found.name} ({found.id})", as_json=as_json)
        return
    confirm(f"Delete {found.name} with all its conversations and memories?", yes=yes)
    with _journal("bots.rm", bot=found.name, id=found.id):
        _run(url, key, lambda api: api.fleet.delete(found.id))
    if as_json:
        json_document({"deleted": found.id})
    else:
        result(f"{found.name} is deleted")


@app.command("logs", epilog="Example: wopr bots logs Ada --follow")
def logs(
    bot: BotArgument,
    tail: Annotated[int, typer.Option(min=0, max=5_000, help="How many of the last lines.")] = 200,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on with each new line until Ctrl-C.")] = False,
    url: UrlOption = "",
    key: KeyOption = "",
    as_json: JsonOption = False,
) -> None:
    """Show what a bot wrote, in words; stderr is marked with an exclamation mark. `--json` has the lines as written."""

    async def read(api: "ApiClient") -> None:
        found = await _find(api, bot)
        if follow:
            async for event in api.fleet.follow_logs(found.id, tail):
                _say_line(event.json(), as_json=as_json)
            return
        lines = [line.model_dump(mode="json") for line in await api.fleet.logs(found.id, tail)]
        if as_json:
            json_document({"lines": lines})
            return
        for line in lines:
            _say_line(line, as_json=False)

    _run(url, key, read)


@app.command("say", epilog='Example: wopr bots say Ada "Shall we play a game?"')
def say_(
    bot: BotArgument,
    words: Annotated[str, typer.Argument(help="What to say.", metavar="TEXT")],
    conversation: Annotated[str, typer.Option(help="Go on with this conversation; default: a new one.")] = "",
    dry_run: DryRunOption = False,
    url: UrlOption = "",
    key: KeyOption = "",
    as_json: JsonOption = False,
) -> None:
    """Say something to a bot and print its answer as it comes, then what it cost."""
    from wopr.client.conversation import Saying

    saying = Saying(text=words, conversation_id=conversation or None)

    async def talk(api: "ApiClient") -> bool:
        found = await _find(api, bot)
        if dry_run:
            _say_planned({"bot": found.id, "text": words}, f"would say that to {found.name}", as_json=as_json)
            return True
        started = await api.fleet.say(found.id, saying)
        last: dict[str, Any] = {}  # the final event, whose shape depends on its name
        final = ""
        async for event in api.fleet.turn_events(found.id, started.turn_id):
            if event.name == "delta" and not as_json:
                sys.stdout.write(str(event.json().get("text", "")))
                sys.stdout.flush()
            final, last = event.name, event.json()
        await _say_end(api, _Said(found.id, started.turn_id, started.conversation_id, final, last), as_json=as_json)
        return final == "completed"

    # What was said is between the customer and the bot: the journal learns only that something was.
    with contextlib.nullcontext() if dry_run else _journal("bots.say", bot=bot):
        completed = _run(url, key, talk)
    if not completed:
        raise typer.Exit(FAILED)


@dataclass(frozen=True)
class _Change:
    """One of start, stop and restart, and how it was asked for."""

    verb: str
    bot: str
    wait: bool
    dry_run: bool
    as_json: bool


@dataclass(frozen=True)
class _Said:
    """A turn that ended with the event `final`."""

    bot_id: str
    turn_id: str
    conversation_id: str
    final: str
    data: Mapping[str, Any]  # of the event, as JSON


def _change(change: _Change, url: str, key: str) -> None:
    found = _run(url, key, lambda api: _find(api, change.bot))
    if change.dry_run:
        planned = {"bot": found.id, "verb": change.verb}
        _say_planned(planned, f"would {change.verb} {found.name}, which is {found.state}", as_json=change.as_json)
        return

    async def act(api: "ApiClient") -> "Bot":
        verbs = {"start": api.fleet.start, "stop": api.fleet.stop, "restart": api.fleet.restart}
        changed = await verbs[change.verb](found.id)
        return await _settled(api, changed) if change.wait else changed

    with _journal(f"bots.{change.verb}", bot=found.name, id=found.id):
        changed = _run(url, key, act)
    _say_bot(changed, as_json=change.as_json)


async def _find(api: "ApiClient", wanted: str) -> "Bot":
    bots = await api.fleet.bots()
    found = next((bot for bot in bots if wanted == bot.id or wanted.lower() == bot.name.lower()), None)
    if found is None:
        names = ", ".join(bot.name for bot in bots)
        fail(f"There is no bot {wanted}.", remedy=f"Name one of {names}." if names else "wopr bots create NAME")
    return found


async def _settled(api: "ApiClient", bot: "Bot") -> "Bot":
    """The bot as it is once it stopped moving, or as it is when the patience ends."""
    deadline = asyncio.get_running_loop().time() + SETTLE_SECONDS_MAX
    while bot.state in MOVING and asyncio.get_running_loop().time() < deadline:
        await asyncio.sleep(POLL_SECONDS)
        bot = await api.fleet.bot(bot.id)
    return bot


async def _receipt(api: "ApiClient", said: _Said) -> "Receipt":
    """The receipt once it is whole: requests are settled a moment after their end, and the bot remembers what was said
    by one more that the turn does not name. Whole is what has the named ones and did not grow for a while."""
    clock = asyncio.get_running_loop().time
    expected = len(said.data.get("request_ids") or ())
    receipt = await api.fleet.receipt(said.bot_id, said.turn_id)
    grown = started = clock()
    while clock() < started + RECEIPT_SECONDS_MAX:
        if len(receipt.lines) >= expected and clock() >= grown + RECEIPT_QUIET_SECONDS:
            break
        await asyncio.sleep(POLL_SECONDS)
        later = await api.fleet.receipt(said.bot_id, said.turn_id)
        if len(later.lines) > len(receipt.lines):
            grown = clock()
        receipt = later
    return receipt


async def _say_end(api: "ApiClient", said: _Said, *, as_json: bool) -> None:
    receipt = await _receipt(api, said)
    if as_json:
        ids = {"turn_id": said.turn_id, "conversation_id": said.conversation_id}
        json_document({**ids, "state": said.final, **said.data, "cost_usd": str(receipt.total_usd)})
        return
    result("")
    if said.final == "failed":
        say(f"error: {said.data.get('message', 'The turn failed.')}")
        say(f"  fix: {said.data.get('remedy', 'Try again.')}")
    say(dim(f"${receipt.total_usd} · {len(receipt.lines)} requests · --conversation {said.conversation_id}"))


def _say_line(line: dict[str, Any], *, as_json: bool) -> None:  # one line of the log, as JSON
    if as_json:
        json_line(line)
        return
    from wopr.client.logwords import log_words

    mark = "!" if line.get("stream") == "stderr" else " "
    result(f"{str(line.get('at') or '')[:23]:<23} {mark} {log_words(str(line.get('text', '')))}")


def _say_bot(bot: "Bot", *, as_json: bool) -> None:
    if as_json:
        json_document({"bot": _document(bot)})
        return
    result(f"{bot.name} is {bot.state}" + (f": {bot.reason}" if bot.reason else ""))
    if bot.state == "failed":
        say(f"  {bot.last_error}")
        say(f"  fix: wopr bots logs {bot.name}")


def _say_planned(document: dict[str, Any], words: str, *, as_json: bool) -> None:  # whatever json can write
    if as_json:
        json_document({**document, "dry_run": True})
    else:
        result(words)


def _document(bot: "Bot") -> dict[str, Any]:  # whatever json can write
    return bot.model_dump(mode="json", exclude={"tenant_id", "tenant_name"})


@contextlib.contextmanager
def _journal(name: str, **data: str) -> Iterator[None]:
    from wopr.core.settings import load_settings
    from wopr.ops.journal import Journal

    with Journal(load_settings().wopr_home).operation(name, **data):
        yield


def _run(url: str, key: str, work: "Work[Result]") -> Result:
    from wopr.client import ApiClient
    from wopr.core.settings import load_settings

    if not key:
        fail(
            "No API key was given.",
            remedy="Make one on the Keys page, then: export WOPR_KEY=wopr_write_…",
            code=USAGE,
        )

    async def run() -> Result:
        async with ApiClient(url or load_settings().api_url, key=key) as api:
            return await work(api)

    return asyncio.run(run())
