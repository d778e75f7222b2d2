"""A real bot process against a small gateway that speaks the OpenAI protocol over HTTP."""

from __future__ import annotations

import asyncio
import json
import math
import os
import signal
import sys
import zlib
from array import array
from base64 import b64encode
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import aiohttp
import pytest
from aiohttp import web

TOKEN = "bot-token-of-this-test"
SERVICE_KEY = "wopr_write_key-of-this-test"
WAIT_SECONDS = 60
DIMENSIONS = 96
WAV = b"RIFF\x24\x00\x00\x00WAVEfmt " + b"\x10\x00\x00\x00\x01\x00\x01\x00" + b"\x00" * 40


@dataclass
class Asked:
    """One request that the gateway received."""

    path: str
    headers: dict[str, str]
    body: dict[str, object]

    @property
    def system(self) -> str:
        return str(self.body["messages"][0]["content"])  # type: ignore[index]

    @property
    def talk(self) -> list[tuple[str, str]]:
        return [(item["role"], item["content"]) for item in self.body["messages"][1:]]  # type: ignore[index]


class Stream:
    """The gateway's side of one streamed answer."""

    def __init__(self, response: web.StreamResponse) -> None:
        self.response = response

    async def text(self, text: str) -> None:
        await self.raw(_chunk({"choices": [{"index": 0, "delta": {"content": text}}]}))

    async def end(self, reason: str = "stop") -> None:
        await self.raw(_chunk({"choices": [{"index": 0, "delta": {}, "finish_reason": reason}]}))
        await self.raw(_chunk({"choices": [], "usage": {"prompt_tokens": 7, "completion_tokens": 3}}))
        await self.raw(b"data: [DONE]\n\n")

    async def raw(self, data: bytes) -> None:
        await self.response.write(data)

    def cut(self) -> None:
        self.response._req.transport.abort()  # type: ignore[union-attr]


Answer = Callable[[web.Request, Asked], Awaitable[web.StreamResponse]]


@dataclass
class Gateway:
    """Answers with what it was asked; `chat` and `refusals` change that for a test."""

    url: str = ""
    asked: list[Asked] = field(default_factory=list)
    refusals: dict[str, list[web.Response | None]] = field(default_factory=dict)  # None: hang up
    script: Callable[[Stream, Asked], Awaitable[None]] | None = None
    transcript: str = "what did you hear"
    cut_off: asyncio.Event = field(default_factory=asyncio.Event)
    probed: asyncio.Event = field(default_factory=asyncio.Event)  # by a bot that has opened everything of its own

    def chats(self) -> list[Asked]:
        return [item for item in self.asked if item.path.endswith("/chat/completions")]

    def paths(self) -> list[str]:
        return [item.path.removeprefix("/v1") for item in self.asked]

    def application(self) -> web.Application:
        app = web.Application(client_max_size=2**26)
        app.add_routes(
            [
                web.get("/v1/models", self._models),
                web.post("/v1/chat/completions", self._chat),
                web.post("/v1/embeddings", self._embeddings),
                web.post("/v1/audio/speech", self._speech),
                web.post("/v1/audio/transcriptions", self._transcriptions),
            ]
        )
        return app

    async def _models(self, _: web.Request) -> web.Response:
        self.probed.set()
        return web.json_response({"data": []})

    async def _chat(self, request: web.Request) -> web.StreamResponse:
        asked = await self._take(request)
        refusal = self._refusal(request)
        if refusal is not None:
            return refusal
        response = web.StreamResponse(
            headers={"Content-Type": "text/event-stream", "x-request-id": f"req-{len(self.asked)}"}
        )
        await response.prepare(request)
        stream = Stream(response)
        try:
            if self.script is not None:
                await self.script(stream, asked)
            else:
                await stream.text("You said: ")
                for word in asked.talk[-1][1].split():
                    await stream.text(word + " ")
                await stream.end()
        except (asyncio.CancelledError, ConnectionError):
            self.cut_off.set()
            raise
        return response

    async def _embeddings(self, request: web.Request) -> web.StreamResponse:
        asked = await self._take(request)
        refusal = self._refusal(request)
        if refusal is not None:
            return refusal
        texts = asked.body["input"]
        assert isinstance(texts, list)
        rows = [{"index": n, "embedding": b64encode(embed(text)).decode()} for n, text in enumerate(texts)]
        return web.json_response({"data": rows, "usage": {"prompt_tokens": 1}}, headers={"x-request-id": "req-e"})

    async def _speech(self, request: web.Request) -> web.StreamResponse:
        asked = await self._take(request)
        sound = WAV + str(asked.body["input"]).encode()
        return self._refusal(request) or web.Response(body=sound, content_type="audio/wav")

    async def _transcriptions(self, request: web.Request) -> web.StreamResponse:
        form = await request.post()
        part = form["file"]
        assert isinstance(part, web.FileField)
        self.asked.append(
            Asked(request.path, dict(request.headers), {"model": form["model"], "sound": part.file.read()})
        )
        return self._refusal(request) or web.json_response({"text": self.transcript})

    async def _take(self, request: web.Request) -> Asked:
        asked = Asked(request.path, dict(request.headers), await request.json())
        self.asked.append(asked)
        return asked

    def _refusal(self, request: web.Request) -> web.Response | None:
        waiting = self.refusals.get(request.path.removeprefix("/v1"), [])
        if not waiting:
            return None
        refusal = waiting.pop(0)
        if refusal is None:
            assert request.transport is not None
            request.transport.abort()
            raise asyncio.CancelledError
        return refusal


