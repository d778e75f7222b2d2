"""Engines in this process on free ports, and one folder with MiniLM's file for the whole run."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path

import httpx
import pytest

from wopr.inference.engines.minilm import ensure_minilm
from wopr.inference.engines.options import EngineOptions
from wopr.inference.engines.server import Engine, serving

Serve = Callable[..., AbstractAsyncContextManager[httpx.AsyncClient]]


@pytest.fixture(scope="session")
def models_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A models folder that holds MiniLM, made once."""
    folder = tmp_path_factory.mktemp("models")
    ensure_minilm(folder)
    return folder


@pytest.fixture
def options(models_path: Path) -> EngineOptions:
    return EngineOptions("127.0.0.1", 0, models_path)


@pytest.fixture
def serve(options: EngineOptions) -> Serve:
    """`async with serve(engine) as client`: the engine on a free port, and a client of it."""

    @asynccontextmanager
    async def start(engine: Engine, given: EngineOptions = options) -> AsyncIterator[httpx.AsyncClient]:
        async with serving(engine, given) as (address, _), httpx.AsyncClient(base_url=address, timeout=30) as client:
            yield client

    return start


async def free_within_a_second(client: httpx.AsyncClient) -> None:
    """Returns when the engine does no more work; fails when it still does after a second."""
    for _ in range(50):
        if not any(slot["is_processing"] for slot in (await client.get("/slots")).json()):
            return
        await asyncio.sleep(0.02)
    raise AssertionError("the engine still works for a client that left")
