"""Droplets that are real machines: what a person or the platform can do with one, and what a kill leaves of it."""

import json
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from tests.machines import cloud as clouds
from tests.machines.cloud import Cloud, Key, until
from tests.machines.engine import CLOUD, Engine

USER_DATA = "#cloud-config\nruncmd:\n  - [sh, -c, 'echo $(cat /proc/sys/kernel/random/uuid) >> /root/ran']\n"
WEB_PORT = 8080


@pytest.fixture(scope="module")
def names(tmp_path_factory: pytest.TempPathFactory) -> Iterator[httpx.Client]:
    """The Cloudflare stand-in, with the zone example.com."""
    command = [sys.executable, "-m", "wopr", "emulators", "cloudflare", "--port", "0", "--dns-port", "0", "--json"]
    command += ["--zone", "example.com", "--state", str(tmp_path_factory.mktemp("names"))]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        url, token = json.loads(process.stdout.readline())["url"], {"authorization": f"Bearer {'t' * 40}"}
        with httpx.Client(base_url=url, headers=token, timeout=60) as client:
            yield client
        process.terminate()


@pytest.fixture(scope="module")
def cloud(
    engine: Engine, slim_image: str, names: httpx.Client, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Cloud]:
    where = names.get("/_emulator/dns").json()
    options = ("--name-server", f"{where['host']}:{where['port']}")
    with clouds.running(engine, tmp_path_factory.mktemp("cloud"), slim_image, *options) as running:
        yield running


@pytest.fixture(scope="module")
def key(cloud: Cloud, tmp_path_factory: pytest.TempPathFactory) -> Key:
    """A key that the account knows."""
    made = Key.made(tmp_path_factory.mktemp("keys"), "known")
    cloud.call("POST", "/v2/account/keys", {"name": "known", "public_key": made.public})
    return made


@pytest.fixture(scope="module")
def machine(cloud: Cloud, key: Key) -> int:
    """A droplet whose user data has run; each test leaves it active."""
    return made(cloud, key, "machine-1")


def made(cloud: Cloud, key: Key, name: str) -> int:
    number = order(cloud, key, name)
    up(cloud, key, number)
    return number


def order(cloud: Cloud, key: Key, name: str) -> int:
    known = cloud.call("GET", "/v2/account/keys")["ssh_keys"][0]["id"]
    assert known
    return cloud.order(name, ssh_keys=[known], user_data=USER_DATA, tags=["nodes"])


def up(cloud: Cloud, key: Key, number: int) -> str:
    """Wait until the machine has booted to its end; its public address."""
    until(lambda: cloud.status(number) == "active", cloud.told)
    address = cloud.address(number)
    # It waits for the boot to end; a machine that is about to go down has no such answer after it came back.
    until(lambda: "done" in key.ssh(address, "cloud-init status --wait; systemctl is-active docker").stdout, cloud.told)
    return address


def reaches(address: str, port: int) -> bool:
    try:
        socket.create_connection((address, port), timeout=3).close()
    except OSError:
        return False
    return True


def boots(key: Key, address: str) -> str:
    """What is new at every boot: when the first process began."""
    return key.ssh(address, "stat -c %Z /proc/1; cut -d' ' -f22 /proc/1/stat").stdout


def objects(engine: Engine, name: str) -> list[str]:
    """Containers and volumes of a droplet."""
    found = engine.docker("ps", "--all", "--format", "{{.Names}}").stdout.split()
    found += engine.docker("volume", "ls", "--format", "{{.Name}}").stdout.split()
    return [one for one in found if one.endswith(name)]


def test_a_machine_lets_in_the_keys_that_it_was_given_and_no_others(
    cloud: Cloud, key: Key, machine: int, tmp_path: Path
) -> None:
    address = cloud.address(machine)
    assert key.ssh(address, "hostname").stdout.strip() == "machine-1"
    stranger = Key.made(tmp_path, "stranger").ssh(address, "true")
    assert stranger.returncode == 255
    assert "Permission denied" in stranger.stderr


