"""A node from its order to serving and back, through the API, with the cloud in a box."""

from dataclasses import replace
from typing import Any

import httpx
import pytest
from sqlalchemy import text
from tests.inference.nodes.conftest import FakeService

from wopr.cloud.compute import Action, CloudError
from wopr.cloud.digitalocean import DigitalOcean
from wopr.inference.outages import services_down
from wopr.inference.trials import Trials

from .conftest import SIZE, TOKEN, Stage

ORDERED = ["creating", "waiting_active", "waiting_agent", "installing_drivers", "installing_docker"]
REPORTED = ["downloading_models", "starting_services", "registering", "done"]


async def test_a_node_is_made_serves_and_is_given_back(stage: Stage, service: FakeService) -> None:
    (node_id,) = await stage.order()
    await stage.play(node_id, service)
    made = await stage.until_stage(node_id, "done")
    assert (made["status"], made["host"], made["rented"], made["desired"]) == ("active", "127.0.0.1", True, "serving")
    assert [entry["stage"] for entry in made["log"]] == [*ORDERED, *REPORTED]
    (droplet,) = stage.box.droplets()
    assert made["machine_id"] == str(droplet["id"])
    assert droplet["name"].endswith(f"-{node_id}")

    asked = await stage.admin.post(f"/api/admin/nodes/{node_id}/destroy")
    assert (asked.status_code, asked.json()["desired"]) == (202, "gone")
    await stage.until_gone(node_id)
    stage.box.emptied()


async def test_the_firewall_follows_what_it_is_to_admit_when_the_api_starts_again(stage: Stage) -> None:
    await stage.order()
    await stage.loop.run_pass()
    assert admitted(stage) == {"10.0.0.0/8"}
    settings = stage.platform.settings.model_copy(update={"gpu_admit": "10.118.0.2/32"})
    stage.platform = replace(stage.platform, settings=settings)
    await stage.anew().run_pass()
    assert admitted(stage) == {"10.118.0.2/32"}


def admitted(stage: Stage) -> set[str]:
    """Whom the cloud lets through to our machines."""
    token = {"authorization": f"Bearer {TOKEN}"}
    (firewall,) = stage.box.http.get("/v2/firewalls", headers=token).json()["firewalls"]
    return {address for rule in firewall["inbound_rules"] for address in rule["sources"]["addresses"]}


async def test_a_machine_is_done_only_when_its_services_are_reached_from_here(
    stage: Stage, service: FakeService
) -> None:
    service.status = 503
    (node_id,) = await stage.order()
    machine = await stage.play(node_id, service)
    await machine.report("done")
    await stage.loop.run_pass()
    assert (await stage.node(node_id))["provision_stage"] == "registering"
    stage.clock.advance(11 * 60)
    failed = await stage.until_stage(node_id, "failed")
    for cause in ("GPU_REGION", "GPU_ADMIT"):
        assert cause in failed["provision_error"]


@pytest.mark.parametrize(
    ("fault", "words"),
    [
        ({"nonsense": True}, "llama: the answer is no JSON"),
        ({"check_status": 500}, "llama: a request was answered with 500"),
        ({"check_status": 401}, "llama: a request was refused with 401"),
    ],
)
async def test_a_machine_whose_service_makes_no_sense_is_not_done_and_says_which_and_what(
    stage: Stage, service: FakeService, fault: dict[str, Any], words: str
) -> None:
    vars(service).update(fault)
    (node_id,) = await stage.order()
    await stage.play(node_id, service)
    await stage.loop.run_pass()
    waiting = await stage.node(node_id)
    assert (waiting["provision_stage"], waiting["status"]) == ("registering", "provisioning")
    assert words in waiting["provision_error"]
    stage.anew()  # another process knows it as well
    stage.clock.advance(11 * 60)
    failed = await stage.until_stage(node_id, "failed")
    assert words in failed["provision_error"]
    assert "GPU_REGION" not in failed["provision_error"], "it was reached"


