"""Whatever goes wrong behind the edge, the caller gets our form of an error and no trace of ours."""

from collections.abc import AsyncIterator

import httpx
import pytest
from fastapi import FastAPI
from sqlalchemy.exc import TimeoutError as PoolTimeout

from wopr.core.edge import BODY_BYTES_MAX, Edge
from wopr.core.routing import ApiModel
from wopr.main import install_error_handlers

PIECE = b"x" * 1024 * 1024


class Said(ApiModel):
    text: str


def build() -> Edge:
    app = FastAPI()
    install_error_handlers(app)

    @app.get("/breaks")
    async def breaks() -> None:
        raise RuntimeError("a secret of ours")

    @app.get("/crowded")
    async def crowded() -> None:
        raise PoolTimeout("QueuePool limit reached")

    @app.post("/said")
    async def said(body: Said) -> str:
        return body.text

    return Edge(app)


@pytest.fixture
async def client() -> AsyncIterator[httpx.AsyncClient]:
    transport = httpx.ASGITransport(build(), raise_app_exceptions=False)
    async with httpx.AsyncClient(transport=transport, base_url="http://test") as http:
        yield http


async def pieces(bytes_total: int) -> AsyncIterator[bytes]:
    for _ in range(bytes_total // len(PIECE)):
        yield PIECE


async def test_an_unexpected_error_has_the_form_of_every_error_and_tells_nothing(client: httpx.AsyncClient) -> None:
    answer = await client.get("/breaks")
    assert answer.status_code == 500
    assert answer.json()["error"]["code"] == "internal"
    assert "secret" not in answer.text
    assert answer.headers["x-request-id"]


async def test_a_full_pool_of_connections_is_unavailable_for_a_moment(client: httpx.AsyncClient) -> None:
    answer = await client.get("/crowded")
    assert answer.status_code == 503
    assert answer.headers["retry-after"] == "2"


async def test_a_body_that_grows_too_large_is_called_so_although_its_length_was_not_declared(
    client: httpx.AsyncClient,
) -> None:
    answer = await client.post(
        "/said", content=pieces(BODY_BYTES_MAX + len(PIECE)), headers={"content-type": "application/json"}
    )
    assert answer.status_code == 413
    assert answer.json()["error"]["code"] == "too_large"


async def test_a_declared_length_over_the_limit_is_refused_at_once(client: httpx.AsyncClient) -> None:
    answer = await client.post("/said", content=b"x" * (BODY_BYTES_MAX + 1))
    assert answer.status_code == 413
