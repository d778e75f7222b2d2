"""The bot's one door to inference: an OpenAI client for the platform's gateway.

Every request carries the turn it belongs to, so that the receipt can name it. Requests are sent again as `patience.py`
decides, a chat even when its answer broke off in the middle: the turn then has several requests, and its receipt all of
them. Leaving any of these calls (a cancelled task) closes the connection, which stops the engine, and ends any waiting.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import io
import json
from array import array
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import TypeVar

import aiohttp

from wopr.bot import gateway_errors
from wopr.bot.contract import REQUEST_ID_HEADER, TURN_HEADER, Usage
from wopr.bot.gateway_errors import GatewayError, Retry
from wopr.bot.log import log
from wopr.bot.patience import Patience
from wopr.bot.retelling import Retelling
from wopr.bot.settings import Settings
from wopr.bot.sse import SseParser, StreamTooLarge

T = TypeVar("T")

CONNECT_SECONDS_MAX = 5.0
SILENCE_SECONDS_MAX = 120.0  # a long prompt on a slow engine is quiet for long
PROBE_SECONDS_MAX = 3.0
CONNECTIONS_MAX = 32
ERROR_BYTES_MAX = 64 * 1024
JSON_BYTES_MAX = 8 * 1024 * 1024
AUDIO_BYTES_MAX = 64 * 1024 * 1024
ANSWER_CHARS_MAX = 400_000

Message = Mapping[str, str]


@dataclass
class Spent:
    """What a turn has used so far; filled while requests run, so that a broken turn keeps it."""

    request_ids: list[str] = field(default_factory=list)
    prompt_tokens: int = 0
    completion_tokens: int = 0
    seen_usage: bool = False

    @property
    def usage(self) -> Usage | None:
        """Tokens of the chat requests, or None when the engine reported none."""
        return Usage(self.prompt_tokens, self.completion_tokens) if self.seen_usage else None


class Gateway:
    """Holds the pooled connections; `close` ends them."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=CONNECTIONS_MAX, force_close=False),
            cookie_jar=aiohttp.DummyCookieJar(),
            headers={"Authorization": f"Bearer {settings.service_key}", "User-Agent": "wopr-bot"},
            timeout=aiohttp.ClientTimeout(total=None, connect=None, sock_connect=CONNECT_SECONDS_MAX),
            read_bufsize=64 * 1024,
        )

    async def close(self) -> None:
        """Closes all connections."""
        await self._session.close()

    async def answers(self) -> bool:
        """Whether something speaks HTTP at the gateway's address; what it says about us is for the turns to meet."""
        try:
            timeout = aiohttp.ClientTimeout(total=PROBE_SECONDS_MAX)
            async with self._session.get(f"{self._settings.gateway_url}/models", timeout=timeout) as response:
                return response.status < 500
        except (aiohttp.ClientError, TimeoutError, OSError):
            return False

    async def chat(self, turn_id: str, messages: Sequence[Message], told: Retelling, spent: Spent) -> str:
        """Streams one answer into `told`; returns its finish reason. Raises `GatewayError`."""
        body = {
            "model": self._settings.model,
            "messages": messages,
            "stream": True,
            "stream_options": {"include_usage": True},
        }
        patience = _patience(answering=True)

        def hear(text: str) -> None:
            patience.heard()
            told.hear(text)

        async def attempt() -> str:
            told.begin()
            async with self._post("/chat/completions", turn_id, spent, json=body) as response:
                return await _read_chat(response, hear, spent)

        reason = await _with_retries(attempt, patience)
        told.end()
        return reason

    async def embed(
        self, turn_id: str, texts: Sequence[str], spent: Spent, waits: Callable[[float], None] | None = None
    ) -> list[array[float]]:
        """One vector (float32) for each text. `waits` is told the seconds before each wait for a gateway that is not
        there. Raises `GatewayError`."""
        body = {"model": self._settings.embedding_model, "input": list(texts), "encoding_format": "base64"}

        async def attempt() -> list[array[float]]:
            async with self._post("/embeddings", turn_id, spent, json=body) as response:
                return _vectors(_json(await _bounded(response, JSON_BYTES_MAX)), len(texts))

        return await _with_retries(attempt, _patience(), waits)

    async def transcribe(self, turn_id: str, audio: bytes, spent: Spent) -> str:
        """The words in a WAV file. Raises `GatewayError`, with code `no_speech` when there are none."""

        async def attempt() -> str:
            form = aiohttp.FormData()
            form.add_field("model", self._settings.transcription_model)
            form.add_field("response_format", "json")
            form.add_field("file", io.BytesIO(audio), filename="speech.wav", content_type="audio/wav")
            async with self._post("/audio/transcriptions", turn_id, spent, data=form) as response:
                return _clean(str(_json(await _bounded(response, JSON_BYTES_MAX)).get("text", ""))).strip()

        text = await _with_retries(attempt, _patience())
        if not text:
            raise gateway_errors.no_speech()
        return text

    async def speak(self, turn_id: str, text: str, spent: Spent) -> bytes:
        """The text as a WAV file. Raises `GatewayError`."""
        settings = self._settings
        body = {"model": settings.speech_model, "input": text, "voice": settings.voice, "response_format": "wav"}

        async def attempt() -> bytes:
            async with self._post("/audio/speech", turn_id, spent, json=body) as response:
                return await _bounded(response, AUDIO_BYTES_MAX)

        return await _with_retries(attempt, _patience())

    @asynccontextmanager
    async def _post(
        self, path: str, turn_id: str, spent: Spent, *, json: object = None, data: aiohttp.FormData | None = None
    ) -> AsyncIterator[aiohttp.ClientResponse]:
        """Sends one request; inside, the answer is a 2xx one. Turns every failure into a `GatewayError`."""
        headers = {TURN_HEADER: turn_id} if turn_id else {}
        timeout = aiohttp.ClientTimeout(total=None, sock_connect=CONNECT_SECONDS_MAX, sock_read=SILENCE_SECONDS_MAX)
        address = self._settings.gateway_url + path
        begun = False
        try:
            async with self._session.post(address, json=json, data=data, headers=headers, timeout=timeout) as response:
                if not 200 <= response.status < 300:
                    said = await response.content.read(ERROR_BYTES_MAX)
                    raise gateway_errors.from_answer(response.status, response.headers, said)
                begun = True
                if response.headers.get(REQUEST_ID_HEADER):
                    spent.request_ids.append(response.headers[REQUEST_ID_HEADER])
                yield response
        except (aiohttp.ConnectionTimeoutError, aiohttp.ClientConnectorError) as error:
            raise gateway_errors.unreachable(sent=False) from error
        except TimeoutError as error:
            raise gateway_errors.timed_out(SILENCE_SECONDS_MAX) from error
        except (aiohttp.ClientError, OSError) as error:
            raise (gateway_errors.stream_broken() if begun else gateway_errors.unreachable(sent=True)) from error


