"""The routes of nodes and models, through HTTP."""

from collections.abc import AsyncIterator

import httpx
import pytest
from fastapi import FastAPI
from tests.inference.first_boot import api_of
from tests.inference.nodes.conftest import FakeService

from wopr.accounts import guard
from wopr.core.platform import Platform
from wopr.inference.watchdog import Watchdog

LOGS = ("GET", "/api/admin/nodes/gpu-1/logs")


@pytest.fixture
def app(platform: Platform) -> FastAPI:
    return api_of(platform)


@pytest.fixture
async def stranger(app: FastAPI) -> AsyncIterator[httpx.AsyncClient]:
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://localhost") as client:
        yield client


@pytest.fixture
async def admin(app: FastAPI, stranger: httpx.AsyncClient) -> httpx.AsyncClient:
    for dependency in (guard.reader, guard.platform_admin):
        app.dependency_overrides[dependency] = lambda: None
    return stranger


async def test_strangers_are_refused_everywhere(stranger: httpx.AsyncClient) -> None:
    for method, path in (("GET", "/api/models"), ("GET", "/api/admin/nodes"), ("DELETE", "/api/admin/nodes/x"), LOGS):
        assert (await stranger.request(method, path)).status_code == 401
    assert (await stranger.post("/api/admin/nodes", json={"id": "x", "host": "y"})).status_code == 401


async def test_a_node_is_registered_shown_and_removed(admin: httpx.AsyncClient) -> None:
    made = await admin.post("/api/admin/nodes", json={"id": "gpu-1", "host": "10.0.0.5", "api_key": "secret"})
    listed = await admin.get("/api/admin/nodes")
    assert made.status_code == 201
    (node,) = listed.json()["nodes"]
    assert node == made.json()
    assert node["ports"] == {"llama": 8080, "chatterbox": 8081, "whisper": 8082, "qwen": 8083}
    assert (node["monthly_cost_usd"], node["last_health_at"], node["status"]) == ("0.00", None, "active")
    assert "secret" not in listed.text
    assert (await admin.delete("/api/admin/nodes/gpu-1")).status_code == 204
    gone = await admin.delete("/api/admin/nodes/gpu-1")
    assert gone.status_code == 404
    assert gone.json()["error"]["remedy"]


@pytest.mark.parametrize("body", [{}, {"id": "a b", "host": "h"}, {"id": "x", "host": "h", "ports": {"gpt": 1}}])
async def test_an_impossible_node_is_refused(admin: httpx.AsyncClient, body: dict[str, object]) -> None:
    assert (await admin.post("/api/admin/nodes", json=body)).status_code == 422


async def test_models_on_offer_carry_prices_and_whether_they_can_be_asked(
    admin: httpx.AsyncClient, watchdog: Watchdog, service: FakeService
) -> None:
    service.models = ("handbook", "my-llama")
    await admin.post("/api/admin/nodes", json={"id": "n", "host": "127.0.0.1", "ports": {"llama": service.port}})
    await watchdog.watch()
    handbook, own = (await admin.get("/api/models")).json()["models"]
    assert (handbook["id"], handbook["kind"], handbook["available"]) == ("handbook", "chat", True)
    assert handbook["prompt_per_million_usd"] == "0.10"
    assert handbook["per_minute_usd"] is None
    assert own["id"] == "my-llama"
    await service.stop()
    await watchdog.watch()
    assert [m["available"] for m in (await admin.get("/api/models")).json()["models"]] == [False, False]


async def test_a_node_is_cordoned_and_repaired_through_the_api(admin: httpx.AsyncClient) -> None:
    await admin.post("/api/admin/nodes", json={"id": "gpu-1", "host": "10.0.0.5"})
    wanted = await admin.post("/api/admin/nodes/gpu-1/desired", json={"desired": "cordoned"})
    assert wanted.json()["desired"] == "cordoned"
    asked = await admin.post("/api/admin/nodes/gpu-1/repair", json={"rung": "restart"})
    assert (asked.status_code, asked.json()["repair"]) == (202, "restart was asked for")
    refused = await admin.post("/api/admin/nodes/gpu-1/repair", json={"rung": "replace"})
    assert refused.status_code == 409
    for path, body in (("desired", {"desired": "gone"}), ("repair", {"rung": "person"})):
        assert (await admin.post(f"/api/admin/nodes/gpu-1/{path}", json=body)).status_code == 422
    assert (await admin.post("/api/admin/nodes/none/desired", json={"desired": "drained"})).status_code == 404


async def test_why_a_node_has_no_logs_to_tell_is_said(admin: httpx.AsyncClient) -> None:
    assert (await admin.request(*LOGS)).status_code == 404
    await admin.post("/api/admin/nodes", json={"id": "gpu-1", "host": "10.0.0.5"})
    by_hand = await admin.request(*LOGS)
    assert (by_hand.status_code, by_hand.json()["error"]["code"]) == (409, "conflict")
    for wrong in ({"source": "sshd"}, {"lines": 0}, {"lines": 10_001}):
        assert (await admin.request(*LOGS, params=wrong)).status_code == 422
    closed = await admin.request(*LOGS, params={"source": "llama"})
    assert (closed.status_code, closed.json()["error"]["code"]) == (502, "ssh_failed")
    assert "PLATFORM_SECRET" in closed.json()["error"]["remedy"]
