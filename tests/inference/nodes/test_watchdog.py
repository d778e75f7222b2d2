"""The watchdog: what it sees is in the row, and every status has a way out."""

import asyncio
import struct
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy import text
from tests.inference.nodes.conftest import FakeService

from wopr.core.clock import ManualClock
from wopr.core.ids import NodeId
from wopr.core.platform import Platform
from wopr.inference import probes
from wopr.inference.life import Life
from wopr.inference.nodes import Node, get, register, remove
from wopr.inference.sights import DEEP, GOOD_LOOKS, Check, Look, Memory, Trouble, memories_of
from wopr.inference.watchdog import (
    CHECK_SECONDS,
    FAILURES_BEFORE_FAILED,
    REST_SECONDS_MAX,
    SLOW_SECONDS_MAX,
    Watchdog,
    judge,
    known_voices,
    watchdog_loop,
)
from wopr.inference.wire import Reply

ID = NodeId("gpu-1")


async def node_with(platform: Platform, **ports: int) -> None:
    async with platform.db.begin() as session:
        await register(session, Node(ID, "127.0.0.1", ports=ports))


async def seen(watchdog: Watchdog) -> Node:
    await watchdog.watch()
    async with watchdog.platform.db.begin() as session:
        return await get(session, ID)


async def test_an_answering_service_is_healthy_and_its_models_are_remembered(
    platform: Platform, watchdog: Watchdog, service: FakeService
) -> None:
    await node_with(platform, llama=service.port)
    node = await seen(watchdog)
    assert (node.status, node.service_health) == ("active", {"llama": True})
    assert node.last_health_at == await watchdog.platform.steady.epoch()
    assert memories_of(node.probe_state)["llama"].models == ("handbook",)


async def test_a_dead_node_fails_after_some_looks_and_comes_back_by_itself(
    platform: Platform, watchdog: Watchdog, service: FakeService, clock: ManualClock
) -> None:
    await node_with(platform, llama=service.port)
    alive_at = (await seen(watchdog)).last_health_at
    await service.stop()
    states = []
    for _ in range(FAILURES_BEFORE_FAILED):
        clock.advance(5)
        node = await seen(watchdog)
        states.append((node.status, node.service_health["llama"]))
    assert states[0] == ("degraded", False)
    assert states[-1] == ("failed", False)
    assert node.last_health_at == alive_at
    assert node.last_error is not None
    assert "llama" in node.last_error
    await service.start()
    clock.advance(REST_SECONDS_MAX)
    back = await seen(watchdog)
    assert (back.status, back.service_health, back.last_error) == ("active", {"llama": True}, None)


async def test_one_dead_service_degrades_a_node_and_leaves_the_other(
    platform: Platform, watchdog: Watchdog, service: FakeService
) -> None:
    await node_with(platform, llama=service.port, qwen=1)
    node = await seen(watchdog)
    assert (node.status, node.service_health) == ("degraded", {"llama": True, "qwen": False})


async def test_the_voices_of_a_speech_service_are_remembered_when_it_is_away(
    platform: Platform, watchdog: Watchdog, service: FakeService
) -> None:
    await node_with(platform, chatterbox=service.port)
    assert known_voices([await seen(watchdog)]) == ["rms", "lessac"]
    service.status = 503
    node = await seen(watchdog)
    assert (node.service_health, known_voices([node])) == ({"chatterbox": False}, ["rms", "lessac"])


async def test_a_loading_service_is_not_asked_yet(platform: Platform, watchdog: Watchdog, service: FakeService) -> None:
    service.status = 503
    await node_with(platform, llama=service.port)
    node = await seen(watchdog)
    assert node.service_health == {"llama": False}
    assert node.last_error == "llama: /health answered 503"


async def test_a_restart_forgets_nothing(platform: Platform, watchdog: Watchdog) -> None:
    await node_with(platform, llama=1)
    for _ in range(3):
        node = await seen(watchdog)
    assert memories_of(node.probe_state)["llama"].failures == 3


async def test_a_node_that_is_being_made_is_left_alone(
    platform: Platform, watchdog: Watchdog, service: FakeService
) -> None:
    await node_with(platform, llama=service.port)
    async with platform.db.begin() as session:
        await session.execute(_stage("creating"))
    assert (await watchdog.watch())["nodes"] == 0
    assert service.asked == 0


async def test_a_node_removed_during_a_look_stays_removed(
    platform: Platform, watchdog: Watchdog, service: FakeService
) -> None:
    await node_with(platform, llama=service.port)
    async with platform.db.begin() as session:
        await remove(session, ID)
    assert await watchdog.watch() == {"nodes": 0, "healthy": 0, "unhealthy": 0, "changed": 0}


