"""Makes finished turns recallable, after the answer and never before it.

It works off what the database says is missing, so that turns whose embedding failed, or that ended while the process
died, are caught up later.
"""

import asyncio
import contextlib
import sqlite3
from functools import partial

from wopr.bot import recall
from wopr.bot.answer import Means
from wopr.bot.conversations import Exchange
from wopr.bot.gateway import Spent
from wopr.bot.gateway_errors import GatewayError
from wopr.bot.log import log
from wopr.bot.recall import Memory

BATCH = 8
PAUSE_SECONDS_MIN = 5.0
PAUSE_SECONDS_MAX = 600.0


async def remember_forever(means: Means, turn_finished: asyncio.Event) -> None:
    """Runs until cancelled: at the start, after each turn, and again with growing pauses while the gateway refuses."""
    pause = PAUSE_SECONDS_MIN
    while means.settings.embedding_model:
        turn_finished.clear()
        try:
            await _catch_up(means)
        except GatewayError as error:
            log("remember_postponed", "warning", code=error.body.code, again_in_seconds=pause)
        except sqlite3.Error as error:
            log("remember_postponed", "error", error=str(error), again_in_seconds=pause)
        else:
            pause = PAUSE_SECONDS_MIN
            await turn_finished.wait()
            continue
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(pause):
                await turn_finished.wait()
        pause = min(pause * 2, PAUSE_SECONDS_MAX)


async def _catch_up(means: Means) -> None:
    while missing := await means.database.run(partial(recall.to_remember, limit=BATCH)):
        for turn_id, exchange in missing:
            await _remember(means, turn_id, exchange)


async def _remember(means: Means, turn_id: str, exchange: Exchange) -> None:
    model, parts = means.settings.embedding_model, _parts(exchange)
    try:
        vectors = await means.gateway.embed(turn_id, [text for _, text in parts], Spent())
    except GatewayError as error:
        if error.retryable or error.http_status in (402, 502, 504):
            raise
        # The engine refuses this very text; asking for ever would only cost.
        log("remember_refused", "warning", turn_id=turn_id, code=error.body.code)
        vectors = []
    memories = [Memory(part, vector) for (part, _), vector in zip(parts, vectors, strict=False)]
    await means.database.run(partial(recall.remember, turn_seq=exchange.turn_seq, model=model, memories=memories))
    log("remembered", turn_id=turn_id, vectors=len(memories))


def _parts(exchange: Exchange) -> list[tuple[str, str]]:
    parts = [("user", exchange.user_text), ("assistant", exchange.text)]
    return [(part, text[: recall.EMBEDDED_CHARS_MAX]) for part, text in parts if text.strip()]
