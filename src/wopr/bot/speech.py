"""Sound of answers, made once and kept."""

import asyncio
import sqlite3
from functools import partial
from pathlib import Path
from weakref import WeakValueDictionary

from wopr.bot import turns, voice
from wopr.bot.answer import SPEECH_SECONDS_MAX, Means
from wopr.bot.gateway import Spent
from wopr.bot.gateway_errors import GatewayError, timed_out
from wopr.bot.log import log
from wopr.bot.middleware import Refused


class SpeechFiles:
    """Lets two listeners of the same answer wait for one request to the gateway."""

    def __init__(self, means: Means) -> None:
        self._means = means
        self._locks: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()

    async def get(self, turn_id: str, text: str) -> Path:
        """The file with the answer's sound. Raises `GatewayError` and `Refused`."""
        path = voice.path_of(self._means.settings.data, turn_id)
        lock = self._locks.setdefault(turn_id, asyncio.Lock())
        async with lock:
            if not await asyncio.to_thread(path.exists):
                await self._make(turn_id, text)
        return path

    async def _make(self, turn_id: str, text: str) -> None:
        means = self._means
        try:
            async with asyncio.timeout(SPEECH_SECONDS_MAX):
                audio = await means.gateway.speak(turn_id, voice.speakable(text), Spent())
            await asyncio.to_thread(voice.keep, means.settings.data, turn_id, audio)
            await means.database.run(partial(turns.mark_audio, turn_id=turn_id))
        except GatewayError:
            raise
        except TimeoutError as error:
            raise timed_out(SPEECH_SECONDS_MAX) from error
        except (OSError, sqlite3.Error) as error:
            log("storage_failed", "error", error=type(error).__name__)
            raise Refused(
                503, "The bot can't write to its data folder.", "Check that the bot's disk isn't full, then try again."
            ) from error