@pytest.mark.parametrize("host", ["10.0.0.5:8080", "gpu..1", "[abc", "gpu\u20ac"])
async def test_a_host_that_is_no_address_is_unreachable_and_the_others_are_looked_at(
    platform: Platform, watchdog: Watchdog, service: FakeService, host: str
) -> None:
    await node_with(platform, llama=service.port)
    async with platform.db.begin() as session:
        await register(session, Node(NodeId("gpu-9"), "other", ports={"llama": 1}))
        await session.execute(text("UPDATE gpu_nodes SET host = :host WHERE id = 'gpu-9'"), {"host": host})
    assert (await seen(watchdog)).service_health == {"llama": True}
    async with platform.db.begin() as session:
        unusable = memories_of((await get(session, NodeId("gpu-9"))).probe_state)["llama"]
    assert (unusable.trouble, host in (unusable.error or "")) == (Trouble.UNREACHABLE, True)


async def test_a_look_that_breaks_is_told_of_that_service_alone(
    platform: Platform, watchdog: Watchdog, service: FakeService
) -> None:
    await node_with(platform, llama=service.port, qwen=service.port)
    async with platform.db.begin() as session:
        # A service that no request is known for, as a row by plain SQL may have.
        await session.execute(
            text("UPDATE gpu_nodes SET ports = ports || :more"), {"more": f'{{"gpt": {service.port}}}'}
        )
    for _ in range(2):
        node = await seen(watchdog)
    assert (node.service_health["llama"], node.service_health["qwen"]) == (True, True)
    assert node.last_error == "gpt: the look itself failed: KeyError: 'gpt'"


def test_a_silent_service_is_given_a_second_chance_and_a_refusal_is_not() -> None:
    node = Node(ID, "h", ports={"llama": 1}, service_health={"llama": True})
    silent, refused = Look("llama", Trouble.SILENT, "no answer"), Look("llama", Trouble.REFUSED, "refused")
    once = after(node, silent)
    assert once.service_health == {"llama": True}
    assert after(once, silent).service_health == {"llama": False}
    assert after(node, refused).service_health == {"llama": False}


def after(node: Node, *looks: Look, elsewhere: tuple[str, ...] = ()) -> Node:
    """The node once a pass has judged the looks."""
    verdict = judge(node, looks, 1, elsewhere=elsewhere)
    assert verdict is not None
    state = {service: memory.to_json() for service, memory in verdict.memories.items()}
    return replace(node, status=verdict.status, service_health=verdict.service_health, probe_state=state)


WELL = Look("llama", check=Check(0.1))


@given(st.lists(st.sampled_from([None, *Trouble]), max_size=20))
def test_whatever_happened_one_good_look_makes_a_node_active(history: list[Trouble | None]) -> None:
    node = Node(ID, "h", ports={"llama": 1})
    for trouble in history:
        node = after(node, WELL if trouble is None else Look("llama", trouble, "bad"))
    node = after(node, WELL)
    assert (node.status, node.service_health) == ("active", {"llama": True})
    assert memories_of(node.probe_state)["llama"].failures == 0


@pytest.mark.parametrize("trouble", DEEP)
def test_answering_health_does_not_end_what_only_requests_show(trouble: Trouble) -> None:
    node = after(Node(ID, "h", ports={"llama": 1}), Look("llama", trouble, "bad"))
    assert after(node, Look("llama")).service_health == {"llama": False}
    assert after(node, WELL).service_health == {"llama": True}


def test_a_repaired_service_serves_again_after_three_good_looks() -> None:
    node = Node(ID, "h", ports={"llama": 1}, service_health={"llama": False}, repair={"rung": "restart"})
    healths = []
    for _ in range(GOOD_LOOKS):
        node = after(node, WELL)
        healths.append(node.service_health["llama"])
    assert healths == [False, False, True]


def test_who_is_slow_is_spared_only_when_another_node_can_do_it() -> None:
    node = Node(ID, "h", ports={"llama": 1}, service_health={"llama": True})
    slow = Look("llama", Trouble.SLOW, "busy", silent_seconds=SLOW_SECONDS_MAX + 1)
    assert after(node, slow).service_health == {"llama": True}
    assert after(node, slow, elsewhere=("llama",)).service_health == {"llama": False}
    assert after(node, replace(slow, silent_seconds=1.0), elsewhere=("llama",)).service_health == {"llama": True}


def test_having_been_slow_does_not_make_the_first_failure_the_last() -> None:
    node = Node(ID, "h", ports={"llama": 1}, service_health={"llama": True})
    for _ in range(FAILURES_BEFORE_FAILED):
        node = after(node, Look("llama", Trouble.SLOW, "busy", silent_seconds=5.0))
    node = after(node, Look("llama", Trouble.SILENT, "no answer"))
    assert (node.service_health, memories_of(node.probe_state)["llama"].failures) == ({"llama": True}, 1)


