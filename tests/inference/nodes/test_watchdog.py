"""The watchdog: what it sees is in the row, and every status has a way out."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.inference.nodes.conftest import FakeService

from wopr.core.clock import ManualClock
from wopr.core.ids import NodeId
from wopr.core.platform import Platform
from wopr.inference.nodes import Node, get, register, remove
from wopr.inference.watchdog import (
    FAILURES_BEFORE_FAILED,
    Look,
    Memory,
    judge,
    known_voices,
    memories_of,
    watch_nodes,
    watchdog_loop,
)

ID = NodeId("gpu-1")


async def node_with(platform: Platform, **ports: int) -> None:
    async with platform.db.begin() as session:
        await register(session, Node(ID, "127.0.0.1", ports=ports))


async def seen(platform: Platform) -> Node:
    await watch_nodes(platform)
    async with platform.db.begin() as session:
        return await get(session, ID)


async def test_an_answering_service_is_healthy_and_its_models_are_remembered(
    platform: Platform, service: FakeService, clock: ManualClock
) -> None:
    await node_with(platform, llama=service.port)
    node = await seen(platform)
    assert (node.status, node.service_health) == ("active", {"llama": True})
    assert node.last_health_at == int(clock.now().timestamp())
    assert memories_of(node.probe_state)["llama"].models == ("handbook",)


async def test_a_dead_node_fails_after_some_looks_and_comes_back_by_itself(
    platform: Platform, service: FakeService, clock: ManualClock
) -> None:
    await node_with(platform, llama=service.port)
    alive_at = (await seen(platform)).last_health_at
    await service.stop()
    states = []
    for _ in range(FAILURES_BEFORE_FAILED):
        clock.advance(5)
        node = await seen(platform)
        states.append((node.status, node.service_health["llama"]))
    assert states[0] == ("degraded", False)
    assert states[-1] == ("failed", False)
    assert node.last_health_at == alive_at
    assert node.last_error is not None
    assert "llama" in node.last_error
    await service.start()
    back = await seen(platform)
    assert (back.status, back.service_health, back.last_error) == ("active", {"llama": True}, None)


async def test_one_dead_service_degrades_a_node_and_leaves_the_other(platform: Platform, service: FakeService) -> None:
    await node_with(platform, llama=service.port, qwen=1)
    node = await seen(platform)
    assert (node.status, node.service_health) == ("degraded", {"llama": True, "qwen": False})


async def test_the_voices_of_a_speech_service_are_remembered_when_it_is_away(
    platform: Platform, service: FakeService
) -> None:
    await node_with(platform, chatterbox=service.port)
    assert known_voices([await seen(platform)]) == ["rms", "lessac"]
    service.status = 503
    node = await seen(platform)
    assert (node.service_health, known_voices([node])) == ({"chatterbox": False}, ["rms", "lessac"])


async def test_a_loading_service_is_not_asked_yet(platform: Platform, service: FakeService) -> None:
    service.status = 503
    await node_with(platform, llama=service.port)
    node = await seen(platform)
    assert node.service_health == {"llama": False}
    assert node.last_error == "llama: /health answered 503"


async def test_a_restart_forgets_nothing(platform: Platform) -> None:
    await node_with(platform, llama=1)
    for _ in range(3):
        node = await seen(platform)
    assert memories_of(node.probe_state)["llama"].failures == 3


async def test_a_node_that_is_being_made_is_left_alone(platform: Platform, service: FakeService) -> None:
    await node_with(platform, llama=service.port)
    async with platform.db.begin() as session:
        await session.execute(_stage("creating"))
    assert (await watch_nodes(platform))["nodes"] == 0
    assert service.asked == 0


async def test_a_node_removed_during_a_look_stays_removed(platform: Platform, service: FakeService) -> None:
    await node_with(platform, llama=service.port)
    async with platform.db.begin() as session:
        await remove(session, ID)
    assert await watch_nodes(platform) == {"nodes": 0, "healthy": 0, "unhealthy": 0, "changed": 0}


def test_a_slow_answer_is_given_a_second_chance_and_a_refusal_is_not() -> None:
    node = Node(ID, "h", ports={"llama": 1}, service_health={"llama": True})
    slow, refused = Look("llama", "no answer within 3.0 s"), Look("llama", "refused", hard=True)
    once = judge(node, {}, [slow], now=1)
    assert once.service_health == {"llama": True}
    assert judge(node, once.memories, [slow], now=2).service_health == {"llama": False}
    assert judge(node, {}, [refused], now=1).service_health == {"llama": False}


@given(st.lists(st.sampled_from(["ok", "slow", "hard"]), max_size=20))
def test_whatever_happened_one_good_look_makes_a_node_active(history: list[str]) -> None:
    node, memories = Node(ID, "h", ports={"llama": 1}), {"llama": Memory()}
    for now, what in enumerate([*history, "ok"]):
        look = Look("llama", None if what == "ok" else what, hard=what == "hard")
        verdict = judge(node, memories, [look], now)
        memories = dict(verdict.memories)
        node = Node(ID, "h", ports={"llama": 1}, status=verdict.status, service_health=verdict.service_health)
    assert (node.status, node.service_health, memories["llama"].failures) == ("active", {"llama": True}, 0)


async def test_the_loop_says_why_it_is_there(platform: Platform) -> None:
    loop = watchdog_loop(platform)
    assert loop.period_seconds == platform.settings.watchdog_period_seconds
    assert loop.why
    assert "wopr_nodes" in loop.wake


@pytest.mark.parametrize("period", [0, -1])
def test_a_period_must_be_positive(period: float) -> None:
    from pydantic import ValidationError

    from wopr.core.settings import Settings

    with pytest.raises(ValidationError):
        Settings(watchdog_period_seconds=period)


def _stage(stage: str) -> object:
    from sqlalchemy import text

    return text("UPDATE gpu_nodes SET provision_stage = :stage").bindparams(stage=stage)
