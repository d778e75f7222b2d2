"""Approach A of the runbook by its own commands: two machines, their health, their images, rollback, teardown.

Between them what the runbook promises without a command: what is pushed is served, settings take effect at a restart,
machines come back after a power cut, and `wopr local` does the same as the commands.
"""

import json
from collections.abc import Iterator

import pytest
from tests.live import wait_for
from tests.machines.engine import Engine
from tests.runbook.machines import PLATFORM, Machines, prepared
from tests.runbook.shell import blocks_of, of_two_machines

from wopr.delivery.topology import VOLUMES

TAKER = "wopr-test-taker"
DOWN = "docker compose -f ~/wopr-ops/local/docker-compose.yml down"
NODE = "local-gpu-node-001"
RELEASE_SECONDS = 300.0


@pytest.fixture(scope="module")
def machines(
    engine: Engine,
    platform_image: str,
    bot_image: str,
    third_party_images: object,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Machines]:
    """A home folder as the runbook wants it; the machines and their volumes are gone at the end."""
    with prepared(engine, platform_image, bot_image, tmp_path_factory.mktemp("home")) as made:
        yield made


def test_the_two_machines_come_up_serve_deliver_roll_back_and_are_torn_down(machines: Machines) -> None:
    _first_time_setup(machines)
    _health(machines)
    _the_node_registered_itself_and_may_be_seeded(machines)
    _an_image_that_is_loaded_is_served(machines)
    _restarts_keep_everything_and_read_the_settings(machines)
    _what_is_pushed_is_served(machines)
    _rollback(machines)
    _teardown_keeps_data_unless_it_is_told_to_wipe(machines)
    assert not machines.shell.left(of_two_machines())


def _first_time_setup(machines: Machines) -> None:
    (block,) = blocks_of("First-time setup")
    written = machines.shell.run_block(block, after={" ~/wopr-ops": machines.choose, "up -d": machines.bring_images})
    settings = (machines.local / "vps" / ".env").read_text().splitlines()
    secrets_ = ["POSTGRES_PASSWORD=wopr_local_dev", "GPU_NODE_SECRET=wopr_local_gpu_secret"]
    assert settings == ["LOG_LEVEL=warning", *secrets_, "COOKIE_DOMAIN=localhost"]
    assert NODE in written[block.commands[-1]]
    machines.until_well("everything to be well")


def _health(machines: Machines) -> None:
    (block,) = blocks_of("DinD Health Check Commands")
    written = machines.shell.run_block(block)
    outer, vps, gpu, *answers, node = written.values()
    assert {line.split()[0] for line in outer.splitlines()} >= {"wopr-vps", "wopr-gpu"}  # other tests have more
    names = ("caddy", "postgres", "api-blue", "ui-blue", "deliverer", "platform-api", "watchtower")
    assert {f"wopr-vps-{name}" for name in names} <= {line.split()[0] for line in vps.splitlines()}
    assert "unhealthy" not in vps + gpu
    assert json.loads(answers[0]) == {"status": "ok"}
    assert len(answers) == 5
    assert node.count(": true") == 4
    for name in ("wopr-gpu", "wopr-vps-postgres"):  # a machine, and a container inside one
        told = machines.wopr("logs", name, "--tail", "1")
        assert (told["name"], bool(told["line"])) == (name, True)


def _the_node_registered_itself_and_may_be_seeded(machines: Machines) -> None:
    (node,) = machines.wopr("status")["nodes"]
    address = machines.engine.address("wopr-gpu")
    assert (node["id"], node["host"], node["status"]) == (NODE, address, "active")
    machines.shell.folder = machines.local.parent
    for block in blocks_of("DinD GPU Seeder"):
        machines.shell.run_block(block)
    (seeded,) = machines.wopr("seed")["nodes"]
    assert (seeded["id"], seeded["host"]) == (NODE, address)


def _an_image_that_is_loaded_is_served(machines: Machines) -> None:
    assert not machines.mark()
    (block,) = blocks_of("DinD Platform Image Workflow")
    machines.shell.run_block(block)
    wait_for(lambda: machines.mark() == "changed", "the loaded image to serve", RELEASE_SECONDS)


def _restarts_keep_everything_and_read_the_settings(machines: Machines) -> None:
    registry = machines.registry
    machines.set(
        LOG_LEVEL="info",
        WOPR_IMAGE=f"{registry.server}/wopr-platform:latest",
        REGISTRY_SERVER=registry.server,
        REGISTRY_USERNAME=registry.username,
        REGISTRY_PASSWORD=registry.password,
        REGISTRY_PLAIN_HTTP=registry.server,
        DELIVER_PERIOD_SECONDS="1",
    )
    machines.engine.docker("kill", "wopr-gpu")  # as a power cut does it
    machines.engine.docker("start", "wopr-gpu")
    machines.engine.docker("restart", "wopr-vps")
    machines.until_well("both machines after their restart")
    assert machines.mark() == "changed"
    level = machines.vps("exec", "wopr-vps-ui-blue", "printenv", "LOG_LEVEL")
    assert (
        level.strip() == "info" or machines.vps("exec", "wopr-vps-ui-green", "printenv", "LOG_LEVEL").strip() == "info"
    )


def _what_is_pushed_is_served(machines: Machines) -> None:
    (block,) = blocks_of("Normal usage")
    pushed = f"{machines.registry.server}/wopr-platform:latest"
    machines.vps("build", "--tag", pushed, "-", input=f"FROM {PLATFORM}\nLABEL mark=pushed\n")
    machines.vps("push", pushed)
    for command in block.commands[:2]:
        machines.shell.run(command)
    wait_for(lambda: machines.mark() == "pushed", "the pushed image to serve", RELEASE_SECONDS)
    # It is watched for a while, during which nobody else may release.
    judged = ("logs", "wopr-vps-watchtower")
    wait_for(lambda: "is good" in machines.vps(*judged), "the pushed image to be found good", RELEASE_SECONDS)
    wait_for(lambda: machines.mark("deliverer") == "pushed", "the deliverer's own image to follow", RELEASE_SECONDS)


def _rollback(machines: Machines) -> None:
    (block,) = blocks_of("Rollback Procedure")
    written = machines.shell.run_block(block)
    assert json.loads(written[block.commands[-1]]) == {"status": "ok"}
    assert machines.mark() == "changed"


def _teardown_keeps_data_unless_it_is_told_to_wipe(machines: Machines) -> None:
    machines.shell.run(DOWN)
    kept = machines.wopr("down", "--dry-run", "--wipe")
    assert (kept["machines"], len(kept["volumes"]["removed"])) == ([], 3)
    # Somebody else has their network's address by now, and they get the next one.
    machines.engine.docker("network", "create", TAKER)
    try:
        again = machines.wopr("up")
        machines.until_well("both machines with another network between them")
    finally:
        machines.engine.docker("network", "rm", TAKER, check=False)
    assert (again["first_boot"], machines.mark()) == (False, "changed")
    assert again["loaded"] == {"wopr-vps": [], "wopr-gpu": []}
    assert [line for line in machines.engine.logs("wopr-vps").splitlines() if line == "==> VPS stack started."]
    assert machines.wopr("down", "--yes")["machines"] == ["wopr-vps", "wopr-gpu"]
    machines.shell.run(f"{DOWN} -v")
    assert not set(VOLUMES) & set(machines.engine.docker("volume", "ls", "--quiet").stdout.split())