async def checked(platform: Platform, watchdog: Watchdog, service: FakeService, name: str = "llama") -> None:
    """A node whose service has passed its first check."""
    await node_with(platform, **{name: service.port})
    await watchdog.watch()
    await watchdog.watch()
    assert service.checked == 1


@pytest.mark.parametrize("name", ["llama", "qwen", "chatterbox", "whisper"])
async def test_each_service_is_checked_by_its_work_but_not_at_every_look(
    platform: Platform, watchdog: Watchdog, service: FakeService, clock: ManualClock, name: str
) -> None:
    await checked(platform, watchdog, service, name)
    await watchdog.watch()
    assert service.checked == 1
    clock.advance(CHECK_SECONDS)
    assert (await seen(watchdog)).service_health == {name: True}
    assert service.checked == 2


@pytest.mark.parametrize("name", ["llama", "qwen", "chatterbox", "whisper"])
async def test_nonsense_takes_a_service_out_until_it_makes_sense(
    platform: Platform, watchdog: Watchdog, service: FakeService, clock: ManualClock, name: str
) -> None:
    await checked(platform, watchdog, service, name)
    service.nonsense = True
    clock.advance(CHECK_SECONDS)
    node = await seen(watchdog)
    assert node.service_health == {name: False}
    assert memories_of(node.probe_state)[name].trouble is Trouble.NONSENSE
    service.nonsense = False
    assert (await seen(watchdog)).service_health == {name: True}


@pytest.mark.parametrize(
    ("service", "body"),
    [
        ("qwen", b'{"data": [{"embedding": [1%s]}]}' % (b"0" * 400)),
        ("chatterbox", b"RIFF----WAVELIST" + struct.pack("<I", 16) + b"x" * 16 + b"fmt " + struct.pack("<I", 16)),
    ],
)
def test_an_answer_that_can_not_even_be_counted_is_nonsense(service: str, body: bytes) -> None:
    found = probes._judge(service, Reply(200, body), Memory(), 0.1)
    assert found.trouble is Trouble.NONSENSE
    assert found.error


async def test_a_gauge_that_is_no_number_tells_nothing(
    platform: Platform, watchdog: Watchdog, service: FakeService, clock: ManualClock, quick: None
) -> None:
    await checked(platform, watchdog, service)
    service.metrics = "llamacpp:n_decode_total 1\nllamacpp:requests_processing +Inf\n"
    service.works.clear()
    clock.advance(CHECK_SECONDS)
    node = await seen(watchdog)
    assert memories_of(node.probe_state)["llama"].trouble is Trouble.HUNG


async def test_an_embedding_of_another_size_is_nonsense_unless_the_model_is_another(
    platform: Platform, watchdog: Watchdog, service: FakeService, clock: ManualClock
) -> None:
    await checked(platform, watchdog, service, "qwen")
    service.vector = (1.0,)
    clock.advance(CHECK_SECONDS)
    assert (await seen(watchdog)).service_health == {"qwen": False}
    service.models = ("larger",)
    clock.advance(CHECK_SECONDS)
    await watchdog.watch()
    assert (await seen(watchdog)).service_health == {"qwen": True}


async def test_who_answers_health_and_nothing_else_is_found(
    platform: Platform, watchdog: Watchdog, service: FakeService, clock: ManualClock, quick: None
) -> None:
    await checked(platform, watchdog, service)
    service.works.clear()
    clock.advance(CHECK_SECONDS)
    node = await seen(watchdog)
    assert node.service_health == {"llama": False}
    assert memories_of(node.probe_state)["llama"].trouble is Trouble.HUNG


async def test_busy_is_not_hung_when_its_counters_move(
    platform: Platform, watchdog: Watchdog, service: FakeService, clock: ManualClock, quick: None
) -> None:
    await checked(platform, watchdog, service)
    service.metrics, service.ticking = "llamacpp:n_decode_total COUNT\nllamacpp:requests_processing 2\n", True
    service.works.clear()
    clock.advance(CHECK_SECONDS)
    node = await seen(watchdog)
    assert (node.service_health, node.last_error) == ({"llama": True}, None)


async def test_busy_is_not_hung_when_customers_requests_get_on(
    platform: Platform, watchdog: Watchdog, life: Life, service: FakeService, clock: ManualClock, quick: None
) -> None:
    await checked(platform, watchdog, service)
    service.works.clear()
    clock.advance(CHECK_SECONDS)
    life.hear("process gpu-1/llama=3+")
    assert (await seen(watchdog)).service_health == {"llama": True}