async def test_a_machine_is_done_as_soon_as_all_its_services_make_sense(
    stage: Stage, service: FakeService, other: FakeService
) -> None:
    other.nonsense = True
    (node_id,) = await stage.order()
    await stage.play(node_id, service, other)
    await stage.loop.run_pass()
    waiting = await stage.node(node_id)
    assert waiting["provision_stage"] == "registering"
    assert ("qwen: " in waiting["provision_error"], "llama: " in waiting["provision_error"]) == (True, False)
    other.nonsense = False
    made = await stage.until_stage(node_id, "done", passes=2)
    assert (made["status"], made["provision_error"]) == ("active", None)


async def test_a_first_request_that_lasts_longer_than_a_pass_goes_on_and_keeps_no_other_node_waiting(
    stage: Stage, service: FakeService, other: FakeService, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stage.loop, "_trials", Trials(waits_seconds=0.2))
    service.works.clear()
    (slow,) = await stage.order()
    await stage.play(slow, service)
    (quick,) = await stage.order()
    await stage.play(quick, other)
    for _ in range(3):
        await stage.loop.run_pass()
    assert (await stage.node(quick))["provision_stage"] == "done"
    waiting = await stage.node(slow)
    assert (waiting["provision_stage"], waiting["provision_error"]) == ("registering", None)
    service.works.set()
    await stage.until_stage(slow, "done", passes=3)
    assert service.checked == 1, "it was asked once, and had the time that it took"


async def test_what_is_asked_of_a_node_that_is_given_back_is_given_up(
    stage: Stage, service: FakeService, monkeypatch: pytest.MonkeyPatch
) -> None:
    trials = Trials(waits_seconds=0.2)
    monkeypatch.setattr(stage.loop, "_trials", trials)
    service.works.clear()
    (node_id,) = await stage.order()
    await stage.play(node_id, service)
    await stage.loop.run_pass()
    assert len(trials._under_way) == 1
    await stage.admin.post(f"/api/admin/nodes/{node_id}/destroy")
    await stage.until_gone(node_id)
    await stage.loop.close()
    assert not trials._under_way


@pytest.mark.parametrize("host", ["10.0.0.5:8080:80", "gpu..1", "xn--a"])
async def test_a_host_that_can_not_be_asked_keeps_no_other_node_waiting(
    stage: Stage, service: FakeService, host: str
) -> None:
    (wrong,) = await stage.order()
    await stage.play(wrong)
    # While a machine runs, its row gets its address back at every pass.
    await stage.cloud().act(str((await stage.node(wrong))["machine_id"]), Action.POWER_OFF)
    stage.box.settled()
    async with stage.platform.db.begin() as session:
        await session.execute(
            text("UPDATE gpu_nodes SET host = :host, ports = jsonb_build_object('llama', 1) WHERE id = :id"),
            {"host": host, "id": wrong},
        )
    (right,) = await stage.order()
    await stage.play(right, service)
    counts = await stage.loop.run_pass()
    assert counts["in_motion"] == 2
    assert (await stage.node(right))["provision_stage"] == "done"
    assert (await stage.node(wrong))["provision_stage"] == "registering"


async def test_a_lost_answer_to_the_token_is_asked_for_again_until_the_first_report(stage: Stage) -> None:
    (node_id,) = await stage.order()
    await stage.until_stage(node_id, "waiting_agent")
    machine = stage.machine()
    lost = await machine.open()
    again = await machine.open()
    assert (lost.status_code, again.status_code) == (200, 200)
    assert again.json() == lost.json(), "an answer that comes late says nothing else"
    assert (await machine.report("installing_drivers")).json()["changed"] is True
    spent = await machine.open()
    assert (spent.status_code, spent.json()["error"]["code"]) == (401, "unauthenticated")
    assert (await machine.report("installing_docker")).json()["changed"] is True


async def test_the_token_opens_for_an_hour_and_only_to_the_machine_of_its_order(stage: Stage) -> None:
    (node_id,) = await stage.order()
    await stage.until_stage(node_id, "waiting_agent")
    old = stage.machine()
    await old.open()
    await old.report("failed", "no space left on device")
    await stage.admin.post(f"/api/admin/nodes/{node_id}/retry")
    await stage.until_stage(node_id, "waiting_agent")
    assert (await old.open()).status_code == 401
    assert (await old.report("installing_drivers")).status_code == 401
    await stage.machine().open()

    (late,) = await stage.order()
    await stage.until_stage(late, "waiting_agent")
    stage.clock.advance(3601)
    assert (await stage.machine().open()).status_code == 401


