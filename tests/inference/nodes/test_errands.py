"""Restarting a node's services over real SSH: which key opens, which commands are allowed, whose machine it is."""

import contextlib
import os
import shlex
import subprocess
from collections.abc import AsyncIterator
from dataclasses import dataclass, field, replace
from pathlib import Path

import asyncssh
import httpx
import pytest
from fastapi import FastAPI
from pydantic import SecretStr
from sqlalchemy import text
from tests.inference.nodes.conftest import dropping

from wopr.accounts import guard
from wopr.cloud.ssh import SshFailed
from wopr.core.clock import ManualClock
from wopr.core.db import Database
from wopr.core.errors import Conflict
from wopr.core.ids import NodeId
from wopr.core.notify import Notifier
from wopr.core.platform import Platform
from wopr.core.settings import Settings
from wopr.inference import errands as restarting
from wopr.inference.api import router
from wopr.inference.cloud_init import CHECKOUT
from wopr.inference.errands import (
    authorized_key,
    command,
    ended,
    logs,
    logs_command,
    node_public_key,
    restart,
    state_command,
)
from wopr.inference.log_sources import Source
from wopr.inference.nodes import Node, get, register
from wopr.inference.repair_state import Repair, repair_of


@dataclass
class Machine:
    """An SSH server as a node has it, and what it was told to run."""

    port: int = 0
    ran: list[str] = field(default_factory=list)
    code: int = 0
    out: str = ""
    err: str = ""


@pytest.fixture
async def machine(tmp_path: Path, db: Database, clock: ManualClock) -> AsyncIterator[tuple[Machine, Platform]]:
    """A machine that admits the installation's key."""
    made = Machine()

    def run(process: "asyncssh.SSHServerProcess[str]") -> None:
        made.ran.append(process.command or "")
        process.stdout.write(made.out)
        process.stderr.write(made.err)
        process.exit(made.code)

    async with httpx.AsyncClient() as http:
        settings = Settings(database_url=SecretStr(db.url), wopr_home=tmp_path, platform_secret=SecretStr("of-tests"))
        platform = Platform(settings, db, clock, http, Notifier(db))
        (tmp_path / "authorized").write_text(f"{await node_public_key(platform)}\n")
        server = await asyncssh.listen(
            "127.0.0.1",
            0,
            server_host_keys=[asyncssh.generate_private_key("ssh-ed25519")],
            authorized_client_keys=str(tmp_path / "authorized"),
            process_factory=run,
        )
        made.port = settings.node_ssh_port = server.get_port()
        yield made, platform
        server.close()
        await server.wait_closed()


NODE = Node(NodeId("gpu-1"), "127.0.0.1")


async def test_the_containers_are_restarted_and_the_machine_is_remembered(machine: tuple[Machine, Platform]) -> None:
    told, platform = machine
    done = await restart(platform, NODE, ["qwen", "llama"])
    assert told.ran == ["docker restart --time 5 wopr-llama-cpp wopr-qwen-embeddings"]
    assert done.host_key is not None
    again = replace(NODE, repair=Repair(host_key=done.host_key).to_json())
    assert (await restart(platform, again, ["llama"])).host_key == done.host_key


async def test_a_machine_with_another_key_is_not_believed(machine: tuple[Machine, Platform]) -> None:
    told, platform = machine
    other = asyncssh.generate_private_key("ssh-ed25519").export_public_key().decode().strip()
    with pytest.raises(SshFailed, match="not known") as failed:
        await restart(platform, replace(NODE, repair=Repair(host_key=other).to_json()), ["llama"])
    assert (told.ran, failed.value.answered) == ([], True)


async def test_a_machine_that_does_not_let_us_in_did_answer(machine: tuple[Machine, Platform], tmp_path: Path) -> None:
    _, platform = machine
    (tmp_path / "authorized").write_text("")
    stranger = replace(platform, settings=platform.settings.model_copy(update={"node_ssh_port": machine[0].port}))
    async with platform.db.begin() as session:
        await session.execute(text("DELETE FROM cloud_identity"))
    with pytest.raises(SshFailed) as failed:
        await restart(stranger, NODE, ["llama"])
    assert failed.value.answered


async def test_a_restart_that_fails_is_told(machine: tuple[Machine, Platform]) -> None:
    told, platform = machine
    told.code = 1
    with pytest.raises(SshFailed, match="failed on gpu-1"):
        await restart(platform, NODE, ["llama"])


async def test_a_machine_that_is_not_there_did_not_answer(
    machine: tuple[Machine, Platform], monkeypatch: pytest.MonkeyPatch
) -> None:
    _, platform = machine
    monkeypatch.setattr(restarting, "CONNECT_SECONDS", 0.3)
    with dropping() as port:
        platform.settings.node_ssh_port = port
        with pytest.raises(SshFailed) as failed:
            await restart(platform, NODE, ["llama"])
    assert not failed.value.answered