async def test_silence_while_requests_run_is_work(
    platform: Platform, watchdog: Watchdog, life: Life, service: FakeService, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(probes, "HEALTH_SECONDS_MAX", 0.2)
    await checked(platform, watchdog, service)
    service.breathes.clear()
    for _ in range(3):
        life.hear("process gpu-1/llama=1")
        assert (await seen(watchdog)).service_health == {"llama": True}
    life.hear("process gpu-1/llama=0")
    await watchdog.watch()
    assert (await seen(watchdog)).service_health == {"llama": False}


async def test_requests_that_show_no_progress_have_patience_but_not_for_ever(
    platform: Platform, watchdog: Watchdog, life: Life, service: FakeService, clock: ManualClock, quick: None
) -> None:
    await checked(platform, watchdog, service)
    service.works.clear()
    clock.advance(CHECK_SECONDS)
    life.hear("process gpu-1/llama=1")
    node = await seen(watchdog)
    assert (node.service_health, memories_of(node.probe_state)["llama"].trouble) == ({"llama": True}, Trouble.SLOW)
    clock.advance(probes.WORK_SECONDS_MAX)
    life.hear("process gpu-1/llama=1")
    node = await seen(watchdog)
    assert (node.service_health, memories_of(node.probe_state)["llama"].trouble) == ({"llama": False}, Trouble.HUNG)


@pytest.mark.parametrize(("status", "trouble"), [(500, Trouble.SICK), (401, Trouble.DENIED)])
async def test_errors_of_its_own_take_a_service_out(
    platform: Platform, watchdog: Watchdog, service: FakeService, clock: ManualClock, status: int, trouble: Trouble
) -> None:
    await checked(platform, watchdog, service)
    service.check_status = status
    clock.advance(CHECK_SECONDS)
    node = await seen(watchdog)
    assert (node.service_health, memories_of(node.probe_state)["llama"].trouble) == ({"llama": False}, trouble)


async def test_a_refusal_that_only_our_request_meets_is_no_fault(
    platform: Platform, watchdog: Watchdog, service: FakeService, clock: ManualClock
) -> None:
    await checked(platform, watchdog, service)
    service.check_status = 422
    clock.advance(CHECK_SECONDS)
    assert (await seen(watchdog)).service_health == {"llama": True}


async def test_a_failed_node_is_looked_at_less_and_less_often(
    platform: Platform, watchdog: Watchdog, service: FakeService, clock: ManualClock
) -> None:
    service.status = 503
    await node_with(platform, llama=service.port)
    for _ in range(100):
        await watchdog.watch()
        clock.advance(1)
    often = service.asked
    for _ in range(100):
        await watchdog.watch()
        clock.advance(1)
    assert often < 20
    assert 2 <= service.asked - often <= 100 / REST_SECONDS_MAX + 1


async def test_a_look_that_lasts_holds_no_pass_up(
    platform: Platform, life: Life, service: FakeService, clock: ManualClock
) -> None:
    other = FakeService()
    await other.start()
    watchdog = Watchdog(platform, life, waits_seconds=0.2)
    await node_with(platform, llama=service.port, qwen=other.port)
    while service.checked + other.checked < 2:
        await watchdog.watch()
    service.works.clear()
    clock.advance(CHECK_SECONDS)
    await watchdog.watch()
    await other.stop()
    while (await seen(watchdog)).service_health["qwen"]:
        pass
    assert (await seen(watchdog)).service_health == {"llama": True, "qwen": False}
    await watchdog.close()


async def test_a_look_that_ended_between_two_passes_costs_no_pass(
    platform: Platform, life: Life, service: FakeService, clock: ManualClock
) -> None:
    await node_with(platform, llama=service.port)
    watchdog = Watchdog(platform, life, waits_seconds=0.0)
    await watchdog.watch()
    for looks in (1, 2, 3):
        while under_way := {task for task in asyncio.all_tasks() if task.get_name().startswith("look ")}:
            await asyncio.wait(under_way)
        assert service.asked == looks, "each pass judged one and began the next"
        clock.advance(CHECK_SECONDS)
        assert (await seen(watchdog)).service_health == {"llama": True}
    await watchdog.close()


async def test_nothing_is_written_while_nothing_changes(
    platform: Platform, watchdog: Watchdog, service: FakeService, clock: ManualClock
) -> None:
    await checked(platform, watchdog, service)
    await watchdog.watch()
    before = await version(platform)
    clock.advance(CHECK_SECONDS)
    await watchdog.watch()
    assert await version(platform) == before


async def version(platform: Platform) -> str:
    async with platform.db.begin() as session:
        return str(await session.scalar(text("SELECT xmin FROM gpu_nodes")))


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """A hang is a hang after moments."""
    monkeypatch.setattr(probes, "CHECK_SECONDS_LEAST", 0.3)
    monkeypatch.setattr(probes, "VITALS_APART_SECONDS", 0.1)


async def test_the_loop_says_why_it_is_there(platform: Platform, life: Life) -> None:
    loop = watchdog_loop(platform, life)
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
    return text("UPDATE gpu_nodes SET provision_stage = :stage").bindparams(stage=stage)
