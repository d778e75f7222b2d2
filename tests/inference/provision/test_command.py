"""`wopr nodes provision` and its sisters, with the loop of an API in a thread beside them."""

import asyncio
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest
from sqlalchemy import update
from typer.testing import CliRunner, Result

from wopr.cli.nodes import app
from wopr.cloud.digitalocean import digitalocean
from wopr.core.clock import SystemClock
from wopr.core.db import Database
from wopr.core.notify import Notifier
from wopr.core.platform import Platform
from wopr.core.settings import Settings
from wopr.inference import rented
from wopr.inference.models import GpuNode
from wopr.inference.pager import Pager
from wopr.inference.provision import Stage
from wopr.inference.provision_loop import Provisioner
from wopr.ops.journal import Journal

from .conftest import SIZE, TOKEN, Box

PLAIN = ("--size", SIZE, "--yes")


@pytest.fixture
def home(database_address: str, box: Box, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name, value in {
        "DATABASE_URL": database_address,
        "WOPR_HOME": str(tmp_path / "home"),
        "DO_API_TOKEN": TOKEN,
        "DO_API_BASE": box.url,
        "PLATFORM_SECRET": "a platform secret for tests, long enough",
    }.items():
        monkeypatch.setenv(name, value)
    for module in ("nodes_rented", "nodes_door"):
        monkeypatch.setattr(f"wopr.cli.{module}.LOOK_SECONDS", 0.05)
    return tmp_path / "home"


def wopr(*arguments: str) -> Result:
    return CliRunner().invoke(app, list(arguments))


@contextmanager
def loop_beside(box: Box, outcome: str) -> Iterator[None]:
    """An API's loop, and machines that report `outcome` (done or failed) as soon as they are awaited."""
    over = threading.Event()

    async def run() -> None:
        settings = Settings()
        assert settings.database_url is not None
        db = Database(settings.database_url.get_secret_value(), pool_size=4)
        async with httpx.AsyncClient() as http:
            platform = Platform(settings, db, SystemClock(), http, Notifier(db))
            loop = Provisioner(platform, lambda: digitalocean(settings, http), Pager(platform))
            while not over.is_set():
                await loop.run_pass()
                await report(db)
                await asyncio.sleep(0.02)
        await db.dispose()

    async def report(db: Database) -> None:
        async with db.begin() as session:
            for row in await rented.in_motion(session):
                if row.stage is Stage.WAITING_AGENT and row.desired == "serving" and outcome == "failed":
                    await rented.fail(session, row, "no space left on device", 0)
                elif row.stage is Stage.WAITING_AGENT and outcome == "done":
                    # No port: its services need no reaching from here.
                    await session.execute(update(GpuNode).where(GpuNode.id == row.node_id).values(ports={}))
                    await rented.move(session, row, Stage.REGISTERING, row.stage_at)

    thread = threading.Thread(target=lambda: asyncio.run(run()))
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


def nodes() -> list[dict[str, object]]:
    listed: list[dict[str, object]] = json.loads(wopr("list", "--json").stdout)["nodes"]
    return listed


def test_the_price_is_told_before_anything_is_rented(home: Path, box: Box) -> None:
    planned = wopr("provision", "--size", SIZE, "--count", "2", "--dry-run")
    assert planned.exit_code == 0
    assert "would rent 2 × s-4vcpu-8gb in tor1" in planned.stdout
    assert "an hour" in planned.stdout
    unasked = wopr("provision", "--size", SIZE)
    assert (unasked.exit_code, "--yes" in unasked.stderr) == (2, True)
    assert (nodes(), box.droplets()) == ([], [])
    sizes = json.loads(wopr("sizes", "--gpu", "--json").stdout)["sizes"]
    assert all(size["gpu"] for size in sizes)
    assert float(sizes[0]["hourly_usd"]) > 0


def test_a_node_is_followed_to_the_end_shown_and_destroyed(home: Path, box: Box) -> None:
    with loop_beside(box, "done"):
        made = wopr("provision", *PLAIN, "--progress", "plain")
        assert made.exit_code == 0, made.stderr
        (node,) = nodes()
        node_id = str(node["id"])
        assert f"ready: {node_id}" in made.stdout
        assert f"{node_id} registering" in " ".join(made.stderr.split())
        shown = json.loads(wopr("show", node_id, "--json").stdout)
        assert [entry["stage"] for entry in shown["log"]][-1] == "done"
        assert (node["hourly_usd"], node["cost_so_far_usd"]) == (shown["hourly_usd"], shown["cost_so_far_usd"])
        assert f"  {node['hourly_usd']}  " in wopr("list").stdout
        assert float(str(node["hourly_usd"])) > 0
        assert "waiting_agent" in wopr("show", node_id).stdout
        assert wopr("reboot", node_id, "--yes").exit_code == 0
        gone = wopr("destroy", node_id, "--yes")
        assert (gone.exit_code, gone.stdout.strip()) == (0, f"{node_id} is gone")
    assert nodes() == []
    box.emptied()
    assert wopr("destroy", node_id, "--yes").exit_code == 0
    assert wopr("destroy", node_id, "--yes", "--exit-code").exit_code == 4
    ended = {entry.name for entry in Journal(home).read() if entry.phase == "end"}
    assert {"nodes.provision", "nodes.create", "nodes.serve", "nodes.destroy", "nodes.discard"} <= ended


def test_a_failure_ends_with_its_reason_and_what_to_do(home: Path, box: Box) -> None:
    with loop_beside(box, "failed"):
        made = wopr("provision", *PLAIN)
    (node,) = nodes()
    assert made.exit_code == 1
    assert "no space left on device" in made.stderr
    assert f"wopr nodes retry {node['id']}" in made.stderr
    assert len(box.droplets()) == 1