def embed(text: str) -> bytes:
    """A bag of words as a vector: texts that share words are near to each other."""
    vector = [0.0] * DIMENSIONS
    for word in "".join(char if char.isalnum() else " " for char in text.lower()).split():
        vector[zlib.crc32(word.encode()) % DIMENSIONS] += 1.0
    norm = math.sqrt(sum(value * value for value in vector)) or 1.0
    return array("f", [value / norm for value in vector]).tobytes()


def _chunk(data: object) -> bytes:
    return b"data: " + json.dumps(data, ensure_ascii=False).encode() + b"\n\n"


@dataclass
class Event:
    """One event as a listener received it."""

    id: int
    name: str
    data: dict[str, object]


class Bot:
    """The process and its HTTP address."""

    def __init__(self, data: Path, environment: dict[str, str], session: aiohttp.ClientSession) -> None:
        self.data = data
        self.environment = environment
        self.session = session
        self.logs: list[dict[str, object]] = []
        self.process: asyncio.subprocess.Process | None = None
        self.url = ""
        self._reader: asyncio.Task[None] | None = None
        self._logged = asyncio.Event()

    async def start(self, wait_for: str = "ready") -> None:
        self.logs.clear()
        self.process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "wopr.bot", env=self.environment, stdout=asyncio.subprocess.PIPE
        )
        self._reader = asyncio.create_task(self._read())
        self.url = f"http://127.0.0.1:{(await self.logged('listening'))['port']}"
        await self.logged(wait_for)

    async def logged(self, event: str, times: int = 1) -> dict[str, object]:
        """Waits for a log line, or for so many of them since the start."""
        async with asyncio.timeout(WAIT_SECONDS):
            while True:
                found = [line for line in self.logs if line["event"] == event]
                if len(found) >= times:
                    return found[-1]
                assert self._reader is not None
                assert not self._reader.done(), f"the bot ended: {self.logs}"
                self._logged.clear()
                await self._logged.wait()

    async def stop(self, number: int = signal.SIGTERM) -> int:
        assert self.process is not None
        if self.process.returncode is None:
            self.process.send_signal(number)
        code = await self.process.wait()
        if self._reader is not None:
            await self._reader
        return code

    async def _read(self) -> None:
        assert self.process is not None
        assert self.process.stdout is not None
        async for line in self.process.stdout:
            self.logs.append(json.loads(line))
            self._logged.set()
        self._logged.set()

    async def call(self, method: str, path: str, **options: object) -> tuple[int, dict[str, object]]:
        async with self.session.request(method, self.url + path, **options) as response:  # type: ignore[arg-type]
            body = await response.read()
            return response.status, json.loads(body) if body else {}

    async def say(self, text: str, turn_id: str, conversation_id: str = "c1", **more: object) -> list[Event]:
        """Sends a message and waits for the end of the answer."""
        await self.post(text, turn_id, conversation_id, **more)
        return await self.events(turn_id)

    async def post(self, text: str | None, turn_id: str, conversation_id: str = "c1", **more: object) -> None:
        body = {"turn_id": turn_id, "conversation_id": conversation_id, "text": text, **more}
        status, answer = await self.call("POST", "/turns", json=body)
        assert (status, answer["turn_id"]) == (202, turn_id), answer

    async def events(self, turn_id: str, after: int = 0, stop_after: int | None = None) -> list[Event]:
        async with self.listen(turn_id, after) as events:
            heard = []
            async for event in events:
                heard.append(event)
                if stop_after is not None and len(heard) == stop_after:
                    break
            return heard

    @asynccontextmanager
    async def listen(self, turn_id: str, after: int = 0) -> AsyncIterator[AsyncIterator[Event]]:
        headers = {"Last-Event-ID": str(after)} if after else {}
        async with asyncio.timeout(WAIT_SECONDS):
            async with self.session.get(f"{self.url}/turns/{turn_id}/events", headers=headers) as response:
                assert response.status == 200
                yield _parse(response)


