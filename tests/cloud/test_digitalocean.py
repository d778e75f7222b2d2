"""The door to DigitalOcean against the cloud in a box: pages, limits, lost answers, errors that say who must act."""

from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from pathlib import Path
from typing import Any

import httpx
import pytest
from tests.serving import served, until

from wopr.cloud.compute import Action, CloudError, Firewall, MachineStatus, Order
from wopr.cloud.digitalocean import DigitalOcean, _rules, _says, digitalocean
from wopr.core.errors import NotConfigured
from wopr.core.settings import Settings
from wopr.emulators.digitalocean import DigitalOceanSettings, build_digitalocean

TOKEN = "dop_v1_test"
TAG = "wopr:test"
ORDER = Order("wopr-test-1", "tor1", "s-1vcpu-1gb", "ubuntu-24-04-x64", "#cloud-config\n", (TAG,))
KEY = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIOMqqnkVzrm0SdG6UOoqKLsabgH5C9okWi0dh2l9GKJl"


@contextmanager
def cloud(**changes: Any) -> Iterator[str]:
    settings = DigitalOceanSettings(token=TOKEN, **{"requests_per_minute": 100_000, **changes})
    with served(build_digitalocean(settings)) as url:
        yield url


@dataclass
class Box:
    """A client, the address behind it, and how long it paused."""

    api: DigitalOcean
    url: str
    paused: list[float] = field(default_factory=list)

    def fault(self, **what: Any) -> None:
        assert httpx.post(f"{self.url}/_emulator/faults", json=what).status_code == 201

    async def active(self, machine_id: str) -> None:
        while True:
            machine = await self.api.get(machine_id)
            assert machine is not None
            if machine.status is MachineStatus.ACTIVE:
                return


@pytest.fixture
async def box() -> AsyncIterator[Box]:
    with cloud() as url:
        async with httpx.AsyncClient() as http:
            made = Box(DigitalOcean(http, url, TOKEN), url)

            async def pause(seconds: float) -> None:
                made.paused.append(seconds)

            made.api = replace(made.api, pause=pause)
            yield made


async def test_a_machine_is_made_found_restarted_and_destroyed(box: Box) -> None:
    made = await box.api.create(ORDER)
    assert (made.status, made.name, made.tags) == (MachineStatus.NEW, "wopr-test-1", (TAG,))
    await box.active(made.id)
    found = await box.api.get(made.id)
    assert found is not None
    assert found.private_ip
    assert found.public_ip
    for action in (Action.REBOOT, Action.POWER_CYCLE, Action.REBUILD):
        action_id = await box.api.act(made.id, action)
        while await box.api.acted(made.id, action_id) is None:
            pass
        assert await box.api.acted(made.id, action_id) is True
    assert await box.api.destroy(made.id) is True
    until(lambda: not httpx.get(f"{box.url}/_emulator/state").json()["droplets"])
    assert await box.api.destroy(made.id) is False
    assert await box.api.get(made.id) is None


async def test_machines_with_a_gpu_are_listed_with_the_others(box: Box) -> None:
    sizes = await box.api.sizes()
    gpu = next(size for size in sizes if size.gpu and "tor1" in size.regions)
    assert gpu.hourly_nanos > 0
    await box.api.create(replace(ORDER, name="with-gpu", size=gpu.slug, image="gpu-h100x1-base"))
    await box.api.create(ORDER)
    await box.api.create(replace(ORDER, name="another", tags=("other",)))
    assert sorted(machine.name for machine in await box.api.tagged(TAG)) == ["with-gpu", "wopr-test-1"]
    assert len(await box.api.machines()) == 3


