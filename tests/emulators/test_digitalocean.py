"""The cloud in a box over HTTP, with simulated machines: what DigitalOcean answers, refuses and takes its time with."""

import asyncio
import base64
import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
from tests.serving import served, until

from wopr.emulators.digitalocean import DigitalOceanSettings, build_digitalocean
from wopr.emulators.digitalocean.machines import Addresses, Blueprint, Guest
from wopr.emulators.digitalocean.simulated import Simulated
from wopr.emulators.digitalocean.world import World

TOKEN = {"authorization": "Bearer dop_v1_test"}
RAW_KEY = b"\0\0\0\x0bssh-ed25519" + bytes(36)
KEY = f"ssh-ed25519 {base64.b64encode(RAW_KEY).decode()} ada@example.com"
ORDER: dict[str, Any] = {"name": "node-1", "region": "tor1", "size": "s-1vcpu-1gb", "image": "debian-12-x64"}


@contextmanager
def cloud(
    state: Path | None = None, boot_seconds: float = 0.0, guest: Guest | None = None, **changes: Any
) -> Iterator[httpx.Client]:
    """A stand-in with these settings, and a client with a token."""
    app = build_digitalocean(
        DigitalOceanSettings(state=state, **changes), lambda world: Simulated(world.documents, boot_seconds, guest)
    )
    with served(app) as url, httpx.Client(base_url=url, headers=TOKEN, timeout=30) as client:
        yield client


@pytest.fixture
def api(tmp_path: Path) -> Iterator[httpx.Client]:
    with cloud(tmp_path / "cloud.sqlite3") as client:
        yield client


@pytest.fixture
def slow() -> Iterator[httpx.Client]:
    """Actions here stay in progress until the test is over."""
    with cloud(action_seconds=3600) as client:
        yield client


def order(api: httpx.Client, **changes: Any) -> dict[str, Any]:
    answer = api.post("/v2/droplets", json=ORDER | changes)
    assert answer.status_code == 202, answer.text
    return answer.json()


def running(api: httpx.Client, **changes: Any) -> dict[str, Any]:
    """A droplet that is active."""
    number = order(api, **changes)["droplet"]["id"]
    until(lambda: droplet(api, number)["status"] == "active")
    return droplet(api, number)


def droplet(api: httpx.Client, number: int) -> dict[str, Any]:
    return api.get(f"/v2/droplets/{number}").json()["droplet"]


def act(api: httpx.Client, number: int, kind: str, **more: Any) -> httpx.Response:
    return api.post(f"/v2/droplets/{number}/actions", json={"type": kind, **more})


def acted(api: httpx.Client, number: int, kind: str, **more: Any) -> str:
    """Do it, and how it ended."""
    answer = act(api, number, kind, **more)
    assert answer.status_code == 201, answer.text
    address = f"/v2/actions/{answer.json()['action']['id']}"
    until(lambda: api.get(address).json()["action"]["status"] != "in-progress")
    return api.get(address).json()["action"]["status"]


def left(api: httpx.Client) -> list[Any]:
    return api.get("/_emulator/state").json()["droplets"]


def refused(answer: httpx.Response, status: int, name: str) -> str:
    """Check the shape of a refusal; its text."""
    assert (answer.status_code, answer.json()["id"]) == (status, name), answer.text
    return str(answer.json()["message"])


def test_a_droplet_begins_as_new_and_becomes_active_with_two_addresses(api: httpx.Client) -> None:
    made = order(api, tags=["wopr:test", "gpu"], user_data="#cloud-config\n", monitoring=True)
    fresh, link = made["droplet"], made["links"]["actions"][0]
    assert isinstance(fresh["id"], int)
    assert (fresh["status"], fresh["networks"]) == ("new", {"v4": [], "v6": []})
    assert (link["rel"], link["href"]) == ("create", f"{api.base_url}/v2/actions/{link['id']}".replace("//v2", "/v2"))
    until(lambda: api.get(link["href"]).json()["action"]["status"] == "completed")
    active = droplet(api, fresh["id"])
    assert (active["status"], active["size_slug"], active["region"]["slug"]) == ("active", "s-1vcpu-1gb", "tor1")
    assert (active["tags"], active["memory"], active["image"]["slug"]) == (["wopr:test", "gpu"], 1024, "debian-12-x64")
    assert {network["type"] for network in active["networks"]["v4"]} == {"public", "private"}
    assert active["created_at"].endswith("Z")
    assert api.get(f"/v2/vpcs/{active['vpc_uuid']}").json()["vpc"]["region"] == "tor1"


