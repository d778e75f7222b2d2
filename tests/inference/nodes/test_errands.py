"""Restarting a node's services over real SSH: which key opens, which commands are allowed, whose machine it is."""

import os
import subprocess
from collections.abc import AsyncIterator
from dataclasses import dataclass, field, replace
from pathlib import Path

import asyncssh
import httpx
import pytest
from pydantic import SecretStr
from sqlalchemy import text
from tests.inference.nodes.conftest import dropping

from wopr.cloud.ssh import SshFailed
from wopr.core.clock import ManualClock
from wopr.core.db import Database
from wopr.core.ids import NodeId
from wopr.core.notify import Notifier
from wopr.core.platform import Platform
from wopr.core.settings import Settings
from wopr.inference import errands as restarting
from wopr.inference.errands import authorized_key, command, logs, logs_command, node_public_key, restart
from wopr.inference.nodes import Node
from wopr.inference.repair_state import Repair


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


async def test_the_lines_of_both_streams_come_in_the_order_of_their_times(machine: tuple[Machine, Platform]) -> None:
    told, platform = machine
    told.out = "2026-11-30T07:00:01Z loading\n2026-11-30T07:00:03Z ready\n"
    told.err = "2026-11-30T07:00:02Z a warning\n"
    said = await logs(platform, NODE, "llama", 50)
    assert [line.partition(" ")[2] for line in said] == ["loading", "a warning", "ready"]
    assert [line.partition(" ")[2] for line in await logs(platform, NODE, "llama", 1)] == ["ready"]
    assert told.ran[0] == "docker logs --timestamps --tail 50 wopr-llama-cpp"


async def test_how_a_machine_was_made_is_told_by_its_journal(machine: tuple[Machine, Platform]) -> None:
    told, platform = machine
    told.code, told.err = 1, "No journal files were opened.\n"
    with pytest.raises(SshFailed, match="No journal files"):
        await logs(platform, NODE, "making", 5)
    assert told.ran == ["journalctl --no-pager --output short-iso --lines 5 --unit wopr-node.service"]


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
