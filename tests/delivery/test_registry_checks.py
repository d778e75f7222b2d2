"""What `wopr check` says of the registry: whether what is watched could be pulled now. A real server on loopback."""

import base64
from collections.abc import AsyncIterator
from typing import Any

import pytest
from aiohttp import web
from pydantic import SecretStr

from wopr.core.settings import Settings
from wopr.delivery.registry_checks import images
from wopr.ops.checks import Finding, Verdict

DIGEST = "sha256:" + "a" * 64
LOGIN = "Basic " + base64.b64encode(b"robot:right").decode()


@pytest.fixture
async def server() -> AsyncIterator[str]:
    """A registry with one image, behind a password; its name and port."""

    async def manifest(request: web.Request) -> web.Response:
        if request.headers.get("authorization") != LOGIN:
            return web.Response(status=401, headers={"www-authenticate": 'Basic realm="registry"'})
        if request.match_info["tag"] != "latest":
            return web.Response(status=404)
        return web.Response(headers={"docker-content-digest": DIGEST})

    app = web.Application()
    app.router.add_get("/v2/wopr-platform/manifests/{tag}", manifest)
    runner = web.AppRunner(app)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    yield f"127.0.0.1:{runner.addresses[0][1]}"
    await runner.cleanup()


async def asked(server: str, tag: str = "latest", **changes: Any) -> Finding:
    known: dict[str, Any] = {
        "registry_server": server,
        "registry_username": "robot",
        "registry_password": SecretStr("right"),
        "wopr_image": f"{server}/wopr-platform:{tag}",
        "bot_image": "",
    }
    return await images(Settings(**known | changes))


async def test_an_image_that_can_be_pulled_is_named_with_its_digest(server: str) -> None:
    found = await asked(server)
    assert (found.verdict, found.evidence) == (Verdict.OK, f"wopr-platform {'a' * 12}")


@pytest.mark.parametrize(
    ("tag", "changes", "remedy"),
    [
        ("latest", {"registry_password": SecretStr("wrong")}, "REGISTRY_PASSWORD"),
        ("of-nobody", {}, "Push "),
        ("latest", {"wopr_image": "Not An Image"}, "ghcr.io/owner/name:tag"),
        ("latest", {"wopr_image": "127.0.0.1:1/wopr-platform:latest", "registry_server": "127.0.0.1:1"}, "127.0.0.1:1"),
    ],
)
async def test_one_that_cannot_is_named_with_what_to_do(
    server: str, tag: str, changes: dict[str, Any], remedy: str
) -> None:
    found = await asked(server, tag, **changes)
    assert found.verdict is Verdict.FAILED
    assert remedy in found.remedy


async def test_without_a_login_nothing_is_asked(server: str) -> None:
    assert (await asked(server, registry_username="")).verdict is Verdict.SKIPPED