def test_several_names_make_several_droplets(api: httpx.Client) -> None:
    answer = api.post("/v2/droplets", json={k: v for k, v in ORDER.items() if k != "name"} | {"names": ["a", "b"]})
    assert [made["name"] for made in answer.json()["droplets"]] == ["a", "b"]
    assert len(answer.json()["links"]["actions"]) == 2


def test_a_droplet_that_was_given_back_is_gone_at_once_and_leaves_nothing(api: httpx.Client) -> None:
    number = running(api)["id"]
    assert api.delete(f"/v2/droplets/{number}").status_code == 204
    refused(api.get(f"/v2/droplets/{number}"), 404, "not_found")
    refused(api.delete(f"/v2/droplets/{number}"), 404, "not_found")
    until(lambda: left(api) == [])


def test_droplets_are_found_by_name_by_tag_and_by_kind(api: httpx.Client) -> None:
    first, second = running(api, tags=["blue"]), running(api, name="Node-2", tags=["blue", "red"])
    gpu = running(api, name="gpu-1", size="gpu-4000adax1-20gb", tags=["blue"])

    def ids(**query: str) -> list[int]:
        return [found["id"] for found in api.get("/v2/droplets", params=query).json()["droplets"]]

    assert ids() == [first["id"], second["id"]]
    assert ids(type="gpus") == [gpu["id"]]
    assert (ids(name="node-2"), ids(name="gpu-1"), ids(name="gpu-1", type="gpus")) == ([second["id"]], [], [gpu["id"]])
    assert (ids(tag_name="red"), ids(tag_name="blue")) == ([second["id"]], [first["id"], second["id"]])
    refused(api.get("/v2/droplets", params={"tag_name": "red", "type": "gpus"}), 422, "unprocessable_entity")
    assert api.delete("/v2/droplets", params={"tag_name": "blue"}).status_code == 204
    assert ids() == ids(type="gpus") == []
    until(lambda: left(api) == [])


def test_a_list_by_tag_may_show_gpu_droplets_too() -> None:
    with cloud(gpus_by_tag=True) as api:
        gpu = running(api, size="gpu-h100x1-80gb", tags=["blue"])
        assert [d["id"] for d in api.get("/v2/droplets?tag_name=blue").json()["droplets"]] == [gpu["id"]]
        assert gpu["gpu_info"] == {"count": 1, "model": "nvidia_h100", "vram": {"amount": 80, "unit": "gib"}}


def test_lists_come_in_pages_with_links(api: httpx.Client) -> None:
    numbers = [order(api, name=f"node-{i}")["droplet"]["id"] for i in range(5)]
    whole = api.get("/v2/droplets").json()
    assert (whole["meta"], whole["links"]) == ({"total": 5}, {})
    seen, address = [], "/v2/droplets?per_page=2"
    while address:
        part = api.get(address).json()
        seen += [found["id"] for found in part["droplets"]]
        address = part["links"].get("pages", {}).get("next", "")
    assert seen == numbers
    assert set(api.get("/v2/droplets?per_page=2&page=2").json()["links"]["pages"]) == {"first", "prev", "next", "last"}
    assert set(api.get("/v2/droplets?per_page=2&page=3").json()["links"]["pages"]) == {"first", "prev"}


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"name": ""}, "blank"),
        ({"name": "under_score"}, "hostname"),
        ({"size": "huge"}, "size"),
        ({"region": "moon1"}, "region"),
        ({"size": "gpu-4000adax1-20gb", "region": "ams3"}, "not available in this region"),
        ({"image": "windows"}, "image"),
        ({"ssh_keys": [12]}, "12 are invalid key identifiers"),
        ({"tags": ["a b"]}, "Tag names"),
        ({"user_data": "x" * 65537}, "64 KiB"),
        ({"vpc_uuid": "1b1f4b2e-0000-0000-0000-000000000000"}, "VPC"),
    ],
)
def test_an_order_that_cannot_be_met_is_refused(api: httpx.Client, change: dict[str, Any], says: str) -> None:
    message = refused(api.post("/v2/droplets", json=ORDER | change), 422, "unprocessable_entity")
    assert says in message
    assert left(api) == []


