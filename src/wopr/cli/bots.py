"""`wopr bots`: a customer's bots, through the API as one of its callers."""

import asyncio
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any

import typer

from wopr.cli import botimages
from wopr.cli.caller import Caller, Changer, journaled
from wopr.cli.options import shared
from wopr.cli.output import (
    ExitCodeOption,
    YesOption,
    confirm,
    fail,
    json_document,
    json_line,
    nothing_to_do,
    result,
    say,
    table,
)

if TYPE_CHECKING:
    from wopr.client import ApiClient
    from wopr.client.fleet import Bot

SETTLE_SECONDS_MAX = 30.0
POLL_SECONDS = 0.2
MOVING = ("starting", "stopping", "deleting")
# The state in which a verb has nothing to do; a restart always has.
THERE_ALREADY = {"start": "running", "stop": "stopped"}

app = typer.Typer(help="Make bots, look after them, talk to them.", no_args_is_help=True, rich_markup_mode=None)

BotArgument = Annotated[str, typer.Argument(help="The bot's name or id.", metavar="BOT")]
FollowOption = Annotated[bool, typer.Option("--follow", "-f", help="Go on with each new line until Ctrl-C.")]


@dataclass(frozen=True)
class Mover(Changer):
    """A caller who moves a bot to another state."""

    no_wait: Annotated[bool, typer.Option("--no-wait", help="Do not wait until the bot has got there.")] = False


@dataclass(frozen=True)
class Wish:
    """What a new bot shall be; what is empty is the API's to choose."""

    template: Annotated[str, typer.Option(help="Character to start from: assistant, support, tutor, joshua …")] = ""
    persona: Annotated[str, typer.Option(help="Who it is, in your own words.")] = ""
    instructions: Annotated[str, typer.Option(help="How it works, in your own words.")] = ""
    model: Annotated[str, typer.Option(help="Model that answers; see wopr models list.")] = ""
    voice: Annotated[str, typer.Option(help="Voice that speaks.")] = ""
    size: Annotated[str, typer.Option(help="small, standard or large.")] = ""


@app.command("list", epilog="Example: wopr bots list --json")
@shared
def list_(caller: Caller) -> None:
    """List your bots with what they are doing."""
    found = caller.run(lambda api: api.fleet.bots())
    if caller.as_json:
        json_document({"bots": [_document(bot) for bot in found]})
        return
    rows = [(bot.name, bot.state, bot.size, bot.model, f"${bot.price_month_usd}", bot.id) for bot in found]
    table(("name", "state", "size", "model", "a month", "id"), rows, "There are no bots yet: wopr bots create NAME")


app.command("ls", hidden=True, epilog="Example: wopr bots ls")(list_)


@app.command("show", epilog="Example: wopr bots show Ada")
@shared
def show(bot: BotArgument, caller: Caller) -> None:
    """Show everything about one bot."""
    found = caller.run(lambda api: _find(api, bot))
    if caller.as_json:
        json_document({"bot": _document(found)})
        return
    for name, value in _document(found).items():
        if value not in (None, ""):
            result(f"{name:<16} {value}")


@app.command("create", epilog="Example: wopr bots create Ada --template tutor")
@shared
def create(name: Annotated[str, typer.Argument(help="What it is called.")], wish: Wish, caller: Mover) -> None:
    """Make a bot; it starts at once."""
    wanted = {"name": name, **{field: value for field, value in vars(wish).items() if value}}
    if caller.dry_run:
        caller.say_planned({"bot": wanted}, f"would make {name}")
        return

    async def make(api: "ApiClient") -> "Bot":
        made = await api.fleet.create(wanted)
        return made if caller.no_wait else await _settled(api, made)

    with caller.stages().stage("", f"make {name}", keep=False), journaled("bots.create", bot=name):
        made = caller.run(make)
    _say_bot(made, as_json=caller.as_json)


@app.command("start", epilog="Example: wopr bots start Ada")
@shared
def start(bot: BotArgument, caller: Mover, exit_code: ExitCodeOption = False) -> None:
    """Start a bot; one that runs goes on."""
    _move("start", bot, caller, exit_code=exit_code)


@app.command("stop", epilog="Example: wopr bots stop Ada")
@shared
def stop(bot: BotArgument, caller: Mover, exit_code: ExitCodeOption = False) -> None:
    """Stop a bot: it keeps its memory and costs nothing."""
    _move("stop", bot, caller, exit_code=exit_code)


@app.command("restart", epilog="Example: wopr bots restart Ada")
@shared
def restart(bot: BotArgument, caller: Mover) -> None:
    """Replace a bot's process by a fresh one."""
    _move("restart", bot, caller, exit_code=False)


@app.command("rm", epilog="Example: wopr bots rm Ada --yes")
@shared
def rm(bot: BotArgument, caller: Changer, yes: YesOption = False, exit_code: ExitCodeOption = False) -> None:
    """Delete a bot with everything it remembers. One that is gone already is fine."""
    stages = caller.stages()
    bots = caller.run(lambda api: api.fleet.bots())
    found = _named(bots, bot)
    if found is None:
        _say_absent(bot, bots, as_json=caller.as_json)
        nothing_to_do(exit_code)
        return
    if caller.dry_run:
        caller.say_planned({"deleted": found.id}, f"would delete {found.name} ({found.id})")
        return
    confirm(f"Delete {found.name} with all its conversations and memories?", yes=yes)
    with (
        stages.stage("", f"delete {found.name}", keep=False),
        journaled("bots.rm", bot=found.name, id=found.id),
    ):
        caller.run(lambda api: api.fleet.delete(found.id))
    if caller.as_json:
        json_document({"deleted": found.id})
    else:
        result(f"{found.name} is deleted")


