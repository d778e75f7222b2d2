"""Notifications count when they are proved, whole and new; each is a request to the real listener."""

import base64
import hashlib
import hmac
import json
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from wopr.core.errors import Unavailable
from wopr.delivery.hooks import BODY_BYTES_MAX, Hooks, bears, github_push, is_signed, registry_pushes

SECRET, GITHUB = "a registry's secret", "It's a Secret to Everybody"
Heard = list[tuple[str, str]]


def pushed(**event: Any) -> dict[str, Any]:
    target = {"repository": "wopr-bot", "tag": "stable", "digest": "sha256:" + "0" * 64}
    return {"events": [{"id": "e1", "timestamp": "t", "action": "push", "target": target, **event}]}


def published(**package: Any) -> dict[str, Any]:
    """As GitHub sends it for a container that was pushed to ghcr.io."""
    return {
        "action": "published",
        "registry_package": {
            "name": "wopr-platform",
            "namespace": "wopr-network",
            "package_type": "CONTAINER",
            "owner": {"login": "WOPR-Network"},
            "package_version": {"container_metadata": {"tag": {"name": "latest", "digest": "sha256:" + "0" * 64}}},
            **package,
        },
    }


@pytest.fixture
async def heard() -> Heard:
    return []


@pytest.fixture
async def listener(heard: Heard) -> AsyncIterator[httpx.AsyncClient]:
    hooks = Hooks(lambda name, tag: not heard.append((name, tag)) and name == "wopr-bot", SECRET, GITHUB)
    port = await hooks.start("127.0.0.1", 0)
    async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", trust_env=False) as http:
        yield http
    await hooks.stop()


async def github(http: httpx.AsyncClient, body: bytes, event: str = "registry_package", secret: str = GITHUB) -> Any:
    signature = "sha256=" + hmac.new(secret.encode(), body, hashlib.sha256).hexdigest()
    headers = {"x-hub-signature-256": signature, "x-github-event": event, "content-type": "application/json"}
    return await http.post("/hooks/github", content=body, headers=headers)


async def test_a_push_that_a_registry_tells_with_its_secret_is_heard(listener: httpx.AsyncClient, heard: Heard) -> None:
    answer = await listener.post("/hooks/registry", json=pushed(), headers={"authorization": f"Bearer {SECRET}"})
    assert (answer.status_code, answer.json()) == (200, {"pushes": 1, "watched": 1})
    assert heard == [("wopr-bot", "stable")]


async def test_the_secret_may_stand_in_the_address_as_a_password(listener: httpx.AsyncClient, heard: Heard) -> None:
    assert (await listener.post("/hooks/registry", json=pushed(), auth=("any", SECRET))).status_code == 200
    assert len(heard) == 1


@pytest.mark.parametrize(
    "header", [None, "", "Bearer", "Bearer wrong", f"Basic {SECRET}", "Basic !", f"Token {SECRET}", SECRET]
)
async def test_without_the_secret_nothing_is_heard(
    listener: httpx.AsyncClient, heard: Heard, header: str | None
) -> None:
    headers = {} if header is None else {"authorization": header}
    assert (await listener.post("/hooks/registry", json=pushed(), headers=headers)).status_code == 401
    assert heard == []


async def test_the_same_notification_again_is_accepted_and_not_heard_again(
    listener: httpx.AsyncClient, heard: Heard
) -> None:
    headers = {"authorization": f"Bearer {SECRET}"}
    for _ in range(3):
        assert (await listener.post("/hooks/registry", json=pushed(), headers=headers)).status_code == 200
    await listener.post("/hooks/registry", json=pushed(id="e2"), headers=headers)
    assert len(heard) == 2
    body = json.dumps(published()).encode()
    for _ in range(3):
        assert (await github(listener, body)).status_code == 200
    assert len(heard) == 3


@pytest.mark.parametrize(
    "document",
    [
        pushed(action="pull"),
        pushed(target={"repository": "wopr-bot", "digest": "sha256:0"}),
        pushed(target={"repository": "", "tag": "x"}),
        pushed(target=None),
        {"events": ["x", None, 5]},
        {"events": {}},
        {},
    ],
)
async def test_what_is_no_push_of_a_tag_wakes_nobody(
    listener: httpx.AsyncClient, heard: Heard, document: dict[str, Any]
) -> None:
    answer = await listener.post("/hooks/registry", json=document, headers={"authorization": f"Bearer {SECRET}"})
    assert answer.status_code == 200
    assert heard == []