def test_the_account_has_a_limit_of_droplets() -> None:
    with cloud(droplet_limit=1) as api:
        assert api.get("/v2/account").json()["account"]["droplet_limit"] == 1
        order(api)
        assert "exceed your droplet limit" in refused(api.post("/v2/droplets", json=ORDER), 422, "unprocessable_entity")


def test_requests_without_a_token_or_with_another_are_refused(api: httpx.Client) -> None:
    refused(httpx.get(f"{api.base_url}/v2/account"), 401, "unauthorized")
    with cloud(token="dop_v1_right") as strict:
        refused(strict.get("/v2/account"), 401, "unauthorized")
        assert strict.get("/v2/account", headers={"authorization": "Bearer dop_v1_right"}).status_code == 200


def test_what_does_not_exist_answers_in_their_shape(api: httpx.Client) -> None:
    for address in (
        "/v2/nothing",
        "/v2/droplets/1",
        "/v2/actions/1",
        "/v2/firewalls/x",
        "/v2/images/none",
        "/v2/tags/x",
    ):
        refused(api.get(address), 404, "not_found")
    refused(api.post("/v2/droplets", content=b"{"), 400, "bad_request")


def test_each_action_changes_the_droplet_as_it_says(api: httpx.Client) -> None:
    first = running(api)
    number = first["id"]
    for kind, status in (
        ("reboot", "active"),
        ("power_cycle", "active"),
        ("power_off", "off"),
        ("power_on", "active"),
        ("shutdown", "off"),
        ("power_cycle", "active"),
    ):
        assert (kind, acted(api, number, kind)) == (kind, "completed")
        assert (kind, droplet(api, number)["status"]) == (kind, status)
    assert acted(api, number, "rebuild", image="ubuntu-24-04-x64") == "completed"
    again = droplet(api, number)
    assert (again["status"], again["image"]["slug"]) == ("active", "ubuntu-24-04-x64")
    kinds = [action["type"] for action in api.get(f"/v2/droplets/{number}/actions").json()["actions"]]
    assert kinds == ["rebuild", "power_cycle", "shutdown", "power_on", "power_off", "power_cycle", "reboot", "create"]


def test_an_action_is_in_progress_until_it_ended(slow: httpx.Client) -> None:
    number = order(slow)["droplet"]["id"]
    action = slow.get(f"/v2/droplets/{number}/actions").json()["actions"][0]
    assert (action["status"], action["completed_at"], action["type"]) == ("in-progress", None, "create")
    assert (action["resource_id"], action["resource_type"], action["region_slug"]) == (number, "droplet", "tor1")
    assert slow.get(f"/v2/droplets/{number}/actions/{action['id']}").json()["action"] == action


def test_a_droplet_that_is_busy_takes_no_other_action_and_is_not_destroyed(slow: httpx.Client) -> None:
    number = order(slow)["droplet"]["id"]
    assert "pending event" in refused(act(slow, number, "reboot"), 422, "unprocessable_entity")
    assert "pending event" in refused(slow.delete(f"/v2/droplets/{number}"), 422, "unprocessable_entity")


def test_actions_that_make_no_sense_are_refused(api: httpx.Client) -> None:
    number = running(api)["id"]
    for body in (
        {"type": "dance"},
        {},
        {"type": "power_on"},
        {"type": "rebuild", "image": "none"},
        {"type": "snapshot"},
    ):
        refused(api.post(f"/v2/droplets/{number}/actions", json=body), 422, "unprocessable_entity")
    acted(api, number, "power_off")
    assert "powered off" in refused(act(api, number, "reboot"), 422, "unprocessable_entity")


def test_keys_are_known_by_number_and_fingerprint(api: httpx.Client) -> None:
    made = api.post("/v2/account/keys", json={"name": "ada", "public_key": KEY})
    assert made.status_code == 201
    key = made.json()["ssh_key"]
    digest = hashlib.md5(RAW_KEY).hexdigest()
    assert key["fingerprint"].replace(":", "") == digest
    assert api.get(f"/v2/account/keys/{key['fingerprint']}").json() == api.get(f"/v2/account/keys/{key['id']}").json()
    twice = api.post("/v2/account/keys", json={"name": "again", "public_key": KEY})
    assert "already in use" in refused(twice, 422, "unprocessable_entity")
    bad = api.post("/v2/account/keys", json={"name": "bad", "public_key": "ssh-ed25519 ???"})
    assert "Key invalid" in refused(bad, 422, "unprocessable_entity")
    order(api, ssh_keys=[key["id"], key["fingerprint"]])
    assert api.put(f"/v2/account/keys/{key['id']}", json={"name": "bob"}).json()["ssh_key"]["name"] == "bob"
    assert api.delete(f"/v2/account/keys/{key['fingerprint']}").status_code == 204
    assert api.get("/v2/account/keys").json()["ssh_keys"] == []


