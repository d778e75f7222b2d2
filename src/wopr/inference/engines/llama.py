"""llama.cpp's own server, and its embeddings in our process: the one door to xllamacpp.

A text model is served by llama.cpp itself, with nothing of ours between it and the network: `/health`, `/v1/*`,
`/metrics` and `/slots` are those of the image that a GPU node runs.
"""

from __future__ import annotations  # arrays can't be subscripted at run time before Python 3.12

import asyncio
import os
import secrets
import socket
from array import array
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

from wopr.core.errors import NotConfigured, Unavailable
from wopr.core.stop import Stop
from wopr.inference.engines.options import EngineOptions, port_unavailable
from wopr.inference.gguf_header import GgufHeader, read_header

CONTEXT_TOKENS_MAX = 8192
EMBEDDING_CONTEXT_TOKENS_MAX = 2048
PROMPT_CACHE_MIB = 256


class InputRefused(ValueError):
    """The library can't process this input; the message says why."""


@dataclass(frozen=True)
class Embedded:
    """Vectors in the order of the inputs, and the tokens that all of them had together."""

    vectors: Sequence[array[float]]
    tokens: int


def serve_gguf(model: Path, options: EngineOptions, on_ready: Callable[[str, str], None]) -> None:
    """Serve a text model on the port of the options until a signal ends it. Unavailable when it can't be loaded."""
    library = _library()
    header = read_header(model)
    _claim_port(options)
    context = min(header.context_tokens or CONTEXT_TOKENS_MAX, CONTEXT_TOKENS_MAX)
    params = _params(library, model, context * options.parallel, options.parallel)
    params.hostnames = [options.host]
    params.port = options.port
    params.endpoint_metrics = True
    params.endpoint_slots = True
    params.model_alias = {model.stem}
    params.cache_ram_mib = PROMPT_CACHE_MIB
    if options.api_key:
        params.api_keys = [options.api_key]

    async def until_signal() -> None:
        stop = Stop()
        server = _start(library, params, model)
        on_ready(str(server.listening_address), model.stem)
        await stop.wait()
        del server
        stop.pass_on()

    asyncio.run(until_signal())


class Embedder:
    """A model for embeddings in this process. `embed` blocks, lets other threads run, and may run in several."""

    def __init__(self, model: Path, parallel: int = 1, context_tokens: int | None = None) -> None:
        library = _library()
        header = read_header(model)
        self.name = model.stem
        self.context_tokens = min(
            context_tokens or EMBEDDING_CONTEXT_TOKENS_MAX, header.context_tokens or EMBEDDING_CONTEXT_TOKENS_MAX
        )
        self.dimensions = header.embedding_length
        params = _params(library, model, self.context_tokens * parallel, parallel)
        params.embedding = True
        params.pooling_type = _pooling(library, header)
        # An input must fit into one physical batch, since its vector is made from all its tokens at once.
        params.n_batch = params.n_ubatch = self.context_tokens
        # The library always listens somewhere. Nobody is told this address or this key.
        params.hostnames = ["127.0.0.1"]
        params.port = 0
        params.api_keys = [secrets.token_hex(32)]
        params.n_threads_http = 1
        params.cache_ram_mib = 0
        # The library's threads wait for each other by spinning: with one on every core, whatever else runs on the
        # machine makes a sentence ten times slower (measured on two busy cores: 85 ms with two threads, 12 with one).
        params.cpuparams.n_threads = params.cpuparams_batch.n_threads = max(1, (os.cpu_count() or 1) // 2)
        self._server = _start(library, params, model)

    def embed(self, inputs: Sequence[str | Sequence[int]]) -> Embedded:
        """One vector an input, of length one. InputRefused when an input is empty or longer than the context."""
        answer = self._server.handle_embeddings({"input": list(inputs), "encoding_format": "float"})
        if "error" in answer:
            raise InputRefused(str(answer["error"].get("message", "the input can't be embedded")))
        data = sorted(answer["data"], key=lambda item: int(item["index"]))
        return Embedded([array("f", item["embedding"]) for item in data], int(answer["usage"]["prompt_tokens"]))


def _library() -> ModuleType:
    try:
        import xllamacpp
    except ImportError as error:
        raise NotConfigured(
            "llama.cpp is not installed: the package xllamacpp is missing.",
            remedy="Install WOPR with its local extra: `uv sync --extra local`.",
        ) from error
    module: ModuleType = xllamacpp
    return module


def _params(library: ModuleType, model: Path, context: int, parallel: int) -> Any:  # the library has no types
    params = library.CommonParams()
    params.model.path = str(model)
    params.n_ctx = context
    params.n_parallel = parallel
    params.n_gpu_layers = 0
    params.load_mode = library.llama_load_mode.LLAMA_LOAD_MODE_MMAP
    params.fit_params = False
    params.warmup = False
    params.ui = False
    params.verbosity = -1
    # Its threads wait for one another by spinning. With as many as cores, any other load makes them ten times slower
    # (measured: 30 sentences 8.3 s, with half of the cores 1.1 s), and four services share this machine.
    for threads in (params.cpuparams, params.cpuparams_batch):
        threads.n_threads = max(1, (os.cpu_count() or 2) // 2)
        threads.poll = 0
    return params


def _pooling(library: ModuleType, header: GgufHeader) -> Any:
    """What the file says; the mean where it says nothing, as the runbook starts its embedding server."""
    kinds = library.llama_pooling_type
    return kinds.LLAMA_POOLING_TYPE_UNSPECIFIED if header.has_pooling else kinds.LLAMA_POOLING_TYPE_MEAN


def _start(library: ModuleType, params: Any, model: Path) -> Any:
    try:
        return library.Server(params)
    except (RuntimeError, ValueError) as error:
        raise Unavailable(
            f"llama.cpp can't load {model.name}: {error}",
            remedy=f"Check the file, or remove it with `wopr models rm {model.stem}` and pull it again.",
        ) from error


def _claim_port(options: EngineOptions) -> None:
    family = socket.AF_INET6 if ":" in options.host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((options.host, options.port))
        except OSError as error:
            raise port_unavailable(options, error) from error
