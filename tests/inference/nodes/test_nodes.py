"""Registering, listing and removing nodes."""

from dataclasses import replace

import httpx
import pytest

from wopr.cloud.digitalocean import DigitalOcean
from wopr.core.db import Database
from wopr.core.errors import Invalid, NotFound
from wopr.core.ids import NodeId
from wopr.inference.nodes import (
    Backend,
    Node,
    backends,
    base_url,
    check,
    healthy_backends,
    list_nodes,
    register,
    remove,
)
from wopr.inference.rented import Opened

NODE = Node(NodeId("gpu-1"), "10.0.0.5", region="fra1", size="rtx-4090", ports={"llama": 8080}, api_key="secret")


async def test_registering_twice_changes_nothing(db: Database) -> None:
    async with db.begin() as session:
        first = await register(session, NODE)
    async with db.begin() as session:
        again = await register(session, NODE)
        assert await list_nodes(session) == [again]
    assert again == first
    assert first.service_health == {"llama": False}


async def test_a_changed_registration_brings_the_row_up_to_date_and_keeps_the_key(db: Database) -> None:
    async with db.begin() as session:
        await register(session, NODE)
        moved = await register(session, replace(NODE, host="10.0.0.6", api_key=None))
        (backend,) = await backends(session)
    assert (moved.host, moved.api_key) == ("10.0.0.6", "secret")
    assert (backend.base_url, backend.api_key, backend.healthy) == ("http://10.0.0.6:8080", "secret", False)


async def test_only_services_that_answered_are_healthy(db: Database) -> None:
    async with db.begin() as session:
        ports = {"llama": 8080, "qwen": 8083}
        await register(session, replace(NODE, ports=ports, service_health={"qwen": True}))
        assert [backend.service for backend in await healthy_backends(session)] == ["qwen"]


async def test_a_removed_node_is_gone_and_cannot_be_removed_again(db: Database) -> None:
    async with db.begin() as session:
        await register(session, NODE)
        await remove(session, NODE.id)
        assert await list_nodes(session) == []
        with pytest.raises(NotFound, match="gpu-1"):
            await remove(session, NODE.id)


@pytest.mark.parametrize(
    "wrong",
    [
        {"id": NodeId("")},
        {"id": NodeId("a\x19b")},
        {"id": NodeId("..")},
        {"host": "a b"},
        {"host": "http://10.0.0.5"},
        {"host": "10.0.0.5:8080"},
        {"host": "gpu..1"},
        {"host": "[abc"},
        {"host": "[10.0.0.5]"},
        {"host": f"{'a' * 64}.example.com"},
        {"ports": {}},
        {"ports": {"gpt": 80}},
        {"ports": {"llama": 0}},
    ],
)
async def test_what_cannot_be_a_node_is_refused_with_a_remedy(db: Database, wrong: dict[str, object]) -> None:
    async with db.begin() as session:
        with pytest.raises(Invalid) as raised:
            await register(session, replace(NODE, **wrong))
    assert raised.value.remedy


@pytest.mark.parametrize("host", ["10.0.0.5", "gpu-1.example.com.", "::1", "[fd00::1]", "localhost"])
def test_names_and_addresses_of_both_versions_can_be_hosts(host: str) -> None:
    check(replace(NODE, host=host))


def test_addresses_of_version_six_get_brackets() -> None:
    assert base_url("::1", 8080) == "http://[::1]:8080"


@pytest.mark.parametrize(
    "holder",
    [
        replace(NODE, api_key="hush"),
        Backend(NODE.id, "llama", "http://10.0.0.5:8080", "hush", healthy=True),
        Opened(NODE.id, "1", "hush", "hush"),
        DigitalOcean(httpx.AsyncClient(), "http://cloud", "hush"),
    ],
)
def test_who_holds_a_secret_does_not_print_it(holder: object) -> None:
    assert "hush" not in repr(holder)