async def test_user_data_holds_no_secret_but_the_token_and_the_rest_is_fetched(stage: Stage) -> None:
    (node_id,) = await stage.order()
    await stage.until_stage(node_id, "waiting_agent")
    machine = stage.machine()
    await machine.open()
    user_data = stage.box.booted[0].user_data
    assert machine.first["API_URL"] == "http://api.internal:3100"
    assert machine.first["NEEDS_GPU"] == "no"
    for secret in (machine.secret, "registry-password", "a platform secret", "the shared secret", "dop_v1"):
        assert secret not in user_data
    env = dict(line.split("=", 1) for line in machine.files["node.env"].splitlines())
    assert env["NODE_API_KEY"] not in user_data
    assert machine.files["gate.header"].strip() == f"authorization: Bearer {env['NODE_API_KEY']}"
    assert machine.files["registry.password"] == "registry-password"
    assert [line.split()[2] for line in machine.files["models"].splitlines()] == [
        "llama.gguf",
        "qwen2-0_5b-instruct-q8_0.gguf",
    ]


async def test_a_failure_is_told_with_the_machines_own_words_and_can_be_tried_again(
    stage: Stage, service: FakeService
) -> None:
    (node_id,) = await stage.order()
    await stage.until_stage(node_id, "waiting_agent")
    machine = stage.machine()
    await machine.open()
    await machine.report("downloading_models")
    await machine.report("failed", f"{'trying again ' * 200}\ncurl: (28) timed out\x1b[31m\x00")
    failed = await stage.node(node_id)
    assert failed["status"] == "failed"
    assert failed["provision_error"].endswith("\ncurl: (28) timed out[31m"), "its last word is why"
    assert failed["log"][-1]["detail"].startswith("downloading_models: ")
    assert (await machine.report("registering")).json() == {
        "node_id": node_id,
        "provision_stage": "failed",
        "changed": False,
    }
    assert len(stage.box.droplets()) == 1, "the machine stays for a look"
    async with stage.platform.db.begin() as session:
        (told,) = [thing for thing in await services_down(session) if thing.down]
    assert (told.key, "curl" in told.detail) == (f"making:{node_id}", True), "one incident, not one for each service"

    assert (await stage.admin.post(f"/api/admin/nodes/{node_id}/retry")).status_code == 202
    assert (await machine.report("registering")).status_code == 401, "the machine before has no say any more"
    await stage.play(node_id, service)
    await stage.until_stage(node_id, "done")
    (droplet,) = stage.box.droplets()
    assert str(droplet["id"]) != failed["machine_id"]


@pytest.mark.parametrize(
    ("stage_name", "minutes"), [("waiting_agent", 16), ("installing_drivers", 31), ("downloading_models", 91)]
)
async def test_a_stage_that_lasts_too_long_fails_with_its_name(stage: Stage, stage_name: str, minutes: int) -> None:
    (node_id,) = await stage.order()
    await stage.until_stage(node_id, "waiting_agent")
    machine = stage.machine()
    await machine.open()
    await machine.report(stage_name)
    stage.clock.advance(minutes * 60)
    failed = await stage.until_stage(node_id, "failed")
    assert failed["provision_error"].startswith(stage_name)


async def test_a_machine_that_vanishes_fails_the_node(stage: Stage) -> None:
    (node_id,) = await stage.order()
    made = await stage.until_stage(node_id, "waiting_agent")
    await stage.cloud().destroy(made["machine_id"])
    stage.box.emptied()
    await stage.loop.run_pass()
    assert (await stage.node(node_id))["provision_stage"] == "waiting_agent", "a cloud may forget for a moment"
    stage.clock.advance(61)
    assert "gone" in (await stage.until_stage(node_id, "failed"))["provision_error"]
    await stage.admin.post(f"/api/admin/nodes/{node_id}/destroy")
    await stage.until_gone(node_id)