async def test_a_host_that_is_no_address_did_not_answer(machine: tuple[Machine, Platform]) -> None:
    _, platform = machine
    with pytest.raises(SshFailed) as failed:
        await restart(platform, replace(NODE, host="gpu..1"), ["llama"])
    assert not failed.value.answered


async def test_what_can_not_stay_up_is_told_from_what_runs(machine: tuple[Machine, Platform]) -> None:
    told, platform = machine
    told.out = "/wopr-llama-cpp:running:1:0\n/wopr-whisper:restarting:0:0\n"
    assert await ended(platform, NODE, ["llama", "whisper"]) == ""
    told.out = "/wopr-llama-cpp:restarting:2:139\n/wopr-qwen-embeddings:running:2:0\n/wopr-whisper:exited:0:1\n"
    assert await ended(platform, NODE, ["llama", "whisper"]) == (
        "wopr-llama-cpp ended again after its start, with exit code 139; "
        "wopr-qwen-embeddings ended again after its start; "
        "wopr-whisper ended again after its start, with exit code 1"
    )
    assert told.ran[0] == shlex.join(state_command(["llama", "whisper"]))
    rented = replace(NODE, provider="digitalocean")
    assert "whisper" not in await ended(platform, rented, ["llama", "whisper"]), "its engine will start it"


async def test_the_lines_of_both_streams_come_in_the_order_of_their_times(machine: tuple[Machine, Platform]) -> None:
    told, platform = machine
    told.out = "2026-11-30T07:00:01Z loading\n2026-11-30T07:00:03Z ready\n"
    told.err = "2026-11-30T07:00:02Z a warning\n"
    said = await logs(platform, NODE, "llama", 50)
    assert [line.partition(" ")[2] for line in said] == ["loading", "a warning", "ready"]
    assert [line.partition(" ")[2] for line in await logs(platform, NODE, "llama", 1)] == ["ready"]
    assert told.ran[0] == "docker logs --timestamps --tail 50 wopr-llama-cpp"


@pytest.mark.parametrize("code", [0, 1])
async def test_a_machine_that_is_asked_for_its_logs_is_remembered(machine: tuple[Machine, Platform], code: int) -> None:
    told, platform = machine
    told.code = code
    async with platform.db.begin() as session:
        node = await register(session, NODE)
    with contextlib.suppress(SshFailed):
        await logs(platform, node, "llama", 1)
    async with platform.db.begin() as session:
        node = await get(session, NODE.id)
    assert repair_of(node).host_key
    impostor = asyncssh.generate_private_key("ssh-ed25519").export_public_key().decode().strip()
    async with platform.db.begin() as session:
        await session.execute(
            text("UPDATE gpu_nodes SET repair = jsonb_build_object('host_key', CAST(:k AS text))"), {"k": impostor}
        )
        node = await get(session, NODE.id)
    with pytest.raises(SshFailed, match="not known"):
        await logs(platform, node, "llama", 1)


@pytest.mark.parametrize(
    ("change", "keeps"),
    [
        ('repair = \'{"rung": "person", "phase": "called"}\'', True),
        ('repair = \'{"rung": "restart", "phase": "due"}\'', False),
        ('repair = \'{"host_key": "another"}\'', False),
        ("host = '10.0.0.9'", False),
        ("droplet_id = '7'", False),
    ],
)
async def test_a_key_is_kept_for_its_own_machine_and_in_no_step_of_the_ladder(
    machine: tuple[Machine, Platform], change: str, keeps: bool
) -> None:
    _, platform = machine
    async with platform.db.begin() as session:
        node = await register(session, NODE)
        await session.execute(text(f"UPDATE gpu_nodes SET {change}"))
        before = await get(session, NODE.id)
    await logs(platform, node, "llama", 1)
    async with platform.db.begin() as session:
        after = await get(session, NODE.id)
    assert (repair_of(after).host_key not in (None, "another")) is keeps
    assert replace(repair_of(after), host_key=None) == replace(repair_of(before), host_key=None)


async def test_how_a_machine_was_made_is_told_in_the_order_of_its_log(machine: tuple[Machine, Platform]) -> None:
    told, platform = machine
    # Programs that it runs write no times, so nothing but their place tells when they did.
    told.out = "2026-11-30T07:00:02Z stage: downloading_models\ncurl: (28) Operation timed out\n"
    rented = replace(NODE, provider="digitalocean")
    assert list(await logs(platform, rented, "making", 5)) == told.out.splitlines()
    assert told.ran == ["tail --lines 5 /var/log/wopr-node.log"]
    told.code, told.out, told.err = 1, "", "tail: cannot open '/var/log/wopr-node.log' for reading\n"
    with pytest.raises(SshFailed, match="cannot open"):
        await logs(platform, rented, "making", 5)