def test_a_new_key_is_unknown_to_orders_for_a_while() -> None:
    with cloud(key_delay_seconds=3600) as api:
        key = api.post("/v2/account/keys", json={"name": "ada", "public_key": KEY}).json()["ssh_key"]
        answer = api.post("/v2/droplets", json=ORDER | {"ssh_keys": [key["id"]]})
        assert "invalid key identifiers" in refused(answer, 422, "unprocessable_entity")


def test_sizes_say_what_they_cost_and_where_they_are(api: httpx.Client) -> None:
    sizes = {size["slug"]: size for size in api.get("/v2/sizes?per_page=200").json()["sizes"]}
    assert sizes["s-1vcpu-1gb"]["price_monthly"] == 6
    gpu = sizes["gpu-4000adax1-20gb"]
    assert (gpu["price_hourly"], gpu["gpu_info"]["vram"]["amount"]) == (0.76, 20)
    regions = {region["slug"]: region for region in api.get("/v2/regions").json()["regions"]}
    assert all(gpu["slug"] in regions[slug]["sizes"] for slug in gpu["regions"])
    assert "gpu-4000adax1-20gb" not in regions["ams3"]["sizes"]
    assert api.get("/v2/images/debian-12-x64").json()["image"]["distribution"] == "Debian"


def test_private_networks_do_not_overlap(api: httpx.Client) -> None:
    made = api.post("/v2/vpcs", json={"name": "mine", "region": "tor1", "ip_range": "10.50.0.0/24"}).json()["vpc"]
    inside = running(api, vpc_uuid=made["id"])
    private = next(n for n in inside["networks"]["v4"] if n["type"] == "private")
    assert private["ip_address"].startswith("10.50.0.")
    overlap = api.post("/v2/vpcs", json={"name": "other", "region": "tor1", "ip_range": "10.50.0.0/16"})
    assert "overlaps" in refused(overlap, 422, "unprocessable_entity")
    members = api.get(f"/v2/vpcs/{made['id']}/members").json()["members"]
    assert [member["name"] for member in members] == ["node-1"]
    refused(api.delete(f"/v2/vpcs/{made['id']}"), 409, "conflict")
    elsewhere = api.post("/v2/droplets", json=ORDER | {"region": "ams3", "vpc_uuid": made["id"]})
    refused(elsewhere, 422, "unprocessable_entity")


def test_tags_are_put_on_and_taken_off(api: httpx.Client) -> None:
    number = running(api)["id"]
    named = {"resources": [{"resource_id": str(number), "resource_type": "droplet"}]}
    assert api.post("/v2/tags", json={"name": "spare"}).status_code == 201
    assert api.post("/v2/tags/spare/resources", json=named).status_code == 204
    assert droplet(api, number)["tags"] == ["spare"]
    assert api.get("/v2/tags/spare").json()["tag"]["resources"]["droplets"]["count"] == 1
    assert api.request("DELETE", "/v2/tags/spare/resources", json=named).status_code == 204
    assert droplet(api, number)["tags"] == []


FIREWALL: dict[str, Any] = {
    "name": "nodes",
    "inbound_rules": [{"protocol": "tcp", "ports": "22", "sources": {"addresses": ["10.0.0.0/8", "::/0"]}}],
    "outbound_rules": [{"protocol": "tcp", "ports": "all", "destinations": {"addresses": ["0.0.0.0/0", "::/0"]}}],
}