async def test_several_are_ordered_at_once_and_the_limit_holds(stage: Stage) -> None:
    made = await stage.order(count=3)
    assert len(set(made)) == 3
    for node_id in made:
        await stage.until_stage(node_id, "waiting_agent")
    refused = await stage.admin.post("/api/admin/nodes/provision", json={"size": SIZE, "count": 3})
    assert (refused.status_code, refused.json()["error"]["code"]) == (409, "conflict")
    assert "GPU_NODES_MAX" in refused.json()["error"]["remedy"]
    assert len(stage.box.droplets()) == 3


async def test_an_order_that_is_sent_twice_rents_once(stage: Stage) -> None:
    order = {"json": {"size": SIZE}, "headers": {"idempotency-key": "a-double-click"}}
    first, second = [await stage.admin.post("/api/admin/nodes/provision", **order) for _ in range(2)]
    assert first.json() == second.json()
    assert second.headers["idempotent-replayed"] == "true"
    assert len((await stage.admin.get("/api/admin/nodes")).json()["nodes"]) == 1


async def test_costs_are_known_before_and_while(stage: Stage) -> None:
    sizes = (await stage.admin.get("/api/admin/node-sizes")).json()
    offered = next(size for size in sizes["sizes"] if size["slug"] == SIZE)
    assert any(size["gpu"] for size in sizes["sizes"])
    (node_id,) = await stage.order()
    assert (await stage.node(node_id))["cost_so_far_usd"] == "0.00"
    await stage.until_stage(node_id, "waiting_agent")
    stage.clock.advance(36_000)
    node = await stage.node(node_id)
    assert (node["hourly_cost_usd"], node["monthly_cost_usd"]) == (offered["hourly_usd"], offered["monthly_usd"])
    assert float(node["cost_so_far_usd"]) == pytest.approx(10 * float(offered["hourly_usd"]), rel=0.01)


@pytest.mark.parametrize(
    ("body", "status", "words"),
    [
        ({"size": "huge"}, 404, "wopr nodes sizes"),
        ({"region": "mars"}, 422, "It is in"),
        ({"count": 0}, 422, "from 1 to"),
        ({"size": "gpu-mi300x1-192gb"}, 422, "with nvidia in its name"),
    ],
)
async def test_an_order_that_can_not_be_filled_is_refused_before_it_costs(
    stage: Stage, body: dict[str, object], status: int, words: str
) -> None:
    answer = await stage.admin.post("/api/admin/nodes/provision", json={"size": SIZE, **body})
    assert answer.status_code == status
    assert words in answer.json()["error"]["remedy"]
    assert (await stage.admin.get("/api/admin/nodes")).json()["nodes"] == []


@pytest.mark.parametrize(
    ("size", "named", "image"),
    [
        (SIZE, "", "ubuntu-24-04-x64"),
        ("gpu-4000adax1-20gb", "", "gpu-h100x1-base"),
        ("gpu-h100x8-640gb", "", "gpu-h100x8-base"),
        ("gpu-h100x8-640gb", "debian-13-x64", "debian-13-x64"),
    ],
)
async def test_a_machine_has_the_system_for_its_number_of_gpus(stage: Stage, size: str, named: str, image: str) -> None:
    settings = stage.platform.settings.model_copy(update={"gpu_image": named})
    stage.platform = replace(stage.platform, settings=settings)
    stage.anew()
    await stage.order(size=size)
    await stage.loop.run_pass()
    stage.box.settled()
    assert [machine.image for machine in stage.box.booted] == [image]


async def test_a_machine_is_restarted(stage: Stage) -> None:
    (node_id,) = await stage.order()
    early = await stage.admin.post(f"/api/admin/nodes/{node_id}/reboot", json={})
    assert early.status_code == 409
    made = await stage.until_stage(node_id, "waiting_agent")
    action = (await stage.admin.post(f"/api/admin/nodes/{node_id}/reboot", json={"hard": True})).json()["action_id"]
    stage.box.settled()
    assert await stage.cloud().acted(made["machine_id"], action) is True


