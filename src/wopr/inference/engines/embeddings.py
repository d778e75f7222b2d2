"""The embedding service: OpenAI's embeddings from a GGUF in this process, MiniLM when there is no other.

llama.cpp's own endpoint answers an input that is too long with 500 and takes no notice of `dimensions`; here both are
the client's error, named.
"""

from __future__ import annotations  # arrays can't be subscripted at run time before Python 3.12

import asyncio
import base64
import sys
from array import array
from collections.abc import Mapping, Sequence

from aiohttp import web

from wopr.inference.engines.llama import Embedded, Embedder, InputRefused
from wopr.inference.engines.minilm import ensure_minilm
from wopr.inference.engines.options import EngineOptions
from wopr.inference.engines.server import EngineError, Gate, read_json
from wopr.inference.weights import embedding_model

BODY_BYTES_MAX = 8 * 1024 * 1024
# OpenAI's own limit on one request.
INPUTS_MAX = 2048
# Between two portions a client that has left is noticed.
PORTION = 8
FORMATS = ("float", "base64")

Input = str | Sequence[int]


class EmbeddingEngine:
    """The `qwen` service of a node."""

    service = "qwen"
    body_bytes_max = BODY_BYTES_MAX

    def __init__(self, options: EngineOptions) -> None:
        self._options = options
        self.slots = options.parallel
        self._embedder: Embedder | None = None

    def load(self) -> str:
        """Open the model; the first start without any makes MiniLM's file."""
        path = embedding_model(self._options.models_path, self._options.model)
        self._embedder = Embedder(path or ensure_minilm(self._options.models_path), parallel=self._options.parallel)
        return self._embedder.name

    def models(self) -> Sequence[str]:
        return (self._embedder.name,) if self._embedder else ()

    def routes(self, gate: Gate) -> Sequence[web.RouteDef]:
        async def embeddings(request: web.Request) -> web.Response:
            body = await read_json(request)
            async with gate.slot():
                return web.json_response(await self._answer(body))

        return [web.post("/v1/embeddings", embeddings)]

    async def _answer(self, body: Mapping[str, object]) -> dict[str, object]:
        embedder = self._embedder
        if embedder is None:
            raise RuntimeError("asked before it was loaded")
        inputs = parse_inputs(body.get("input"))
        form = body.get("encoding_format") or "float"
        if form not in FORMATS:
            raise EngineError(400, "encoding_format must be float or base64.", param="encoding_format")
        _check_dimensions(body.get("dimensions"), embedder)
        vectors: list[array[float]] = []
        tokens = 0
        for start in range(0, len(inputs), PORTION):
            done = await _embed(embedder, inputs[start : start + PORTION], start)
            vectors.extend(done.vectors)
            tokens += done.tokens
        encode = _base64 if form == "base64" else list
        data = [{"object": "embedding", "index": i, "embedding": encode(v)} for i, v in enumerate(vectors)]
        usage = {"prompt_tokens": tokens, "total_tokens": tokens}
        return {"object": "list", "data": data, "model": embedder.name, "usage": usage}


def parse_inputs(raw: object) -> list[Input]:
    """OpenAI's four forms of `input` as a list: text, texts, token numbers, lists of token numbers."""
    if isinstance(raw, str):
        inputs: list[Input] = [raw]
    elif isinstance(raw, list) and raw and all(_is_token(item) for item in raw):
        inputs = [raw]
    elif isinstance(raw, list) and raw and all(isinstance(i, str) or _is_tokens(i) for i in raw):
        inputs = list(raw)
    else:
        raise EngineError(400, "input must be text, a list of texts, or lists of token numbers.", param="input")
    if len(inputs) > INPUTS_MAX:
        raise EngineError(400, f"input has {len(inputs)} entries; {INPUTS_MAX} are possible.", param="input")
    empty = next((i for i, item in enumerate(inputs) if not item), None)
    if empty is not None:
        raise EngineError(400, f"input[{empty}] is empty.", param="input")
    return inputs


async def _embed(embedder: Embedder, inputs: Sequence[Input], offset: int) -> Embedded:
    try:
        return await asyncio.to_thread(embedder.embed, inputs)
    except InputRefused as error:
        limit = f"at most {embedder.context_tokens} tokens each"
        message = f"One of the inputs from input[{offset}] on can't be embedded ({limit}): {error}."
        raise EngineError(400, message, param="input", code="context_length_exceeded") from error


def _check_dimensions(value: object, embedder: Embedder) -> None:
    if value is None or value == embedder.dimensions:
        return
    raise EngineError(
        400,
        f"{embedder.name} makes vectors of {embedder.dimensions} numbers and can't shorten them: leave dimensions out.",
        param="dimensions",
        code="unsupported_value",
    )


def _is_token(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


def _is_tokens(value: object) -> bool:
    return isinstance(value, list) and all(_is_token(item) for item in value)


def _base64(vector: array[float]) -> str:
    """Little-endian 32-bit floats, as OpenAI's clients unpack them."""
    if sys.byteorder == "big":
        vector = array("f", vector)
        vector.byteswap()
    return base64.b64encode(vector.tobytes()).decode()