def test_a_firewall_covers_droplets_and_tags(api: httpx.Client) -> None:
    named, tagged = running(api), running(api, name="node-2", tags=["gpu"])
    made = api.post("/v2/firewalls", json=FIREWALL | {"droplet_ids": [named["id"]], "tags": ["gpu"]})
    assert made.status_code == 202
    firewall = made.json()["firewall"]
    assert {change["droplet_id"] for change in firewall["pending_changes"]} == {named["id"], tagged["id"]}
    address = f"/v2/firewalls/{firewall['id']}"
    until(lambda: api.get(address).json()["firewall"]["status"] == "succeeded")
    assert api.post(f"{address}/droplets", json={"droplet_ids": [tagged["id"]]}).status_code == 204
    assert api.request("DELETE", f"{address}/tags", json={"tags": ["gpu"]}).status_code == 204
    changed = api.get(address).json()["firewall"]
    assert (changed["droplet_ids"], changed["tags"]) == ([named["id"], tagged["id"]], [])
    rule = {"protocol": "icmp", "sources": {"tags": ["gpu"]}}
    assert api.post(f"{address}/rules", json={"inbound_rules": [rule]}).status_code == 204
    assert len(api.get(address).json()["firewall"]["inbound_rules"]) == 2
    assert api.put(address, json=FIREWALL).json()["firewall"]["droplet_ids"] == []
    assert api.delete(address).status_code == 204
    assert api.get("/v2/firewalls").json()["firewalls"] == []


def test_a_droplet_that_is_gone_is_in_no_firewall(api: httpx.Client) -> None:
    number = running(api)["id"]
    address = (
        f"/v2/firewalls/{api.post('/v2/firewalls', json=FIREWALL | {'droplet_ids': [number]}).json()['firewall']['id']}"
    )
    api.delete(f"/v2/droplets/{number}")
    until(lambda: left(api) == [])
    assert api.get(address).json()["firewall"]["droplet_ids"] == []


@pytest.mark.parametrize(
    "change",
    [
        {"name": "-x"},
        {"inbound_rules": [], "outbound_rules": []},
        {"inbound_rules": [{"protocol": "tcp", "ports": "99999", "sources": {"addresses": ["0.0.0.0/0"]}}]},
        {"inbound_rules": [{"protocol": "tcp", "ports": "22", "sources": {"addresses": ["nowhere"]}}]},
        {"inbound_rules": [{"protocol": "tcp", "ports": "22", "sources": {}}]},
        {"inbound_rules": [{"protocol": "gre", "ports": "22", "sources": {"addresses": ["0.0.0.0/0"]}}]},
        {"droplet_ids": [1]},
    ],
)
def test_a_firewall_that_makes_no_sense_is_refused(api: httpx.Client, change: dict[str, Any]) -> None:
    refused(api.post("/v2/firewalls", json=FIREWALL | change), 422, "unprocessable_entity")


def test_requests_are_limited_and_told_how_many_are_left() -> None:
    with cloud(requests_per_minute=3, requests_per_hour=10) as api:
        answers = [api.get("/v2/account") for _ in range(4)]
        assert [answer.status_code for answer in answers] == [200, 200, 200, 429]
        assert [answer.headers["ratelimit-remaining"] for answer in answers] == ["9", "8", "7", "7"]
        assert answers[0].headers["ratelimit-limit"] == "10"
        assert 0 < int(answers[3].headers["retry-after"]) <= 60
        assert int(answers[3].headers["ratelimit-reset"]) > 1_700_000_000
        assert refused(answers[3], 429, "too_many_requests")


def test_failures_come_on_demand_and_end(api: httpx.Client) -> None:
    api.post("/_emulator/faults", json={"status": 503, "times": 2, "path": "/v2/account"})
    assert api.get("/v2/sizes").status_code == 200
    assert [api.get("/v2/account").status_code for _ in range(3)] == [503, 503, 200]
    api.post("/_emulator/faults", json={"status": 429})
    assert api.get("/v2/account").headers["retry-after"] == "1"


def test_an_answer_can_be_lost_after_the_order_was_taken(api: httpx.Client) -> None:
    api.post("/_emulator/faults", json={"status": 502, "after": True, "method": "POST", "path": "/v2/droplets"})
    assert api.post("/v2/droplets", json=ORDER).status_code == 502
    assert [made["name"] for made in api.get("/v2/droplets").json()["droplets"]] == ["node-1"]


def test_an_answer_can_stay_away(api: httpx.Client) -> None:
    api.post("/_emulator/faults", json={"hang_seconds": 600, "after": True, "method": "POST"})
    with pytest.raises(httpx.ReadTimeout):
        api.post("/v2/droplets", json=ORDER, timeout=0.5)
    assert len(api.get("/v2/droplets").json()["droplets"]) == 1


