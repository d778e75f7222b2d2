"""The handbook model: serves the text API on a machine without a model, from our handbook and the conversation.

It holds MiniLM in its own process (about 60 MB) rather than asking the embedding service, so that one engine's fall
never changes another's answers. Without llama.cpp it searches by shared words alone.
"""

from __future__ import annotations  # arrays can't be subscripted at run time before Python 3.12

import asyncio
import json
import uuid
from array import array
from collections.abc import AsyncIterator, Sequence

import structlog
from aiohttp import web

from wopr.core.errors import NotConfigured
from wopr.inference.engines.answer import Handbook
from wopr.inference.engines.llama import Embedder
from wopr.inference.engines.minilm import ensure_minilm
from wopr.inference.engines.openai_text import Envelope, Json, Wanted, Written, parse, write
from wopr.inference.engines.options import EngineOptions
from wopr.inference.engines.pages import packaged_vectors, read_handbook, wordings_of
from wopr.inference.engines.search import Searcher
from wopr.inference.engines.server import Gate, epoch_seconds, read_json

MODEL = "handbook"
VECTORS_FILE = "handbook.vectors"
CONTEXT_TOKENS = 256
# A slot is mostly held by writing at a reader's pace, which costs next to nothing.
SLOTS = 32
BODY_BYTES_MAX = 4 * 1024 * 1024
# A pace that an eye can follow, and that leaves something to cancel: 100 words a second.
TOKEN_SECONDS = 0.01

log = structlog.get_logger(__name__)


class HandbookEngine:
    """The text service without a model."""

    service = "llama"
    slots = SLOTS
    body_bytes_max = BODY_BYTES_MAX

    def __init__(self, options: EngineOptions, token_seconds: float = TOKEN_SECONDS) -> None:
        self._options = options
        self._token_seconds = token_seconds
        self._handbook: Handbook | None = None
        # The searcher remembers vectors, and one embedding at a time is as quick as two on few cores.
        self._one_at_a_time = asyncio.Lock()

    def load(self) -> str:
        """Read the handbook and its vectors, which come with the package and are made anew only for changed pages."""
        passages = read_handbook()
        searcher = Searcher(self._embeds())
        searcher.prepare(wordings_of(passages), packaged_vectors(), self._options.models_path / VECTORS_FILE)
        self._handbook = Handbook(passages, searcher)
        return MODEL

    def models(self) -> Sequence[str]:
        return (MODEL,)

    def routes(self, gate: Gate) -> Sequence[web.RouteDef]:
        async def chat(request: web.Request) -> web.StreamResponse:
            return await self._answer(request, gate, chat=True)

        async def completions(request: web.Request) -> web.StreamResponse:
            return await self._answer(request, gate, chat=False)

        return [web.post("/v1/chat/completions", chat), web.post("/v1/completions", completions)]

    def _embeds(self) -> _Embeds | None:
        try:
            return _Embeds(Embedder(ensure_minilm(self._options.models_path), context_tokens=CONTEXT_TOKENS))
        except NotConfigured as error:
            log.warning("handbook.words_only", reason=error.message, remedy=error.remedy)
            return None

    async def _answer(self, request: web.Request, gate: Gate, *, chat: bool) -> web.StreamResponse:
        wanted = parse(await read_json(request), chat=chat)
        async with gate.slot():
            written = await self._write(wanted)
            kind = "chatcmpl" if chat else "cmpl"
            envelope = Envelope(f"{kind}-{uuid.uuid4().hex}", epoch_seconds(), MODEL, chat)
            if not wanted.stream:
                return web.json_response(envelope.whole(written, wanted.prompt_tokens))
            return await self._stream(request, envelope, wanted, written)

    async def _write(self, wanted: Wanted) -> list[Written]:
        """Every choice in order, the n of the first prompt first; they are equal, since the model is deterministic."""
        if self._handbook is None:
            raise RuntimeError("asked before it was loaded")
        texts = []
        for conversation in wanted.conversations:
            async with self._one_at_a_time:
                work = asyncio.ensure_future(asyncio.to_thread(self._handbook.answer, conversation))
                try:
                    texts.append(await asyncio.shield(work))
                finally:
                    # A client that leaves must not let the next one in while the thread is still at it.
                    await asyncio.wait([work])
        return [write(text, wanted) for text in texts for _ in range(wanted.choices)]

    async def _stream(
        self, request: web.Request, envelope: Envelope, wanted: Wanted, written: Sequence[Written]
    ) -> web.StreamResponse:
        response = web.StreamResponse(headers={"content-type": "text/event-stream", "cache-control": "no-cache"})
        await response.prepare(request)
        async for chunk in self._chunks(envelope, written):
            await response.write(_event(json.dumps(chunk, ensure_ascii=False, separators=(",", ":"))))
        if wanted.usage_in_stream:
            await response.write(
                _event(json.dumps(envelope.counts(written, wanted.prompt_tokens), separators=(",", ":")))
            )
        await response.write(_event("[DONE]"))
        await response.write_eof()
        return response

    async def _chunks(self, envelope: Envelope, written: Sequence[Written]) -> AsyncIterator[Json]:
        """All choices side by side, one token each in turn, as engines that sample them together do."""
        for index in range(len(written)):
            if envelope.chat:
                yield envelope.piece(index, "", first=True)
        for position in range(max(len(choice.tokens) for choice in written)):
            for index, choice in enumerate(written):
                if position < len(choice.tokens):
                    yield envelope.piece(index, choice.tokens[position])
            await asyncio.sleep(self._token_seconds)
        for index, choice in enumerate(written):
            yield envelope.piece(index, "", finish=choice.finish_reason)


class _Embeds:
    """The embedder in the searcher's shape."""

    def __init__(self, embedder: Embedder) -> None:
        self._embedder = embedder
        self.name = embedder.name

    def vectors(self, texts: Sequence[str]) -> Sequence[array[float]]:
        return self._embedder.embed([text or " " for text in texts]).vectors


def _event(data: str) -> bytes:
    return f"data: {data}\n\n".encode()