def test_a_machine_can_change_neither_clock_nor_kernel_of_its_host(cloud: Cloud, key: Key, machine: int) -> None:
    address = cloud.address(machine)
    assert "not permitted" in key.ssh(address, "date -s '2001-01-01'").stderr
    assert key.ssh(address, "systemctl is-enabled systemd-sysctl").stdout.strip() == "masked"
    missing = int(key.ssh(address, "awk '/CapBnd/ {print $2}' /proc/1/status").stdout, 16)
    assert missing & (1 << 25 | 1 << 16) == 0  # SYS_TIME and SYS_MODULE


def test_a_machine_knows_what_it_is_from_the_metadata_service(cloud: Cloud, key: Key, machine: int) -> None:
    asked = "; echo; ".join(
        f"curl -s http://169.254.169.254/metadata/v1/{part}" for part in ("id", "region", "hostname")
    )
    address = cloud.address(machine)
    assert key.ssh(address, asked).stdout.split() == [str(machine), "tor1", "machine-1"]
    assert key.ssh(address, "hostname -I").stdout.split()[:1] != []
    assert cloud.address(machine, "private") in key.ssh(address, "hostname -I").stdout


@pytest.mark.parametrize("how", ["reboot", "power_cycle", "its own reboot"])
def test_a_machine_comes_back_with_its_address_and_data_and_runs_user_data_once(
    cloud: Cloud, key: Key, machine: int, how: str
) -> None:
    address, before = cloud.address(machine), boots(key, cloud.address(machine))
    ran = key.ssh(address, "cat /root/ran").stdout
    assert ran.count("\n") == 1
    if how == "its own reboot":
        key.ssh(address, "reboot")
    else:
        assert cloud.ended(cloud.begin(machine, how)) == "completed"
    until(lambda: boots(key, address) not in ("", before), cloud.told)
    assert up(cloud, key, machine) == address
    assert key.ssh(address, "cat /root/ran").stdout == ran


def test_a_machine_that_hangs_is_helped_by_a_power_cycle(cloud: Cloud, key: Key, machine: int, engine: Engine) -> None:
    address, before = cloud.address(machine), boots(key, cloud.address(machine))
    engine.docker("pause", f"wopr-cloud-{engine.run_id}-{machine}")
    assert cloud.ended(cloud.begin(machine, "power_cycle")) == "completed"
    assert up(cloud, key, machine) == address
    assert boots(key, address) != before


@pytest.mark.parametrize("how", ["power_off", "shutdown", "its own poweroff"])
def test_a_machine_that_is_off_answers_nothing_until_it_is_switched_on(
    cloud: Cloud, key: Key, machine: int, how: str
) -> None:
    address = cloud.address(machine)
    if how == "its own poweroff":
        key.ssh(address, "poweroff")
        until(lambda: cloud.status(machine) == "off", cloud.told)
    else:
        assert cloud.ended(cloud.begin(machine, how)) == "completed"
    assert (cloud.status(machine), reaches(address, 22)) == ("off", False)
    assert cloud.ended(cloud.begin(machine, "power_on")) == "completed"
    assert up(cloud, key, machine) == address


def test_containers_run_in_a_machine_and_a_firewall_closes_their_ports(
    cloud: Cloud, key: Key, machine: int, engine: Engine, slim_image: str
) -> None:
    address = cloud.address(machine)
    with subprocess.Popen(["docker", "save", slim_image], stdout=subprocess.PIPE, env=engine.environment) as image:
        assert "Loaded image" in key.ssh(address, "docker load", stdin=image.stdout).stdout
    assert key.ssh(address, f"docker run --rm {slim_image} echo inside").stdout == "inside\n"
    options = f"--detach --restart unless-stopped --publish {WEB_PORT}:80"
    key.ssh(address, f"docker run {options} {slim_image} python3 -m http.server 80")
    until(lambda: reaches(address, WEB_PORT), cloud.told)
    anywhere = {"addresses": ["0.0.0.0/0", "::/0"]}
    ssh_only = {"name": "ssh", "inbound_rules": [{"protocol": "tcp", "ports": "22", "sources": anywhere}]}
    made = cloud.call("POST", "/v2/firewalls", ssh_only | {"tags": ["nodes"]})["firewall"]
    place = f"/v2/firewalls/{made['id']}"
    until(lambda: cloud.call("GET", place)["firewall"]["status"] == "succeeded", cloud.told)
    assert (reaches(address, WEB_PORT), reaches(address, 22)) == (False, True)
    private = cloud.address(machine, "private")
    assert (reaches(private, WEB_PORT), reaches(private, 22)) == (False, True)
    assert cloud.ended(cloud.begin(machine, "power_cycle")) == "completed"
    until(lambda: reaches(address, 22), cloud.told)
    until(lambda: key.ssh(address, f"curl -s localhost:{WEB_PORT}").returncode == 0, cloud.told)
    assert not reaches(address, WEB_PORT)
    cloud.call("DELETE", place)
    until(lambda: reaches(address, WEB_PORT), cloud.told)