@pytest.mark.parametrize("body", [b"", b"[]", b"{", b"\xff", b"[" * 100_000])
async def test_what_is_no_document_is_refused(listener: httpx.AsyncClient, heard: Heard, body: bytes) -> None:
    answer = await listener.post("/hooks/registry", content=body, headers={"authorization": f"Bearer {SECRET}"})
    assert answer.status_code == 400
    assert (await github(listener, body)).status_code == 400
    assert heard == []


async def test_a_body_over_the_limit_is_refused(listener: httpx.AsyncClient, heard: Heard) -> None:
    body = b'{"x": "' + b"x" * BODY_BYTES_MAX + b'"}'
    answer = await listener.post("/hooks/registry", content=body, headers={"authorization": f"Bearer {SECRET}"})
    assert answer.status_code == 413
    assert (await github(listener, body)).status_code == 413


async def test_github_s_package_events_are_heard_when_they_are_signed(
    listener: httpx.AsyncClient, heard: Heard
) -> None:
    assert (await github(listener, json.dumps(published()).encode())).json()["pushes"] == 1
    assert heard == [("wopr-network/wopr-platform", "latest")]
    assert (await github(listener, b"{}", "ping")).json() == {"pong": True}


async def test_github_s_events_with_another_signature_are_refused(listener: httpx.AsyncClient, heard: Heard) -> None:
    body = json.dumps(published()).encode()
    assert (await github(listener, body, secret="wrong")).status_code == 401
    assert (await listener.post("/hooks/github", content=body)).status_code == 401
    tampered = {"x-hub-signature-256": "sha256=" + hmac.new(GITHUB.encode(), b"x", hashlib.sha256).hexdigest()}
    assert (await listener.post("/hooks/github", content=body, headers=tampered)).status_code == 401
    assert (await github(listener, b"{}", "ping", secret="wrong")).status_code == 401
    assert heard == []


async def test_a_path_without_a_secret_does_not_exist_and_others_neither() -> None:
    hooks = Hooks(lambda name, tag: True, "", GITHUB)
    port = await hooks.start("127.0.0.1", 0)
    try:
        async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", trust_env=False) as http:
            assert (await http.post("/hooks/registry", json=pushed())).status_code == 404
            assert (await http.get("/hooks/github")).status_code == 405
            assert (await http.get("/")).status_code == 404
            assert (await http.get("/health")).json() == {"status": "ok"}
        with pytest.raises(Unavailable, match=str(port)):
            await Hooks(lambda name, tag: True, SECRET).start("127.0.0.1", port)
    finally:
        await hooks.stop()


def test_github_s_own_example_of_a_signature_holds() -> None:
    header = "sha256=757107ea0eb2509fc211221cce984b8a37570b6d7586c22c46f4379c8b043e17"
    assert is_signed(b"Hello, World!", header, GITHUB)
    assert not is_signed(b"Hello, World?", header, GITHUB)
    assert not is_signed(b"x", "sha256=" + hmac.new(b"", b"x", hashlib.sha256).hexdigest(), "")


def test_an_empty_secret_opens_nothing() -> None:
    assert not bears("Bearer ", "")
    assert not bears("Basic " + base64.b64encode(b"x:").decode(), "")


@pytest.mark.parametrize(
    ("document", "found"),
    [
        (published(), ("wopr-network/wopr-platform", "latest")),
        (published(package_type="docker"), ("wopr-network/wopr-platform", "latest")),
        (published(package_type="npm"), None),
        (published(package_version=None), ("wopr-network/wopr-platform", "")),
        (published(owner=None), ("wopr-network/wopr-platform", "latest")),
        (published() | {"action": "deleted"}, None),
    ],
)
def test_what_github_tells_is_read(document: dict[str, Any], found: tuple[str, str] | None) -> None:
    assert github_push("registry_package", document) == found


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(
                ["events", "action", "target", "repository", "tag", "id", "package", "name", "owner", "login"]
            ),
            inner,
            max_size=4,
        )
    ),
    max_leaves=12,
)


@given(st.dictionaries(st.sampled_from(["events", "action", "package", "registry_package"]), JSON, max_size=4))
def test_no_shape_of_a_document_makes_us_stumble(document: dict[str, Any]) -> None:
    list(registry_pushes(document))
    github_push("package", document)