def test_an_action_can_be_told_to_fail(api: httpx.Client) -> None:
    number = running(api)["id"]
    api.post("/_emulator/faults", json={"action": "reboot"})
    assert acted(api, number, "reboot") == "errored"
    assert (droplet(api, number)["status"], acted(api, number, "reboot")) == ("active", "completed")
    api.post("/_emulator/faults", json={"action": "create"})
    stuck = order(api, name="node-2")
    until(lambda: api.get(stuck["links"]["actions"][0]["href"]).json()["action"]["status"] == "errored")
    assert droplet(api, stuck["droplet"]["id"])["status"] == "new"
    assert api.delete(f"/v2/droplets/{stuck['droplet']['id']}").status_code == 204


def test_the_page_shows_droplets_and_what_they_would_cost(api: httpx.Client) -> None:
    running(api, size="gpu-h100x1-80gb", name="expensive", tags=["gpu"])
    api.post("/v2/firewalls", json=FIREWALL | {"tags": ["gpu"]})
    api.post("/_emulator/faults", json={"status": 503, "path": "/v2/account"})
    page = api.get("/_emulator/").text
    assert all(text in page for text in ("expensive", "$3.3900", "tcp 22 from 10.0.0.0/8", "/v2/account"))
    assert api.get("/").status_code == 307


def test_what_was_in_progress_goes_on_after_a_kill(tmp_path: Path) -> None:
    state = tmp_path / "cloud.sqlite3"
    with cloud(state, action_seconds=3600) as api:
        number = order(api)["droplet"]["id"]
    with cloud(state) as api:
        until(lambda: droplet(api, number)["status"] == "active")
        before = droplet(api, number)["networks"]
    with cloud(state, action_seconds=3600) as api:
        act(api, number, "reboot")
    with cloud(state) as api:
        until(lambda: api.get(f"/v2/droplets/{number}/actions").json()["actions"][0]["status"] == "completed")
        assert (droplet(api, number)["status"], droplet(api, number)["networks"]) == ("active", before)


def test_machines_that_nobody_ordered_are_removed_at_the_start(tmp_path: Path) -> None:
    destroyed: list[int] = []

    class Leftover(Simulated):
        async def power(self) -> Any:
            return {7: "running"} if not destroyed else await super().power()

        async def destroy(self, droplet_id: int) -> None:
            destroyed.append(droplet_id)

    with served(build_digitalocean(DigitalOceanSettings(), lambda world: Leftover(world.documents))):
        until(lambda: destroyed == [7])


def test_a_look_that_is_older_than_an_action_does_not_undo_it() -> None:
    class Overlapping(Simulated):
        """A machine that starts while everything is looked at."""

        def __init__(self, world: World) -> None:
            super().__init__(world.documents)
            self.world, self.looking = world, asyncio.Event()

        async def start(self, droplet_id: int) -> None:
            self.looking.clear()
            self.world.wake()
            await self.looking.wait()
            await super().start(droplet_id)

        async def power(self) -> Any:
            seen = await super().power()
            self.looking.set()
            await asyncio.sleep(0.2)
            return seen

    with served(build_digitalocean(machines_of=Overlapping)) as url, httpx.Client(base_url=url, headers=TOKEN) as api:
        number = running(api)["id"]
        running(api, name="node-2")  # by then everything was looked at again
        assert droplet(api, number)["status"] == "active"


def test_a_guest_runs_at_every_boot_with_what_its_machine_was_given() -> None:
    boots: list[tuple[Blueprint, Addresses]] = []

    async def guest(blueprint: Blueprint, addresses: Addresses) -> None:
        boots.append((blueprint, addresses))
        await asyncio.sleep(3600)

    with cloud(guest=guest) as api:
        made = running(api, user_data="#!/bin/sh\n")
        until(lambda: len(boots) == 1)
        acted(api, made["id"], "power_cycle")
        until(lambda: len(boots) == 2)
        assert boots[0][0].user_data == "#!/bin/sh\n"
        assert boots[1][1].public_ip in str(made["networks"])


def test_a_boot_takes_as_long_as_it_is_told() -> None:
    with cloud(boot_seconds=3600) as api:
        number = order(api)["droplet"]["id"]
        until(lambda: droplet(api, number)["networks"]["v4"] != [])
        assert droplet(api, number)["status"] == "new"
