"""`wopr bots say`: one turn with a bot: its answer as it comes, then the receipt."""

import asyncio
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import typer

from wopr.cli.caller import Changer
from wopr.cli.output import FAILED, complain, dim, json_document, result, say

if TYPE_CHECKING:
    from wopr.cli.progress import Progress
    from wopr.client import ApiClient
    from wopr.client.conversation import Receipt, Saying
    from wopr.client.fleet import Bot

POLL_SECONDS = 0.2
RECEIPT_SECONDS_MAX = 5.0
RECEIPT_QUIET_SECONDS = 1.0


@dataclass(frozen=True)
class Said:
    """A turn that ended with the event `final`."""

    bot_id: str
    turn_id: str
    conversation_id: str
    final: str
    data: Mapping[str, Any]  # of the event, as JSON


def talk(caller: Changer, bot: "Bot", words: str, conversation: str, stages: "Progress") -> None:
    """Say `words` and write what comes back; the command ends with 1 when the turn did not complete."""
    from wopr.client.conversation import Saying

    saying = Saying(text=words, conversation_id=conversation or None)

    async def both(api: "ApiClient") -> Said:
        said = await _turn(api, bot, saying, stages, as_json=caller.as_json)
        await _say_end(api, said, as_json=caller.as_json)
        return said

    if caller.run(both).final != "completed":
        raise typer.Exit(FAILED)


async def _turn(api: "ApiClient", bot: "Bot", saying: "Saying", stages: "Progress", *, as_json: bool) -> Said:
    last: dict[str, Any] = {}  # the final event, whose shape depends on its name
    final = ""
    with stages.stage("", f"{bot.name} thinks", keep=False) as waiting:
        started = await api.fleet.say(bot.id, saying)
        async for event in api.fleet.turn_events(bot.id, started.turn_id):
            final, last = event.name, event.json()
            if final == "failed":
                waiting.failed(str(last.get("message", "")))
            if final == "restarted" and not as_json:
                sys.stdout.write("\n\n")  # what is written can't be taken back
                sys.stdout.flush()
                say(dim("The answer broke off; what follows is another one, from its beginning."))
            if final == "delta":
                waiting.done()
                if not as_json:
                    sys.stdout.write(str(last.get("text", "")))
                    sys.stdout.flush()
    return Said(bot.id, started.turn_id, started.conversation_id, final, last)


async def _say_end(api: "ApiClient", said: Said, *, as_json: bool) -> None:
    receipt = await _receipt(api, said)
    if as_json:
        ids = {"turn_id": said.turn_id, "conversation_id": said.conversation_id}
        json_document({**ids, "state": said.final, **said.data, "cost_usd": str(receipt.total_usd)})
        return
    result("")
    say(dim(f"${receipt.total_usd} · {len(receipt.lines)} requests · --conversation {said.conversation_id}"))
    if said.final == "failed":
        complain(said.data.get("message", "The turn failed."), remedy=said.data.get("remedy", "Try again."))


async def _receipt(api: "ApiClient", said: Said) -> "Receipt":
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