async def _parse(response: aiohttp.ClientResponse) -> AsyncIterator[Event]:
    fields: dict[str, str] = {}
    async for line in response.content:
        text = line.decode().rstrip("\n")
        if text:
            name, _, value = text.partition(": ")
            fields[name] = value
        elif "data" in fields:
            yield Event(int(fields["id"]), fields["event"], json.loads(fields["data"]))
            fields = {}


@pytest.fixture
async def gateway() -> AsyncIterator[Gateway]:
    """The gateway on a free port."""
    served = Gateway()
    runner = web.AppRunner(served.application(), access_log=None, shutdown_timeout=0.1, handler_cancellation=True)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    served.url = f"http://127.0.0.1:{runner.addresses[0][1]}/v1"
    yield served
    await runner.cleanup()


@pytest.fixture
async def session() -> AsyncIterator[aiohttp.ClientSession]:
    """A client that shows the bot's token."""
    async with aiohttp.ClientSession(headers={"Authorization": f"Bearer {TOKEN}"}) as opened:
        yield opened


@pytest.fixture
async def idle_bot(gateway: Gateway, session: aiohttp.ClientSession, tmp_path: Path) -> AsyncIterator[Bot]:
    """A bot that is configured but not started."""
    environment = {
        "PATH": os.environ["PATH"],
        "WOPR_BOT_ID": "bot-1",
        "WOPR_BOT_NAME": "Joshua",
        "WOPR_BOT_TOKEN": TOKEN,
        "WOPR_BOT_PORT": "0",
        "WOPR_BOT_DATA": str(tmp_path / "data"),
        "WOPR_GATEWAY_URL": gateway.url,
        "WOPR_SERVICE_KEY": SERVICE_KEY,
        "WOPR_BOT_MODEL": "handbook",
        "WOPR_BOT_EMBEDDING_MODEL": "minilm",
        "WOPR_BOT_PERSONA": "You are a calm computer of 1983.",
        "WOPR_BOT_INSTRUCTIONS": "Prefer short answers.",
    }
    bot = Bot(tmp_path / "data", environment, session)
    yield bot
    if bot.process is not None:
        await bot.stop(signal.SIGKILL)


@pytest.fixture
async def bot(idle_bot: Bot) -> Bot:
    """A bot that is ready."""
    await idle_bot.start()
    return idle_bot
