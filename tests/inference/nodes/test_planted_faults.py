"""Faults planted in real processes: engines that are killed, stopped, busy, or behind a port that drops what comes."""

import asyncio
import signal
import subprocess
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from urllib.parse import urlsplit

import httpx
import pytest
from pydantic import SecretStr
from tests.inference.engines.test_processes import engine
from tests.inference.engines.tiny import write_tiny_model
from tests.inference.nodes.conftest import FakeService, dropping, long_recording

from wopr.core.clock import SystemClock
from wopr.core.db import Database
from wopr.core.ids import NodeId
from wopr.core.notify import Notifier
from wopr.core.platform import Platform
from wopr.core.settings import Settings
from wopr.inference import probes, wire
from wopr.inference import watchdog as watching
from wopr.inference.life import Life
from wopr.inference.nodes import Node, get, register
from wopr.inference.repair import UNREACHABLE_SECONDS, Sight, plan_repair
from wopr.inference.sights import Memory, Trouble, memories_of
from wopr.inference.watchdog import Watchdog

ID = NodeId("gpu-1")
Engine = tuple[subprocess.Popen[str], str]


@pytest.fixture
async def platform(db: Database, tmp_path: Path) -> AsyncIterator[Platform]:
    """With the machine's own clock: these processes live by it too."""
    settings = Settings(database_url=SecretStr(db.url), wopr_home=tmp_path)
    async with httpx.AsyncClient() as http:
        yield Platform(settings, db, SystemClock(), http, Notifier(db))


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(probes, "HEALTH_SECONDS_MAX", 1.0)
    monkeypatch.setattr(wire, "CONNECT_SECONDS", 0.5)
    monkeypatch.setattr(watching, "CHECK_SECONDS", 0.0)
    monkeypatch.setattr(watching, "CHECK_COST_TIMES", 0.0)


@pytest.fixture
def llama(tmp_path: Path) -> Iterator[Engine]:
    """llama.cpp's own server with a tiny model."""
    write_tiny_model(tmp_path / "tiny.gguf")
    with engine(tmp_path, "llama") as running:
        yield running


@pytest.fixture
def whisper(tmp_path: Path) -> Iterator[Engine]:
    with engine(tmp_path, "whisper") as running:
        yield running


async def node_of(platform: Platform, **addresses: str) -> None:
    ports = {service: urlsplit(address).port or 0 for service, address in addresses.items()}
    async with platform.db.begin() as session:
        await register(session, Node(ID, "127.0.0.1", ports=ports))


async def looked(watchdog: Watchdog) -> Node:
    await watchdog.watch()
    async with watchdog.platform.db.begin() as session:
        return await get(session, ID)


def memory(node: Node, service: str = "llama") -> Memory:
    return memories_of(node.probe_state)[service]


async def until(watchdog: Watchdog, done: Callable[[Node], bool]) -> Node:
    """Passes until it is so."""
    async with asyncio.timeout(60):
        while not done(node := await looked(watchdog)):  # noqa: ASYNC110
            await asyncio.sleep(0.05)
    return node


async def well(watchdog: Watchdog) -> None:
    """Until every service works and was asked to work."""
    await until(watchdog, lambda node: all(node.service_health.values()) and all(m.good == 3 for m in memories(node)))


def memories(node: Node) -> list[Memory]:
    return list(memories_of(node.probe_state).values())


async def test_a_killed_engine_is_out_at_the_next_look(platform: Platform, watchdog: Watchdog, llama: Engine) -> None:
    process, address = llama
    await node_of(platform, llama=address)
    await well(watchdog)
    process.kill()
    process.wait()
    node = await looked(watchdog)
    assert (node.service_health, memory(node).trouble) == ({"llama": False}, Trouble.REFUSED)


async def test_a_stopped_engine_is_out_and_comes_back(platform: Platform, watchdog: Watchdog, llama: Engine) -> None:
    process, address = llama
    await node_of(platform, llama=address)
    await well(watchdog)
    process.send_signal(signal.SIGSTOP)
    node = await until(watchdog, lambda node: not node.service_health["llama"])
    assert memory(node).trouble in (Trouble.SILENT, Trouble.HUNG)
    process.send_signal(signal.SIGCONT)
    await until(watchdog, lambda node: node.service_health["llama"])


async def test_an_engine_that_is_busy_for_long_is_not_touched(
    platform: Platform, watchdog: Watchdog, life: Life, whisper: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, address = whisper
    await node_of(platform, whisper=address)
    await well(watchdog)
    monkeypatch.setattr(probes, "CHECK_SECONDS_LEAST", 0.2)
    monkeypatch.setattr(probes, "LATE_TIMES", 0.0)
    monkeypatch.setattr(probes, "VITALS_APART_SECONDS", 0.1)
    recording = {"file": ("long.wav", long_recording(40), "audio/wav")}
    async with httpx.AsyncClient(timeout=120) as http, asyncio.timeout(240):
        telling = asyncio.create_task(tell(life))
        late = False
        # A fast machine may be through with one recording before a look at it is late.
        while not late:
            busy = asyncio.create_task(http.post(f"{address}/v1/audio/transcriptions", files=recording))
            while not busy.done():
                node = await looked(watchdog)
                assert node.service_health == {"whisper": True}, node.last_error
                assert plan_repair([node], Sight({}), 0).steps == ()
                late = late or memory(node, "whisper").trouble is Trouble.SLOW
            assert (await busy).status_code == 200
        telling.cancel()
    node = await until(watchdog, lambda node: memory(node, "whisper").trouble is None)
    assert node.last_error is None


async def tell(life: Life) -> None:
    """As the gateway does while a request of its runs there."""
    while True:
        life.hear("gateway gpu-1/whisper=1")
        await asyncio.sleep(0.5)


async def test_a_port_that_drops_what_comes_is_unreachable_and_only_its_service_is_out(
    platform: Platform, watchdog: Watchdog, service: FakeService
) -> None:
    with dropping() as port:
        await node_of(platform, llama=f"http://h:{port}", qwen=f"http://h:{service.port}")
        node = await until(watchdog, lambda node: memory(node).failures >= 3)
    assert node.service_health == {"llama": False, "qwen": True}
    assert memory(node).trouble is Trouble.UNREACHABLE
    later = (memory(node).failing_since or 0) + UNREACHABLE_SECONDS
    assert plan_repair([node], Sight(None), later).steps[0].services == ("llama",)


async def test_progress_of_a_real_llama_shows_in_its_counters(llama: Engine) -> None:
    _, address = llama
    body = {"prompt": "a", "max_tokens": 3}
    async with httpx.AsyncClient(timeout=30) as http:
        before = probes.read_metrics((await http.get(f"{address}/metrics")).content)
        await http.post(f"{address}/v1/completions", json=body)
        after = probes.read_metrics((await http.get(f"{address}/metrics")).content)
        slots = probes.read_slots((await http.get(f"{address}/slots")).content)
    assert before is not None
    assert after is not None
    assert before.work != after.work
    assert slots is not None
    assert (after.running, slots.running) == (0, 0)