def test_a_firewall_lets_in_who_it_names(cloud: Cloud, key: Key, machine: int) -> None:
    elsewhere = {"addresses": ["203.0.113.0/24"]}
    rules = [{"protocol": "tcp", "ports": "22", "sources": elsewhere}]
    address = cloud.address(machine)
    made = cloud.call("POST", "/v2/firewalls", {"name": "far", "inbound_rules": rules, "droplet_ids": [machine]})
    until(lambda: not reaches(address, 22), cloud.told)
    near = {"addresses": [f"{address.rpartition('.')[0]}.0/24"]}
    more = {"inbound_rules": [{"protocol": "tcp", "ports": "20-23", "sources": near}]}
    cloud.call("POST", f"/v2/firewalls/{made['firewall']['id']}/rules", more)
    until(lambda: reaches(address, 22), cloud.told)
    cloud.call("DELETE", f"/v2/firewalls/{made['firewall']['id']}")


def test_a_firewall_lets_out_what_it_names(cloud: Cloud, key: Key, machine: int, slim_image: str) -> None:
    """To the machine's own neighbour, from the machine and from a container in it."""
    address, neighbour = cloud.address(machine), made(cloud, key, "neighbour")
    there = cloud.address(neighbour)
    knock = f"timeout 5 bash -c '</dev/tcp/{there}/{{}}'"
    inside = f"docker run --rm {slim_image} python3 -c \"import socket; socket.create_connection(('{there}', 22), 5)\""
    web = f"systemd-run --quiet python3 -m http.server {WEB_PORT}"
    assert key.ssh(there, web).returncode == 0
    until(lambda: key.ssh(address, knock.format(WEB_PORT)).returncode == 0, cloud.told)
    assert key.ssh(address, inside).returncode == 0
    anywhere = {"addresses": ["0.0.0.0/0", "::/0"]}
    rules = {"inbound_rules": [{"protocol": "tcp", "ports": "22", "sources": anywhere}]}
    out = [{"protocol": "tcp", "ports": str(WEB_PORT), "destinations": {"droplet_ids": [neighbour]}}]
    wanted = {"name": "outward", "outbound_rules": out, "droplet_ids": [machine], **rules}
    place = f"/v2/firewalls/{cloud.call('POST', '/v2/firewalls', wanted)['firewall']['id']}"
    until(lambda: cloud.call("GET", place)["firewall"]["status"] == "succeeded", cloud.told)
    assert [key.ssh(address, knock.format(port)).returncode for port in (WEB_PORT, 22)] == [0, 124]
    assert "timed out" in key.ssh(address, inside).stderr
    asked = "curl --silent --max-time 10 http://169.254.169.254/metadata/v1/id"
    assert key.ssh(address, asked).stdout == str(machine)
    cloud.call("DELETE", place)
    until(lambda: key.ssh(address, inside).returncode == 0, cloud.told)
    cloud.destroy(neighbour)


