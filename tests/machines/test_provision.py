"""A node for real: rented, booted with its cloud-init, its four services pulled, started and asked; and one that fails.

The machines are containers that boot as machines do; images stand for the runbook's, in CPU mode by the same template.
"""

import asyncio
import socket
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import pytest
import uvicorn
from fastapi import FastAPI
from pydantic import SecretStr
from tests.inference.provision.conftest import ADMINISTRATOR
from tests.machines import cloud as clouds
from tests.machines.cloud import Cloud
from tests.machines.nodes import of_a_node, weights_served
from tests.machines.registry import Registry

from wopr.accounts import guard
from wopr.cloud.digitalocean import digitalocean
from wopr.core.clock import SystemClock
from wopr.core.db import Database
from wopr.core.ids import NodeId
from wopr.core.notify import Notifier
from wopr.core.platform import Platform
from wopr.core.settings import Settings
from wopr.inference import errands
from wopr.inference.api import router
from wopr.inference.log_sources import Source
from wopr.inference.nodes import Node, get
from wopr.inference.pager import Pager
from wopr.inference.provision_loop import Provisioner
from wopr.main import install_error_handlers

SIZE = "s-4vcpu-8gb"
MADE_SECONDS = 900
LOOK_SECONDS = 1.0


@dataclass
class Desk:
    """The platform: its API on an address that machines reach, its loop, the weights that it hands out."""

    api: httpx.AsyncClient
    loop: Provisioner
    platform: Platform
    served: list[str] = field(default_factory=list)

    async def order(self) -> str:
        answer = await self.api.post("/api/admin/nodes/provision", json={"size": SIZE})
        assert answer.status_code == 202, answer.text
        return str(answer.json()["nodes"][0]["id"])

    async def settled(self, node_id: str) -> dict[str, Any]:
        """The node once it is done or has failed."""
        async with asyncio.timeout(MADE_SECONDS):
            while True:
                await self.loop.run_pass()
                node: dict[str, Any] = (await self.api.get(f"/api/admin/nodes/{node_id}")).json()
                if node["provision_stage"] in ("done", "failed"):
                    return node
                await asyncio.sleep(LOOK_SECONDS)

    async def give_back(self, node_id: str) -> None:
        assert (await self.api.post(f"/api/admin/nodes/{node_id}/destroy")).status_code == 202
        async with asyncio.timeout(MADE_SECONDS):
            while (await self.api.get(f"/api/admin/nodes/{node_id}")).status_code != 404:
                await self.loop.run_pass()
                await asyncio.sleep(LOOK_SECONDS)


@pytest.fixture
async def desk(db: Database, box: Cloud, images: Registry, weights: Path, tmp_path: Path) -> AsyncIterator[Desk]:
    asked: list[str] = []
    async with weights_served(weights, asked) as models, httpx.AsyncClient(timeout=60) as http:
        listener = socket.create_server(("0.0.0.0", 0))
        settings = Settings(
            wopr_home=tmp_path / "home",
            database_url=SecretStr(db.url),
            **of_a_node(box, images, models, listener.getsockname()[1]),
        )
        platform = Platform(settings, db, SystemClock(), http, Notifier(db))
        app = FastAPI()
        app.state.platform = platform
        app.include_router(router)
        install_error_handlers(app)
        app.dependency_overrides[guard.authenticate] = lambda: ADMINISTRATOR
        server = uvicorn.Server(uvicorn.Config(app, log_level="warning"))
        serve = asyncio.create_task(server.serve(sockets=[listener]))
        async with httpx.AsyncClient(base_url=settings.node_api_url, timeout=60) as api:
            yield Desk(
                api, Provisioner(platform, lambda: digitalocean(settings, http), Pager(platform)), platform, asked
            )
        server.should_exit = True
        await serve


async def test_a_rented_machine_becomes_a_node_that_serves_and_is_given_back(
    desk: Desk, box: Cloud, weights: Path
) -> None:
    node_id = await desk.order()
    node = await desk.settled(node_id)
    assert node["provision_stage"] == "done", node
    assert [entry["stage"] for entry in node["log"]] == [
        *("creating", "waiting_active", "waiting_agent", "installing_drivers", "installing_docker"),
        *("downloading_models", "starting_services", "registering", "done"),
    ]
    whole = (weights / "tiny.gguf").stat().st_size
    asked = [word for word in desk.served if word.startswith("GET tiny.gguf")]
    assert asked == ["GET tiny.gguf", f"GET tiny.gguf bytes={whole // 2}-"], "it goes on where it was cut off"
    async with desk.platform.db.begin() as session:
        row = await get(session, NodeId(node_id))
    async with httpx.AsyncClient(timeout=120, headers={"authorization": f"Bearer {row.api_key}"}) as http:
        said = await http.post(
            f"http://{node['host']}:8080/v1/chat/completions",
            json={"model": "llama", "messages": [{"role": "user", "content": "hello"}], "max_tokens": 2},
        )
        assert said.json()["choices"][0]["message"]["role"] == "assistant", said.text
        vector = await http.post(
            f"http://{node['host']}:8083/v1/embeddings", json={"model": "minilm", "input": "a marmot"}
        )
        assert len(vector.json()["data"][0]["embedding"]) == 384
        sound = await http.post(
            f"http://{node['host']}:8081/v1/audio/speech", json={"model": "flite", "input": "hello", "voice": "rms"}
        )
        assert sound.status_code == 200
        text = await http.post(
            f"http://{node['host']}:8082/v1/audio/transcriptions",
            data={"model": "whisper-1"},
            files={"file": ("hello.wav", sound.content, "audio/wav")},
        )
        assert text.status_code == 200, text.text
    async with httpx.AsyncClient(timeout=30) as stranger:
        for port in (8080, 8081, 8082, 8083):
            assert (await stranger.get(f"http://{node['host']}:{port}/v1/models")).status_code == 401
            assert (await stranger.get(f"http://{node['host']}:{port}/health")).status_code == 200
    await errands_are_run(desk.platform, row)
    await desk.give_back(node_id)
    clouds.until(lambda: not box.client.get("/_emulator/state").json()["droplets"], box.told)


async def errands_are_run(platform: Platform, node: Node) -> None:
    """Over the machine's real sshd, with the installation's key: its logs, and a restart that docker carries out."""
    made = await errands.logs(platform, node, Source.MAKING, 10_000)
    assert any("stage: downloading_models" in line for line in made), made
    before = await errands.logs(platform, node, "whisper", 10_000)
    assert before
    met = (await errands.restart(platform, node, ["whisper"])).host_key
    assert met is not None
    async with asyncio.timeout(MADE_SECONDS):
        while len(await errands.logs(platform, node, "whisper", 10_000)) <= len(before):  # noqa: ASYNC110 - a machine
            await asyncio.sleep(LOOK_SECONDS)


async def test_weights_that_are_not_what_they_should_be_fail_the_node_with_the_machines_last_words(
    desk: Desk, box: Cloud
) -> None:
    desk.platform.settings.gpu_text_model_sha256 = "0" * 64
    node_id = await desk.order()
    node = await desk.settled(node_id)
    assert node["provision_stage"] == "failed"
    assert "is not what it should be" in node["provision_error"]
    assert node["log"][-1]["detail"].startswith("downloading_models: ")
    await desk.give_back(node_id)
    clouds.until(lambda: not box.client.get("/_emulator/state").json()["droplets"], box.told)