async def test_a_rented_node_is_neither_removed_nor_registered_by_hand(stage: Stage) -> None:
    (node_id,) = await stage.order()
    removed = await stage.admin.delete(f"/api/admin/nodes/{node_id}")
    assert (removed.status_code, "destroy" in removed.json()["error"]["remedy"]) == (409, True)
    registered = await stage.admin.post("/api/admin/nodes", json={"id": node_id, "host": "10.0.0.9"})
    assert registered.status_code == 409
    await stage.admin.post("/api/admin/nodes", json={"id": "by-hand", "host": "10.0.0.9"})
    for verb in ("destroy", "retry"):
        assert (await stage.admin.post(f"/api/admin/nodes/by-hand/{verb}")).status_code == 409
    assert (await stage.admin.post("/api/admin/nodes/nobody/destroy")).status_code == 404


async def test_a_node_registers_itself_with_the_shared_secret_and_its_id(stage: Stage) -> None:
    await stage.admin.post("/api/admin/nodes", json={"id": "by-hand", "host": "10.0.0.9"})

    async def told(name: str, secret: str = "the shared secret of nodes") -> httpx.Response:
        params = {"stage": name, "node_id": "by-hand"}
        return await stage.admin.post(
            "/internal/gpu/register", params=params, headers={"authorization": f"Bearer {secret}"}
        )

    assert (await told("starting_services")).json()["provision_stage"] == "starting_services"
    assert (await told("done")).json() == {"node_id": "by-hand", "provision_stage": "done", "changed": True}
    assert (await told("done")).json()["changed"] is False
    assert (await stage.node("by-hand"))["status"] == "active"
    assert (await told("done", "another")).status_code == 401
    nobody = await stage.admin.post(
        "/internal/gpu/register?stage=done&node_id=nobody",
        headers={"authorization": "Bearer the shared secret of nodes"},
    )
    assert nobody.status_code == 404
    assert (await told("nonsense")).status_code == 422


async def test_a_machine_that_is_quicker_than_our_look_is_located_all_the_same(stage: Stage) -> None:
    (node_id,) = await stage.order()
    await stage.until_stage(node_id, "waiting_active")
    machine = stage.machine()
    await machine.open()
    await machine.report("downloading_models")
    await stage.loop.run_pass()
    found = await stage.node(node_id)
    assert (found["provision_stage"], found["host"]) == ("downloading_models", "127.0.0.1")


async def test_a_report_before_the_machine_is_known_changes_nothing_and_is_told_so(stage: Stage) -> None:
    stage.box.fault(method="POST", path="/v2/droplets", status=502, after=True)
    (node_id,) = await stage.order()
    await stage.loop.run_pass()
    stage.box.settled()
    machine = stage.machine()
    await machine.open()
    assert (await machine.report("registering")).json()["provision_stage"] == "creating"
    stage.anew()
    await stage.until_stage(node_id, "waiting_agent")
    assert (await machine.report("registering")).json()["changed"] is True


async def test_one_nodes_secret_says_nothing_of_another(stage: Stage) -> None:
    first, second = await stage.order(count=2)
    await stage.until_stage(second, "waiting_agent")
    await stage.until_stage(first, "waiting_agent")
    machine = stage.machine()
    await machine.open()
    other = second if machine.first["NODE_ID"] == first else first
    headers = {"authorization": f"Bearer {machine.secret}"}
    told = await stage.admin.post(f"/internal/gpu/register?stage=failed&node_id={other}", headers=headers)
    assert told.status_code == 401
    assert (await stage.node(other))["provision_stage"] == "waiting_agent"


async def test_a_cloud_that_said_when_to_ask_again_is_not_asked_before(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    await stage.order()
    asked: list[str] = []

    async def limited(_self: object, tag: str) -> None:
        asked.append(tag)
        raise CloudError("The limit of requests is reached.", retry=True, retry_after_seconds=300)

    monkeypatch.setattr(DigitalOcean, "tagged", limited)
    with pytest.raises(CloudError):
        await stage.loop.run_pass()
    assert await stage.loop.run_pass() == {"in_motion": 1}
    assert len(asked) == 1