for alias in ("remove", "delete"):
    app.command(alias, hidden=True, epilog=f"Example: wopr bots {alias} Ada --yes")(rm)


@app.command("logs", epilog="Example: wopr bots logs Ada --follow")
@shared
def logs(
    bot: BotArgument,
    caller: Caller,
    tail: Annotated[int, typer.Option(min=0, max=5_000, help="How many of the last lines.")] = 200,
    follow: FollowOption = False,
) -> None:
    """Show what a bot wrote, in words; stderr is marked with an exclamation mark. `--json` has the lines as written."""

    async def read(api: "ApiClient") -> None:
        found = await _find(api, bot)
        if follow:
            async for event in api.fleet.follow_logs(found.id, tail):
                _say_line(event.json(), as_json=caller.as_json)
            return
        lines = [line.model_dump(mode="json") for line in await api.fleet.logs(found.id, tail)]
        if caller.as_json:
            json_document({"lines": lines})
            return
        for line in lines:
            _say_line(line, as_json=False)

    caller.run(read)


@app.command("say", epilog='Example: wopr bots say Ada "Shall we play a game?"')
@shared
def say_(
    bot: BotArgument,
    words: Annotated[str, typer.Argument(help="What to say.", metavar="TEXT")],
    caller: Changer,
    conversation: Annotated[str, typer.Option(help="Go on with this conversation; default: a new one.")] = "",
) -> None:
    """Say something to a bot and print its answer as it comes, then what it cost."""
    from wopr.cli.talk import talk

    stages = caller.stages()
    found = caller.run(lambda api: _find(api, bot))
    if caller.dry_run:
        caller.say_planned({"bot": found.id, "text": words}, f"would say that to {found.name}")
        return
    # What was said is between the customer and the bot: the journal learns only that something was.
    with journaled("bots.say", bot=bot):
        talk(caller, found, words, conversation, stages)


app.add_typer(botimages.app, name="image")
app.command("pin", epilog=botimages.PIN_EXAMPLES)(botimages.pin)


def _move(verb: str, bot: str, caller: Mover, *, exit_code: bool) -> None:
    """Start, stop or restart."""
    stages = caller.stages()
    found = caller.run(lambda api: _find(api, bot))
    if found.state == found.desired == THERE_ALREADY.get(verb):
        _say_bot(found, as_json=caller.as_json, already=True)
        nothing_to_do(exit_code)
        return
    if caller.dry_run:
        caller.say_planned({"bot": found.id, "verb": verb}, f"would {verb} {found.name}, which is {found.state}")
        return

    async def act(api: "ApiClient") -> "Bot":
        verbs = {"start": api.fleet.start, "stop": api.fleet.stop, "restart": api.fleet.restart}
        changed = await verbs[verb](found.id)
        return changed if caller.no_wait else await _settled(api, changed)

    with (
        stages.stage("", f"{verb} {found.name}", keep=False) as stage,
        journaled(f"bots.{verb}", bot=found.name, id=found.id),
    ):
        changed = caller.run(act)
        if changed.state == "failed":
            stage.failed(changed.last_error or changed.reason or "")
    _say_bot(changed, as_json=caller.as_json)


async def _find(api: "ApiClient", wanted: str) -> "Bot":
    bots = await api.fleet.bots()
    found = _named(bots, wanted)
    if found is None:
        fail(f"There is no bot {wanted}.", remedy=_others(bots) or "wopr bots create NAME")
    return found


def _named(bots: "list[Bot]", wanted: str) -> "Bot | None":
    return next((bot for bot in bots if wanted == bot.id or wanted.lower() == bot.name.lower()), None)


def _others(bots: "list[Bot]") -> str:
    return f"Name one of {', '.join(bot.name for bot in bots)}." if bots else ""


def _say_absent(wanted: str, bots: "list[Bot]", *, as_json: bool) -> None:
    if as_json:
        json_document({"deleted": None})
    else:
        say(f"nothing to do: there is no bot {wanted}. {_others(bots)}".rstrip())


async def _settled(api: "ApiClient", bot: "Bot") -> "Bot":
    """The bot as it is once it stopped moving, or as it is when the patience ends."""
    deadline = asyncio.get_running_loop().time() + SETTLE_SECONDS_MAX
    while bot.state in MOVING and asyncio.get_running_loop().time() < deadline:
        await asyncio.sleep(POLL_SECONDS)
        bot = await api.fleet.bot(bot.id)
    return bot


def _say_line(line: dict[str, Any], *, as_json: bool) -> None:  # one line of the log, as JSON
    if as_json:
        json_line(line)
        return
    from wopr.client.logwords import log_words

    mark = "!" if line.get("stream") == "stderr" else " "
    result(f"{str(line.get('at') or '')[:23]:<23} {mark} {log_words(str(line.get('text', '')))}")


def _say_bot(bot: "Bot", *, as_json: bool, already: bool = False) -> None:
    """How the bot is now; one that failed ends the command with 1, and one that still tries says why it has to."""
    if as_json:
        json_document({"bot": _document(bot)})
    else:
        result(f"{bot.name} is {bot.state}{' already' if already else ''}" + (f": {bot.reason}" if bot.reason else ""))
    if bot.state == "failed":
        fail(bot.last_error or bot.reason or f"{bot.name} does not start.", remedy=f"wopr bots logs {bot.name}")
    if bot.state == "starting" and bot.last_error:
        say(f"what went wrong last: {bot.last_error}")


def _document(bot: "Bot") -> dict[str, Any]:  # whatever json can write
    return bot.model_dump(mode="json", exclude={"tenant_id", "tenant_name", "operator_error"})
