"""What it takes to rent a node in the cloud in a box: images in a registry, weights at a publisher, the settings."""

import contextlib
import hashlib
import socket
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from tests.inference.engines.tiny import write_tiny_model
from tests.machines import building
from tests.machines import cloud as clouds
from tests.machines.cloud import Cloud
from tests.machines.engine import Engine
from tests.machines.gpu_images import GPU_IMAGES, ensure_gpu_images
from tests.machines.registry import Registry, serving

from wopr.inference.engines.minilm import ensure_minilm


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


def of_a_node(box: Cloud, images: Registry, models: str, port: int) -> dict[str, Any]:  # what Settings takes
    """The settings with which machines become nodes. `models`: where weights are published, `port`: the API's."""
    return {
        "platform_secret": "a platform secret for tests, long enough",
        "do_api_token": "dop_v1_test",
        "do_api_base": str(box.client.base_url),
        "node_api_url": f"http://{here()}:{port}",
        "registry_server": images.server,
        "registry_username": images.username,
        "registry_password": images.password,
        "registry_plain_http": images.server,
        "llama_image": f"{images.server}/llama-cpp:node",
        "chatterbox_image": f"{images.server}/chatterbox:node",
        "whisper_image": f"{images.server}/whisper:node",
        "gate_image": f"{images.server}/gate:node",
        "gpu_text_model": f"{models}/tiny.gguf",
        "gpu_embedding_model": f"{models}/minilm.gguf",
        "gpu_context": 512,
    }


@contextlib.asynccontextmanager
async def weights_served(folder: Path, asked: list[str]) -> AsyncIterator[str]:
    """A publisher of models: ranges are answered, and the SHA-256 is named as Hugging Face names it.

    Everything is `asked` for with the bytes that were wanted. Nobody gets a whole file at once: the connection breaks.
    """
    contents = _contents(folder)
    digests = {name: hashlib.sha256(content).hexdigest() for name, content in contents.items()}

    async def send(request: web.Request) -> web.StreamResponse:
        name, wanted = request.match_info["name"], request.headers.get("range", "")
        asked.append(f"{request.method} {name} {wanted}".strip())
        if request.method == "GET" and not wanted:
            return await break_off(request, contents[name])
        return web.FileResponse(folder / name, headers={"x-linked-etag": f'"{digests[name]}"'})

    async def break_off(request: web.Request, content: bytes) -> web.StreamResponse:
        answer = web.StreamResponse(headers={"content-length": str(len(content))})
        await answer.prepare(request)
        await answer.write(content[: len(content) // 2])
        if request.transport is not None:
            request.transport.close()
        return answer

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


def _contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.glob("*.gguf")}
