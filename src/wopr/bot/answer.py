"""How one turn is answered: listen, recall, ask the model, speak."""

import asyncio
import sqlite3
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from pathlib import Path

from wopr.bot import conversations, prompt, recall, voice
from wopr.bot.contract import TurnRequest, TurnState
from wopr.bot.conversations import Exchange
from wopr.bot.database import Database
from wopr.bot.gateway import Gateway
from wopr.bot.gateway_errors import GatewayError, Retry
from wopr.bot.live_turn import LiveTurn
from wopr.bot.log import log
from wopr.bot.prompt import Identity
from wopr.bot.recall import Recalled
from wopr.bot.settings import Settings
from wopr.bot.turns import Outcome

RECALL_SECONDS_MAX = 1.5  # an answer without memories beats a late one
SPEECH_SECONDS_MAX = 60.0
CONTEXT_TOKENS_MIN = 200


@dataclass(frozen=True)
class Means:
    """What answering needs."""

    settings: Settings
    database: Database
    gateway: Gateway


async def answer(means: Means, live: LiveTurn, request: TurnRequest, audio: bytes | None) -> Outcome:
    """Runs the turn and returns how it ended. Raises `GatewayError`; what was said until then is in `live`."""
    question = request.text or ""
    if audio is not None:
        question = await means.gateway.transcribe(request.turn_id, audio, live.spent)
        live.transcript(question)
    history = await means.database.run(partial(conversations.history, turn_seq=live.turn_seq))
    recalled = await _recall(means, live, request.turn_id, question, history)
    finish_reason = await _chat(means, live, request.turn_id, question, (history, recalled))
    has_audio = request.speak and await _speak(means, live, request.turn_id)
    return Outcome(
        TurnState.COMPLETED,
        text=live.text,
        finish_reason=finish_reason,
        usage=live.spent.usage,
        request_ids=tuple(live.spent.request_ids),
        has_audio=has_audio,
    )


def read_identity(settings: Settings) -> Identity:
    """Settings and files, read for every turn so that an edited file counts at once."""
    files = {name: _read(settings.data / name) for name in prompt.FILES}
    return Identity(settings.name, settings.persona, settings.instructions, files)


async def _recall(
    means: Means, live: LiveTurn, turn_id: str, question: str, history: Sequence[Exchange]
) -> list[Recalled]:
    model = means.settings.embedding_model
    if not model or await means.database.run(partial(recall.count, model=model)) == 0:
        return []
    in_sight = {exchange.turn_seq for exchange in prompt.window(history, question)} | {live.turn_seq}
    try:
        async with asyncio.timeout(RECALL_SECONDS_MAX) as limit:
            texts = [question[: recall.EMBEDDED_CHARS_MAX]]
            query = (await means.gateway.embed(turn_id, texts, live.spent, partial(_prolong, limit)))[0]
            return await means.database.run(partial(recall.search, model=model, query=query, leave_out=in_sight))
    except GatewayError as error:
        if error.retry is Retry.ABSENT:
            raise  # The answer itself would wait as long again, and in vain.
        log("recall_skipped", "warning", turn_id=turn_id, code=error.body.code)
    except (TimeoutError, sqlite3.Error) as error:
        log("recall_skipped", "warning", turn_id=turn_id, error=type(error).__name__)
    return []


def _prolong(limit: asyncio.Timeout, seconds: float) -> None:
    """While the gateway is away the answer can't begin either, so that recalling holds nothing up."""
    if not limit.expired():
        limit.reschedule((limit.when() or 0.0) + seconds)


async def _chat(
    means: Means, live: LiveTurn, turn_id: str, question: str, memory: tuple[Sequence[Exchange], Sequence[Recalled]]
) -> str:
    """Asks with less and less history when the model's context turns out to be smaller than our budget."""
    history, recalled = memory
    identity = await asyncio.to_thread(read_identity, means.settings)
    system = prompt.system_prompt(identity, recalled, datetime.now(UTC).date().isoformat())
    budget = prompt.HISTORY_TOKENS_MAX
    while True:
        messages = prompt.messages(system, prompt.window(history, question, budget), question)
        try:
            return await means.gateway.chat(turn_id, messages, live.answer, live.spent)
        except GatewayError as error:
            if not error.context_exceeded or budget < CONTEXT_TOKENS_MIN or len(messages) <= 2:
                raise
        budget //= 2


async def _speak(means: Means, live: LiveTurn, turn_id: str) -> bool:
    """A missing voice never spoils an answer that is there in writing."""
    text = voice.speakable(live.text)
    if not text:
        return False
    try:
        async with asyncio.timeout(SPEECH_SECONDS_MAX):
            audio = await means.gateway.speak(turn_id, text, live.spent)
        await asyncio.to_thread(voice.keep, means.settings.data, turn_id, audio)
    except GatewayError as error:
        log("speech_failed", "warning", turn_id=turn_id, code=error.body.code)
        return False
    except (TimeoutError, OSError) as error:
        log("speech_failed", "warning", turn_id=turn_id, error=type(error).__name__)
        return False
    return True


def _read(path: Path) -> str:
    try:
        with path.open(encoding="utf-8", errors="replace") as file:
            return file.read(prompt.FILE_CHARS_MAX)
    except OSError:
        return ""
