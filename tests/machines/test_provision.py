"""A node for real: rented, booted with its cloud-init, its four services pulled, started and asked; and one that fails.

The machines are containers that boot as machines do; images stand for the runbook's, in CPU mode by the same template.
"""

import asyncio
import contextlib
import hashlib
import socket
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import pytest
import uvicorn
from aiohttp import web
from fastapi import FastAPI
from pydantic import SecretStr
from tests.inference.engines.tiny import write_tiny_model
from tests.inference.provision.conftest import ADMINISTRATOR
from tests.machines import building
from tests.machines import cloud as clouds
from tests.machines.cloud import Cloud
from tests.machines.engine import Engine
from tests.machines.gpu_images import GPU_IMAGES, ensure_gpu_images
from tests.machines.registry import Registry, serving

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
from wopr.inference.engines.minilm import ensure_minilm
from wopr.inference.nodes import Node, get
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


def here() -> str:
    """The address of this machine that containers reach."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.connect(("198.51.100.1", 9))
        return str(probe.getsockname()[0])


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("weights")
    write_tiny_model(folder / "tiny.gguf")
    ensure_minilm(folder)
    return folder


@pytest.fixture(scope="module")
def images(engine: Engine, platform_image: str) -> Iterator[Registry]:
    """A registry behind a password that machines reach, with the images of a node."""
    ensure_gpu_images(engine, platform_image)
    with serving(engine, host="0.0.0.0") as registry:
        port = registry.server.rpartition(":")[2]
        registry.server = f"127.0.0.1:{port}"  # as the engine itself reaches it, without TLS
        for name, tag in {**GPU_IMAGES, "gate": building.ensure(engine, "caddy")}.items():
            registry.push(tag, f"{name}:node")
        registry.server = f"{here()}:{port}"
        yield registry


@pytest.fixture(scope="module")
def box(engine: Engine, slim_image: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cloud]:
    with clouds.running(engine, tmp_path_factory.mktemp("cloud"), slim_image) as running:
        yield running


@pytest.fixture
async def desk(db: Database, box: Cloud, images: Registry, weights: Path, tmp_path: Path) -> AsyncIterator[Desk]:
    asked: list[str] = []
    async with _weights_served(weights, asked) as models, httpx.AsyncClient(timeout=60) as http:
        listener = socket.create_server(("0.0.0.0", 0))
        settings = Settings(
            wopr_home=tmp_path / "home",
            database_url=SecretStr(db.url),
            platform_secret=SecretStr("a platform secret for tests, long enough"),
            do_api_token=SecretStr("dop_v1_test"),
            do_api_base=str(box.client.base_url),
            node_api_url=f"http://{here()}:{listener.getsockname()[1]}",
            registry_server=images.server,
            registry_username=images.username,
            registry_password=SecretStr(images.password),
            registry_plain_http=images.server,
            llama_image=f"{images.server}/llama-cpp:node",
            chatterbox_image=f"{images.server}/chatterbox:node",
            whisper_image=f"{images.server}/whisper:node",
            gate_image=f"{images.server}/gate:node",
            gpu_text_model=f"{models}/tiny.gguf",
            gpu_embedding_model=f"{models}/minilm.gguf",
            gpu_context=512,
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
            yield Desk(api, Provisioner(platform, lambda: digitalocean(settings, http)), platform, asked)
        server.should_exit = True
        await serve


@contextlib.asynccontextmanager
async def _weights_served(folder: Path, asked: list[str]) -> AsyncIterator[str]:
    """A publisher of models: ranges are answered, and the SHA-256 is named as Hugging Face names it."""
    digests = _digests(folder)

    async def send(request: web.Request) -> web.StreamResponse:
        name = request.match_info["name"]
        asked.append(f"{request.method} {name}")
        return web.FileResponse(folder / name, headers={"x-linked-etag": f'"{digests[name]}"'})

    app = web.Application()
    app.add_routes([web.get("/{name}", send)])
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    listener = socket.create_server(("0.0.0.0", 0))
    await web.SockSite(runner, listener).start()
    try:
        yield f"http://{here()}:{listener.getsockname()[1]}"
    finally:
        await runner.cleanup()


def _digests(folder: Path) -> dict[str, str]:
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in folder.glob("*.gguf")}


async def test_a_rented_machine_becomes_a_node_that_serves_and_is_given_back(desk: Desk, box: Cloud) -> None:
    node_id = await desk.order()
    node = await desk.settled(node_id)
    assert node["provision_stage"] == "done", node
    assert [entry["stage"] for entry in node["log"]] == [
        *("creating", "waiting_active", "waiting_agent", "installing_drivers", "installing_docker"),
        *("downloading_models", "starting_services", "registering", "done"),
    ]
    assert desk.served.count("GET tiny.gguf") == 1
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
    assert await errands.logs(platform, node, errands.MAKING, 5)
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