def test_a_machine_and_its_containers_learn_the_names_of_the_accounts_zones(
    cloud: Cloud, key: Key, machine: int, slim_image: str, names: httpx.Client
) -> None:
    zone = names.get("/client/v4/zones", params={"name": "example.com"}).json()["result"][0]["id"]
    for name, content in (("vps.example.com", "203.0.113.77"), ("*.bots.example.com", "203.0.113.78")):
        record = {"type": "A", "name": name, "content": content, "ttl": 60}
        assert names.post(f"/client/v4/zones/{zone}/dns_records", json=record).is_success
    address = cloud.address(machine)
    assert key.ssh(address, "getent ahostsv4 vps.example.com | head -1").stdout.split()[:1] == ["203.0.113.77"]
    look = "python3 -c \"import socket; print(socket.gethostbyname('ada.bots.example.com'))\""
    key.ssh(address, "docker network create named")
    for network in ("bridge", "named", "host"):
        seen = key.ssh(address, f"docker run --rm --network {network} {slim_image} {look}")
        assert (network, seen.stdout, seen.stderr) == (network, "203.0.113.78\n", "")
    assert key.ssh(address, "getent hosts nobody.example.com").returncode == 2


def test_a_rebuilt_machine_has_an_empty_disk_and_its_old_address(cloud: Cloud, key: Key) -> None:
    number = made(cloud, key, "rebuilt")
    address = cloud.address(number)
    ran = key.ssh(address, "touch /root/mine; cat /root/ran").stdout
    assert cloud.ended(cloud.begin(number, "rebuild", image="ubuntu-24-04-x64")) == "completed"
    assert up(cloud, key, number) == address
    again = key.ssh(address, "ls /root/mine; cat /root/ran").stdout
    assert again.count("\n") == 1
    assert again != ran
    cloud.destroy(number)


def test_four_machines_come_up_at_once_and_leave_nothing(cloud: Cloud, key: Key, engine: Engine) -> None:
    numbers = [order(cloud, key, f"many-{i}") for i in range(4)]
    addresses = {up(cloud, key, number) for number in numbers}
    assert len(addresses) == 4
    first, second = numbers[:2]
    ping = f"timeout 5 bash -c '</dev/tcp/{cloud.address(second, 'private')}/22'"
    assert key.ssh(cloud.address(first), ping).returncode == 0
    for number in numbers:
        cloud.destroy(number)
    assert [objects(engine, str(number)) for number in numbers] == [[], [], [], []]


def test_a_create_goes_on_where_a_kill_stopped_it(cloud: Cloud, key: Key, engine: Engine) -> None:
    number = order(cloud, key, "cut-short")
    until(lambda: objects(engine, str(number)) != [], cloud.told)
    cloud.kill()
    cloud.start()
    address = up(cloud, key, number)
    assert key.ssh(address, "cat /root/ran").stdout.count("\n") == 1
    assert len(objects(engine, str(number))) == 2
    cloud.destroy(number)
    assert objects(engine, str(number)) == []


def test_a_reboot_goes_on_where_a_kill_stopped_it(cloud: Cloud, key: Key, machine: int) -> None:
    address, before = cloud.address(machine), boots(key, cloud.address(machine))
    action = cloud.begin(machine, "reboot")
    cloud.kill()
    cloud.start()
    assert cloud.ended(action) == "completed"
    assert up(cloud, key, machine) == address
    assert boots(key, address) != before


def test_machines_run_on_without_the_stand_in_and_strangers_are_removed(
    cloud: Cloud, key: Key, machine: int, engine: Engine
) -> None:
    address, before = cloud.address(machine), boots(key, cloud.address(machine))
    cloud.end()
    assert boots(key, address) == before
    prefix = f"wopr-cloud-{engine.run_id}"
    label = ("--label", f"{CLOUD}={engine.run_id}", "--label", "wopr.droplet=7")
    engine.docker("create", "--name", f"{prefix}-7", *label, engine.state(f"{prefix}-{machine}", ".Image"))
    cloud.start()
    until(lambda: objects(engine, f"{prefix}-7") == [], cloud.told)
    assert (cloud.status(machine), boots(key, address)) == ("active", before)
    cloud.begin(machine, "power_cycle")
    until(lambda: boots(key, address) not in ("", before), cloud.told)
    up(cloud, key, machine)
