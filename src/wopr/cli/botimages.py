"""`wopr bots image` and `wopr bots pin`: which image bots run on, for administrators of the platform."""

from typing import TYPE_CHECKING, Annotated

import typer

from wopr.cli.caller import Caller, Changer, journaled
from wopr.cli.options import shared
from wopr.cli.output import USAGE, ExitCodeOption, fail, json_document, nothing_to_do, result, table

if TYPE_CHECKING:
    from wopr.client import ApiClient
    from wopr.client.fleet import Bot, BotImage

CHANNELS = ("stable", "canary")
SHOWN = 71  # sha256: and its digits
PIN_EXAMPLES = "Example: wopr bots pin Ada --release"

app = typer.Typer(help="Which image the bots of a channel run on.", no_args_is_help=True, rich_markup_mode=None)

ChannelArgument = Annotated[str, typer.Argument(help="stable, or canary, whose bots are the first.", metavar="CHANNEL")]
ImageArgument = Annotated[str, typer.Argument(help="The image with its digest, NAME@sha256:…", metavar="IMAGE")]


@app.command("list", epilog="Example: wopr bots image list --json")
@shared
def list_(caller: Caller) -> None:
    """List the bots' images: which channel wants them, how many bots run on them, which failed, who is moving."""
    found = caller.run(lambda api: api.fleet.images())
    if caller.as_json:
        json_document(found.model_dump(mode="json"))
        return
    rows = [(" ".join(one.channels), one.bots, _verdict(one), one.image[-SHOWN:]) for one in found.images]
    table(("channel", "bots", "verdict", "image"), rows, "No image is set, and no bot has one.")
    if found.updates:
        moves = [(one.bot_id, one.stage, one.image_to[-SHOWN:], one.error) for one in found.updates]
        result("")
        table(("bot", "update", "to", "error"), moves, "")


app.command("ls", hidden=True, epilog="Example: wopr bots image ls")(list_)


@app.command("set", epilog="Example: wopr bots image set canary ghcr.io/wopr-network/wopr-bot@sha256:…")
@shared
def set_(channel: ChannelArgument, image: ImageArgument, caller: Changer, exit_code: ExitCodeOption = False) -> None:
    """Let the bots of a channel move to an image, a few at a time. One that failed before is tried again."""
    if channel not in CHANNELS:
        fail(f"There is no channel {channel}.", remedy=f"Use {' or '.join(CHANNELS)}.", code=USAGE)
    if caller.dry_run:
        caller.say_planned({"channel": channel, "image": image}, f"would let {channel} bots move to {image}")
        return
    with (
        caller.stages().stage("", f"set {channel}", keep=False),
        journaled("bots.image", channel=channel, image=image),
    ):
        changed = caller.run(lambda api: api.fleet.set_image(channel, image))
    already = "" if changed else " already"
    _say(caller, changed, f"{channel} bots move to {image}{already}", channel=channel, image=image)
    if not changed:
        nothing_to_do(exit_code)


@shared
def pin(
    bot: Annotated[str, typer.Argument(help="The bot's id, or its name when only one has it.", metavar="BOT")],
    caller: Changer,
    image: Annotated[str, typer.Argument(help="The image with its digest, NAME@sha256:…", metavar="[IMAGE]")] = "",
    release: Annotated[bool, typer.Option("--release", help="Put it back on a channel.")] = False,
    channel: Annotated[str, typer.Option(help="The channel that --release means: stable or canary.")] = "stable",
    exit_code: ExitCodeOption = False,
) -> None:
    """Keep one bot on an image, whatever its channel gets; or let it follow a channel again with --release."""
    if bool(image) == release:
        fail("Name an image, or say --release.", remedy=f"wopr bots pin {bot} IMAGE", code=USAGE)
    if channel not in CHANNELS:
        fail(f"There is no channel {channel}.", remedy=f"Use {' or '.join(CHANNELS)}.", code=USAGE)
    found = caller.run(lambda api: _find(api, bot))
    wanted = channel if release else "pinned"
    words = f"{found.name} follows {channel}" if release else f"{found.name} stays on {image}"
    if caller.dry_run:
        caller.say_planned({"bot": found.id, "channel": wanted, "image": image or None}, f"would see that {words}")
        return
    with (
        caller.stages().stage("", f"pin {found.name}", keep=False),
        journaled("bots.pin", bot=found.name, id=found.id, channel=wanted, image=image),
    ):
        changed = caller.run(lambda api: api.fleet.set_channel(found.id, wanted, image or None))
    _say(caller, changed, f"{words}{'' if changed else ' already'}", bot=found.id, channel=wanted, image=image or None)
    if not changed:
        nothing_to_do(exit_code)


def _say(caller: Caller, changed: bool, words: str, **document: str | None) -> None:
    if caller.as_json:
        json_document({**document, "changed": changed})
    else:
        result(words)


def _verdict(image: "BotImage") -> str:
    if image.quarantined:
        return f"quarantined: {image.last_error}"
    return f"{image.failures} failed: {image.last_error}" if image.failures else "good" if image.bots else ""


async def _find(api: "ApiClient", wanted: str) -> "Bot":
    """A bot of any customer."""
    named: list[Bot] = []
    cursor: str | None = None
    while True:
        page = await api.fleet.admin_bots(cursor)
        for bot in page.bots:
            if bot.id == wanted:
                return bot
            if bot.name.lower() == wanted.lower():
                named.append(bot)
        cursor = page.next_cursor
        if cursor is None:
            break
    if not named:
        fail(f"There is no bot {wanted}.", remedy="Its id is on the page Bots for administrators.")
    if len(named) > 1:
        fail(f"{len(named)} bots are named {wanted}.", remedy=f"Give one of the ids {', '.join(b.id for b in named)}.")
    return named[0]
