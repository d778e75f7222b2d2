"""A platform, the cloud in a box with simulated machines, and a test that plays what runs on them."""

import base64
import re
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import httpx
import pytest
from pydantic import SecretStr
from sqlalchemy import text
from tests.inference.first_boot import FirstBoot, Here, api_of, first_env
from tests.inference.nodes.conftest import FakeService
from tests.serving import served, until

from wopr.accounts import guard
from wopr.accounts.principal import ALL_SCOPES, Principal, Role
from wopr.cloud.digitalocean import DigitalOcean, digitalocean
from wopr.core.clock import ManualClock
from wopr.core.db import Database
from wopr.core.ids import TenantId, new_id
from wopr.core.notify import Notifier
from wopr.core.platform import Platform
from wopr.core.settings import Settings
from wopr.emulators.digitalocean import DigitalOceanSettings, build_digitalocean
from wopr.emulators.digitalocean.machines import Addresses, Blueprint
from wopr.inference.pager import Pager
from wopr.inference.provision_loop import Provisioner

TOKEN = "dop_v1_test"
SIZE = "s-4vcpu-8gb"
ADMINISTRATOR = Principal(
    tenant_id=TenantId(new_id()),
    user_id=None,
    email="admin@example.com",
    role=Role.OWNER,
    scopes=ALL_SCOPES,
    platform_admin=True,
    email_verified=True,
    session_id=None,
    key_id=None,
    bot_id=None,
)


@dataclass
class Box:
    """The cloud in a box: what it was asked for, and a client of its look inside."""

    url: str
    http: httpx.Client
    booted: list[Blueprint] = field(default_factory=list)

    def droplets(self) -> list[dict[str, Any]]:
        """Everything that exists, what is being destroyed included."""
        shown: list[dict[str, Any]] = self.http.get("/_emulator/state").json()["droplets"]
        return shown

    def fault(self, **what: Any) -> None:
        """Plant what goes wrong next."""
        assert self.http.post("/_emulator/faults", json=what).status_code == 201

    def settled(self) -> None:
        """Wait until the cloud has done what it was asked."""
        until(lambda: not self.http.get("/_emulator/state").json()["pending"])

    def emptied(self) -> None:
        until(lambda: not self.droplets())

    def first_env(self, number: int = -1) -> dict[str, str]:
        """What a machine was told in its user data."""
        return first_env(self.booted[number])


@dataclass
class Stage:
    """Everything together."""

    platform: Platform
    clock: ManualClock
    box: Box
    admin: httpx.AsyncClient
    loop: Provisioner
    pager: Pager

    async def order(self, **body: Any) -> list[str]:
        answer = await self.admin.post("/api/admin/nodes/provision", json={"size": SIZE, **body})
        assert answer.status_code == 202, answer.text
        return [node["id"] for node in answer.json()["nodes"]]

    async def node(self, node_id: str) -> dict[str, Any]:
        answer = await self.admin.get(f"/api/admin/nodes/{node_id}")
        assert answer.status_code == 200, answer.text
        shown: dict[str, Any] = answer.json()
        return shown

    async def until_stage(self, node_id: str, stage: str, passes: int = 20) -> dict[str, Any]:
        """Pass until the node is there, while the cloud does its part."""
        for _ in range(passes):
            found = await self.node(node_id)
            if found["provision_stage"] == stage:
                return found
            await self.loop.run_pass()
            self.box.settled()
        raise AssertionError(f"{node_id} is {found['provision_stage']}, not {stage}: {found}")

    async def until_gone(self, node_id: str, passes: int = 20) -> None:
        for _ in range(passes):
            if (await self.admin.get(f"/api/admin/nodes/{node_id}")).status_code == 404:
                return
            await self.loop.run_pass()
            self.box.settled()
        raise AssertionError(f"{node_id} is still there")

    def machine(self, number: int = -1) -> FirstBoot:
        return FirstBoot(self.admin, self.box.first_env(number))

    async def play(self, node_id: str, *services: FakeService) -> FirstBoot:
        """A machine from its boot to the report that it is ready, with these services behind it."""
        await self.until_stage(node_id, "waiting_agent")
        machine = self.machine()
        assert (await machine.open()).status_code == 200
        ports = {f"{name}": service.port for name, service in zip(("llama", "qwen"), services, strict=False)}
        async with self.platform.db.begin() as session:
            await session.execute(
                text("UPDATE gpu_nodes SET ports = CAST(:ports AS jsonb) WHERE id = :id"),
                {"ports": str(ports).replace("'", '"'), "id": node_id},
            )
        await machine.report_stages()
        await machine.report("registering")
        return machine

    def anew(self) -> Provisioner:
        """The loop as another process would run it: it remembers nothing."""
        self.loop = Provisioner(self.platform, lambda: self.cloud(), self.pager)
        return self.loop

    def cloud(self) -> DigitalOcean:
        return replace(digitalocean(self.platform.settings, self.platform.http), pause=_at_once)


async def _at_once(_seconds: float) -> None:
    """No test waits for a pause."""


@pytest.fixture
def box(tmp_path: Path) -> Iterator[Box]:
    booted: list[Blueprint] = []

    async def boots(blueprint: Blueprint, _addresses: Addresses) -> None:
        booted.append(blueprint)

    settings = DigitalOceanSettings(state=tmp_path / "cloud.sqlite3", token=TOKEN, requests_per_minute=100_000)
    app = build_digitalocean(settings, lambda world: Here(world.documents, guest=boots))
    with served(app) as url, httpx.Client(base_url=url, timeout=30) as http:
        yield Box(url, http, booted)


@pytest.fixture
def clock() -> ManualClock:
    from datetime import UTC, datetime

    return ManualClock(datetime.now(UTC))  # the stand-in's own clock is the machine's


@pytest.fixture
def settings(db: Database, box: Box, tmp_path: Path) -> Settings:
    return Settings(
        wopr_home=tmp_path / "home",
        database_url=SecretStr(db.url),
        platform_secret=SecretStr("a platform secret for tests, long enough"),
        gpu_node_secret=SecretStr("the shared secret of nodes"),
        do_api_token=SecretStr(TOKEN),
        do_api_base=box.url,
        api_url="http://api.internal:3100",
        registry_username="puller",
        registry_password=SecretStr("registry-password"),
        gpu_nodes_max=5,
    )


@pytest.fixture
async def stage(db: Database, clock: ManualClock, box: Box, settings: Settings) -> AsyncIterator[Stage]:
    async with httpx.AsyncClient(timeout=30) as http:
        platform = Platform(settings, db, clock, http, Notifier(db))
        app = api_of(platform)
        app.dependency_overrides[guard.authenticate] = lambda: ADMINISTRATOR
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://localhost") as admin:
            pager = Pager(platform)
            made = Stage(platform, clock, box, admin, Provisioner(platform, lambda: made.cloud(), pager), pager)
            await platform.steady.epoch()  # from now on it hears of `clock.advance`
            yield made
            await pager.close()


@pytest.fixture
async def other() -> AsyncIterator[FakeService]:
    """Another service than `service`."""
    started = FakeService()
    await started.start()
    yield started
    await started.stop()


@pytest.fixture
async def service() -> AsyncIterator[FakeService]:
    started = FakeService()
    await started.start()
    yield started
    await started.stop()


def key_of(blueprint: Blueprint) -> bytes:
    """The SSH key that a machine admits."""
    (line,) = blueprint.public_keys
    return base64.b64decode(re.split(r"\s+", line)[1])