async def test_lists_are_read_over_all_pages(box: Box, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("wopr.cloud.digitalocean.PAGE_SIZE", 2)
    for number in range(5):
        await box.api.create(replace(ORDER, name=f"wopr-test-{number}"))
    assert [machine.name for machine in await box.api.tagged(TAG)] == [f"wopr-test-{number}" for number in range(5)]


async def test_what_may_be_repeated_is_and_creating_whose_answer_is_lost_is_not(box: Box) -> None:
    box.fault(method="GET", path="/v2/account", status=503, times=3)
    assert (await box.api.account()).machines_max > 0
    assert len(box.paused) == 3
    box.fault(method="POST", path="/v2/droplets", status=500, after=True)
    with pytest.raises(CloudError) as lost:
        await box.api.create(ORDER)
    assert (lost.value.retry, lost.value.uncertain) == (True, True)
    assert len(await box.api.tagged(TAG)) == 1, "it was made, and asked for once"
    assert len(box.paused) == 3


async def test_creating_is_asked_for_again_where_certainly_nothing_was_done(box: Box) -> None:
    box.fault(method="POST", path="/v2/droplets", status=429, times=3)
    made = await box.api.create(ORDER)
    assert [machine.id for machine in await box.api.tagged(TAG)] == [made.id]
    assert len(box.paused) == 3
    sent: list[str] = []

    def away(request: httpx.Request) -> httpx.Response:
        sent.append(request.method)
        if len(sent) == 1:
            raise httpx.ConnectError("refused", request=request)
        raise httpx.ReadError("cut", request=request)

    async with httpx.AsyncClient(transport=httpx.MockTransport(away)) as http:
        with pytest.raises(CloudError) as lost:
            await replace(box.api, http=http).create(ORDER)
    assert (sent, lost.value.uncertain) == (["POST", "POST"], True), "the second one may have been heard"


async def test_a_tag_is_asked_for_until_there_is_an_answer(box: Box) -> None:
    box.fault(method="POST", path="/v2/tags", status=500, after=True)
    await box.api.ensure_firewall(Firewall("wopr-test", TAG, ("22",), ("10.0.0.0/8",)))
    assert len(box.paused) == 1


async def test_the_pause_is_what_the_cloud_asks_for_unless_that_is_too_long_to_wait_here() -> None:
    seconds = [15, 15, 15, 15, 300]

    def refuse(_request: httpx.Request) -> httpx.Response:
        return httpx.Response(429, headers={"retry-after": str(seconds.pop(0))})

    async with httpx.AsyncClient(transport=httpx.MockTransport(refuse)) as http:
        paused: list[float] = []

        async def pause(seconds: float) -> None:
            paused.append(seconds)

        api = DigitalOcean(http, "http://cloud", TOKEN, pause)
        with pytest.raises(CloudError):
            await api.account()
        assert len(paused) == len(set(paused)) == 3, "not in the moment in which everybody comes"
        assert all(15.0 <= seconds <= 18.0 for seconds in paused)
        with pytest.raises(CloudError) as limited:
            await api.account()
        assert (len(paused), seconds) == (3, []), "asking before would spend every attempt"
        assert (limited.value.retry, limited.value.retry_after_seconds) == (True, 300.0)
        assert "300 s" in limited.value.remedy


@pytest.mark.parametrize("asked", [0, 20])
async def test_a_pause_is_never_longer_than_one_waits_here(asked: int) -> None:
    paused: list[float] = []

    async def pause(seconds: float) -> None:
        paused.append(seconds)

    refusal = httpx.MockTransport(lambda _request: httpx.Response(429, headers={"retry-after": str(asked)}))
    async with httpx.AsyncClient(transport=refusal) as http:
        with pytest.raises(CloudError):
            await DigitalOcean(http, "http://cloud", TOKEN, pause).create(ORDER)
    assert paused == [float(asked)] * 3


async def test_a_date_says_as_well_when_to_ask_again() -> None:
    at = format_datetime(datetime.now(UTC) + timedelta(seconds=300), usegmt=True)
    refusal = httpx.MockTransport(lambda _request: httpx.Response(429, headers={"retry-after": at}))
    async with httpx.AsyncClient(transport=refusal) as http:
        with pytest.raises(CloudError) as limited:
            await DigitalOcean(http, "http://cloud", TOKEN).account()
    assert 290 < (limited.value.retry_after_seconds or 0) <= 300


async def test_what_the_limit_did_not_let_in_was_not_done() -> None:
    with cloud(requests_per_minute=1) as url:
        async with httpx.AsyncClient() as http:
            api = DigitalOcean(http, url, TOKEN)
            await api.account()
            with pytest.raises(CloudError) as refused:
                await api.create(ORDER)
            assert refused.value.uncertain is False
            assert (refused.value.retry_after_seconds or 0) > 0


async def test_errors_name_who_must_act(box: Box) -> None:
    with pytest.raises(CloudError, match="DO_API_TOKEN") as wrong:
        await replace(box.api, token="another").sizes()
    assert "DO_API_TOKEN" in wrong.value.remedy
    with pytest.raises(CloudError, match="invalid size") as invalid:
        await box.api.create(replace(ORDER, size="huge"))
    assert (invalid.value.retry, invalid.value.uncertain) == (False, False)
    with pytest.raises(CloudError, match="knows nothing"):
        await box.api.act("1", Action.REBOOT)


async def test_a_refused_action_names_the_machine_and_an_answer_that_can_not_be_read_is_asked_for_again() -> None:
    answers = [httpx.Response(422, json={"message": "The image is unavailable."}), httpx.Response(200, text="<html>")]
    async with httpx.AsyncClient(transport=httpx.MockTransport(lambda _request: answers.pop(0))) as http:
        api = DigitalOcean(http, "http://cloud", TOKEN)
        with pytest.raises(CloudError, match="image is unavailable") as refused:
            await api.act("1", Action.REBOOT)
        with pytest.raises(CloudError, match="can't be read") as unread:
            await api.account()
    assert (refused.value.retry, "/droplets" in refused.value.remedy) == (False, True)
    assert unread.value.retry


async def test_a_machine_that_is_busy_may_be_asked_again_later() -> None:
    with cloud(action_seconds=3600) as url:
        async with httpx.AsyncClient() as http:
            api = DigitalOcean(http, url, TOKEN)
            made = await api.create(ORDER)
            with pytest.raises(CloudError, match="busy") as busy:
                await api.act(made.id, Action.REBOOT)
            assert (busy.value.retry, busy.value.uncertain) == (True, False)


async def test_a_full_account_is_said_so() -> None:
    with cloud(droplet_limit=1) as url:
        async with httpx.AsyncClient() as http:
            api = DigitalOcean(http, url, TOKEN)
            await api.create(ORDER)
            with pytest.raises(CloudError, match="limit") as full:
                await api.create(replace(ORDER, name="second"))
            assert "higher limit" in full.value.remedy


async def test_a_cloud_that_is_away_is_no_lost_order() -> None:
    async def pause(_seconds: float) -> None:
        return None

    async with httpx.AsyncClient() as http:
        with pytest.raises(CloudError) as away:
            await DigitalOcean(http, "http://127.0.0.1:9", TOKEN, pause).create(ORDER)
    assert (away.value.retry, away.value.uncertain) == (True, False)


@pytest.mark.parametrize("base", ["http://cloud:1:2", "http://xn--a"])
async def test_an_address_that_is_none_is_for_the_operator(base: str) -> None:
    async with httpx.AsyncClient() as http:
        with pytest.raises(CloudError, match="DO_API_BASE") as wrong:
            await DigitalOcean(http, base, TOKEN).account()
    assert not wrong.value.retry


async def test_a_key_and_a_firewall_are_there_once_however_often_they_are_asked_for(box: Box) -> None:
    first = await box.api.ensure_ssh_key("wopr-test", f"{KEY} ours")
    assert await box.api.ensure_ssh_key("wopr-test", f"{KEY} renamed") == first
    wall = Firewall("wopr-test", TAG, ("22", "8080-8083"), ("10.0.0.0/8",))
    for firewall in (wall, wall, replace(wall, sources=("10.1.0.0/16",))):
        await box.api.ensure_firewall(firewall)
    listed = (await box.api.http.get(f"{box.url}/v2/firewalls", headers={"authorization": f"Bearer {TOKEN}"})).json()[
        "firewalls"
    ]
    assert len(listed) == 1
    assert {rule["ports"] for rule in listed[0]["inbound_rules"]} == {"22", "8080-8083"}
    assert all(rule["sources"]["addresses"] == ["10.1.0.0/16"] for rule in listed[0]["inbound_rules"])
    made = await box.api.create(replace(ORDER, ssh_keys=(first,)))
    assert made.id


async def test_a_firewall_that_somebody_closed_from_inside_is_opened_again(
    box: Box, monkeypatch: pytest.MonkeyPatch
) -> None:
    wall = Firewall("wopr-test", TAG, ("22",), ("10.0.0.0/8",))
    await box.api.ensure_firewall(wall)
    headers, address = {"authorization": f"Bearer {TOKEN}"}, f"{box.url}/v2/firewalls"
    made = (await box.api.http.get(address, headers=headers)).json()["firewalls"][0]
    closed = {name: made[name] for name in ("name", "tags", "inbound_rules")} | {"outbound_rules": []}
    assert (await box.api.http.put(f"{address}/{made['id']}", json=closed, headers=headers)).is_success
    await box.api.ensure_firewall(wall)
    opened = (await box.api.http.get(address, headers=headers)).json()["firewalls"][0]
    assert {rule["protocol"] for rule in opened["outbound_rules"]} == {"tcp", "udp", "icmp"}

    sent: list[str] = []
    once = DigitalOcean._once

    async def told(self: DigitalOcean, method: str, path: str, body: Any) -> httpx.Response:
        sent.append(method)
        return await once(self, method, path, body)

    monkeypatch.setattr(DigitalOcean, "_once", told)
    await box.api.ensure_firewall(wall)
    assert "PUT" not in sent, "what is right already is left"


@pytest.mark.parametrize("ports", ["0", "all"])
def test_all_ports_are_known_as_digitalocean_writes_them(ports: str) -> None:
    wanted = _rules(Firewall("wopr-test", TAG, ("22",), ("10.0.0.0/8",)))
    shown = [{**rule, "ports": "0" if rule["protocol"] == "icmp" else ports} for rule in wanted["outbound_rules"]]
    assert _says({**wanted, "outbound_rules": shown}, wanted)


async def test_without_a_token_the_feature_says_so(tmp_path: Path) -> None:
    async with httpx.AsyncClient() as http:
        with pytest.raises(NotConfigured, match="DO_API_TOKEN"):
            digitalocean(Settings(wopr_home=tmp_path), http)