async def test_the_same_lines_come_through_the_api(machine: tuple[Machine, Platform]) -> None:
    told, platform = machine
    app = FastAPI()
    app.state.platform = platform
    app.include_router(router)
    app.dependency_overrides[guard.platform_admin] = lambda: None
    async with platform.db.begin() as session:
        await register(session, NODE)
    told.out = "2026-11-30T07:00:03Z ready\n2026-11-30T07:00:01Z loading\n"
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://localhost") as admin:
        said = await admin.get("/api/admin/nodes/gpu-1/logs", params={"source": "whisper", "lines": 7})
    assert said.json() == {"node": "gpu-1", "source": "whisper", "lines": sorted(told.out.splitlines())}
    assert told.ran == ["docker logs --timestamps --tail 7 wopr-whisper"]


def test_every_source_of_a_service_is_one_of_its_containers() -> None:
    assert set(Source) - {Source.MAKING} == set(restarting.CONTAINERS)


def test_the_log_is_the_one_that_a_machine_writes_while_it_is_made() -> None:
    assert f"log={restarting.MAKING_LOG}\n" in (CHECKOUT / "setup").read_text()


async def test_a_machine_of_ones_own_was_not_made_by_us(machine: tuple[Machine, Platform]) -> None:
    told, platform = machine
    with pytest.raises(Conflict, match="registered by hand") as refused:
        await logs(platform, NODE, "making", 5)
    assert "wopr nodes logs gpu-1 chatterbox" in refused.value.remedy
    assert told.ran == []


@pytest.mark.parametrize("source", ["making", "llama"])
async def test_a_machine_without_an_address_has_no_logs_yet(machine: tuple[Machine, Platform], source: str) -> None:
    told, platform = machine
    with pytest.raises(Conflict, match="no address yet") as refused:
        await logs(platform, replace(NODE, provider="digitalocean", host=""), source, 5)
    assert "wopr nodes show gpu-1" in refused.value.remedy
    assert told.ran == []


@pytest.mark.parametrize(
    "asked",
    [
        "docker restart --time 5 wopr-llama-cpp; touch PWNED",
        "docker restart --time 5 wopr-llama-cpp $(touch PWNED)",
        "docker restart --time 5 other",
        "docker rm -f wopr-llama-cpp",
        "docker logs --timestamps --tail 5 other",
        "docker logs --timestamps --tail x wopr-llama-cpp",
        "docker logs --timestamps --tail 5 --follow",
        "docker logs wopr-llama-cpp",
        "docker inspect wopr-llama-cpp; id",
        "docker inspect --format '{{.Config.Env}}' wopr-llama-cpp",
        f"{shlex.join(state_command(['llama']))} other",
        f"{shlex.join(state_command(['llama']))} $(touch PWNED)",
        "docker restart --time 5 -v",
        "sh -c id",
        "",
        "docker restart --time 5 wopr-llama-cpp\ntouch PWNED",
    ],
)
def test_the_key_of_a_node_of_ones_own_allows_nothing_else(tmp_path: Path, asked: str) -> None:
    assert forced(tmp_path, asked) == (126, "")
    assert not (tmp_path / "PWNED").exists()


def test_the_key_of_a_node_of_ones_own_allows_what_we_send(tmp_path: Path) -> None:
    code, ran = forced(tmp_path, " ".join(command(["llama", "whisper"])))
    assert (code, ran.split()) == (0, list(command(["llama", "whisper"]))[1:])


def test_it_allows_logs_too(tmp_path: Path) -> None:
    code, ran = forced(tmp_path, " ".join(logs_command("whisper", 20)))
    assert (code, ran.split()) == (0, list(logs_command("whisper", 20))[1:])


def test_it_tells_what_runs(tmp_path: Path) -> None:
    code, ran = forced(tmp_path, shlex.join(state_command(["llama", "qwen"])))
    assert (code, ran.split()) == (0, list(state_command(["llama", "qwen"]))[1:])


def forced(folder: Path, asked: str) -> tuple[int, str]:
    """What the forced command does with what was asked: its exit code, and the arguments that docker got."""
    line = authorized_key("ssh-ed25519 AAAA")
    script = line.removeprefix('restrict,command="').removesuffix('" ssh-ed25519 AAAA')
    script = script.replace('\\"', '"').replace("\\\\", "\\")
    docker = folder / "docker"
    docker.write_text(f'#!/bin/sh\necho "$@" > {folder}/ran\n')
    docker.chmod(0o755)
    environment = {"PATH": f"{folder}:{os.environ['PATH']}", "SSH_ORIGINAL_COMMAND": asked}
    done = subprocess.run(["sh", "-c", script], cwd=folder, env=environment, check=False, capture_output=True)
    ran = folder / "ran"
    return done.returncode, ran.read_text() if ran.exists() else ""