def _patience(*, answering: bool = False) -> Patience:
    return Patience(asyncio.get_running_loop().time, answering=answering)


async def _with_retries(
    attempt: Callable[[], Awaitable[T]], patience: Patience, waits: Callable[[float], None] | None = None
) -> T:
    while True:
        try:
            return await attempt()
        except GatewayError as error:
            pause = patience.pause(error)
            if pause is None:
                raise
            log("gateway_asked_again", "warning", code=error.body.code, in_seconds=pause)
            if waits is not None and error.retry is Retry.ABSENT:
                waits(pause)
        await asyncio.sleep(pause)


async def _read_chat(response: aiohttp.ClientResponse, on_text: Callable[[str], None], spent: Spent) -> str:
    parser, finish_reason, chars, done = SseParser(), "", 0, False
    async for piece in response.content.iter_any():
        try:
            events = parser.feed(piece)
        except StreamTooLarge as error:
            raise gateway_errors.malformed("an event that is too large") from error
        for event in events:
            if event.data == "[DONE]":
                done = True
                break
            chunk = _json(event.data)
            if "error" in chunk:
                raise gateway_errors.in_stream(chunk)
            text, reason = _choice(chunk)
            if text:
                chars += len(text)
                on_text(text)
            finish_reason = reason or finish_reason
            _count(chunk.get("usage"), spent)
        if done:
            break
        if chars > ANSWER_CHARS_MAX:
            return "length"
    # Some engines leave out [DONE]; a finish reason says as well that the answer is whole.
    if not done and not finish_reason:
        raise gateway_errors.stream_broken()
    return finish_reason or "stop"


def _choice(chunk: Mapping[str, object]) -> tuple[str, str]:
    choices = chunk.get("choices")
    choice = choices[0] if isinstance(choices, list) and choices else None
    if not isinstance(choice, dict):
        return "", ""
    delta = choice.get("delta")
    content = delta.get("content") if isinstance(delta, dict) else None
    reason = choice.get("finish_reason")
    return _clean(content) if isinstance(content, str) else "", reason if isinstance(reason, str) else ""


def _clean(text: str) -> str:
    """JSON may carry halves of a surrogate pair, which no UTF-8 and no database takes."""
    return text.encode("utf-8", "replace").decode()


def _count(usage: object, spent: Spent) -> None:
    if isinstance(usage, dict):
        counted = Usage.from_json(usage)
        spent.prompt_tokens += counted.prompt_tokens
        spent.completion_tokens += counted.completion_tokens
        spent.seen_usage = True


async def _bounded(response: aiohttp.ClientResponse, limit: int) -> bytes:
    body = bytearray()
    async for piece in response.content.iter_any():
        body += piece
        if len(body) > limit:
            raise gateway_errors.malformed("more than it should")
    return bytes(body)


def _json(text: str | bytes) -> dict[str, object]:
    try:
        data = json.loads(text)
    except ValueError as error:
        raise gateway_errors.malformed("something that isn't JSON") from error
    if not isinstance(data, dict):
        raise gateway_errors.malformed("JSON of an unexpected shape")
    return data


def _vectors(data: Mapping[str, object], count: int) -> list[array[float]]:
    rows = data.get("data")
    if not isinstance(rows, list) or len(rows) != count:
        raise gateway_errors.malformed("another number of vectors than asked for")
    placed = [row for row in rows if isinstance(row, dict) and isinstance(row.get("index"), int)]
    vectors = {row["index"]: _vector(row.get("embedding")) for row in placed}
    if set(vectors) != set(range(count)):
        raise gateway_errors.malformed("vectors without their places")
    return [vectors[place] for place in range(count)]


def _vector(value: object) -> array[float]:
    try:
        if isinstance(value, str):  # little-endian float32, as OpenAI sends it
            return array("f", base64.b64decode(value, validate=True))
        if isinstance(value, list):
            return array("f", value)
    except (ValueError, TypeError, OverflowError, binascii.Error) as error:
        raise gateway_errors.malformed("a vector that can't be read") from error
    raise gateway_errors.malformed("no vector")
