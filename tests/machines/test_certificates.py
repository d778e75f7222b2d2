"""An installation with WOPR_TLS=dns: its names, its certificate from a test authority, renewal and end, by commands."""

import json
import socket
import ssl
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass
from ipaddress import ip_network
from pathlib import Path

import httpx
import pytest
from tests.delivery.authority import TOKEN, Authority, Zone, authority, zone
from tests.machines.engine import Engine
from tests.machines.installation import Installation, fresh

DOMAIN = "wopr.bot"
SHOWN_SECONDS = 180.0


@dataclass
class Site:
    """The installation, and what it asks."""

    made: Installation
    zone: Zone
    authority: Authority

    def ask(self, name: str, path: str) -> httpx.Response:
        """A request over https as if the name led here, from somebody who trusts the test authority."""
        context = ssl.create_default_context(cafile=str(self.authority.bundle))
        with httpx.Client(verify=context, timeout=60, trust_env=False) as client:
            url = f"https://127.0.0.1:{self.made.tls_port}{path}"
            return client.get(url, headers={"host": name}, extensions={"sni_hostname": name})

    def told(self, *words: str) -> dict[str, object]:
        done = self.made.wopr(*words, "--json")
        document: dict[str, object] = json.loads(done.stdout or "{}")
        return document | {"code": done.returncode, "stderr": done.stderr}

    def shown(self) -> str:
        """The serial of the certificate that is shown, once there is one and nothing is wrong with it."""
        deadline = time.monotonic() + SHOWN_SECONDS
        while True:
            found = self.told("certs", "status")
            if found["code"] == 0:
                served: dict[str, dict[str, str]] = found["served"]  # type: ignore[assignment]
                return served["certificate"]["serial"]
            logs = self.made.engine.docker("logs", f"{self.made.name}-certificates", check=False)
            assert time.monotonic() < deadline, (found, logs.stdout[-3000:], logs.stderr[-3000:])
            time.sleep(0.5)


@pytest.fixture(scope="module")
def site(
    engine: Engine, platform_image: str, third_party_images: object, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Site]:
    folder = tmp_path_factory.mktemp("authority")
    host = _seen_by_containers(engine)
    made = fresh(engine, platform_image)
    with zone(folder, host) as names, authority(folder / "pebble", names.server, host) as signs:
        try:
            made.folder.mkdir(parents=True, mode=0o700)
            bundle = made.folder / "authority.pem"
            bundle.write_bytes(signs.bundle.read_bytes())
            lines = {"CLOUDFLARE_API_TOKEN": TOKEN, "CLOUDFLARE_API_BASE": f"{names.url}/client/v4"}
            lines |= {"DNS_SERVERS": names.server, "PUBLIC_ADDRESS": "127.0.0.1", "WOPR_TLS": "dns"}
            lines |= {"ACME_DIRECTORY": signs.directory, "ACME_CA_BUNDLE": str(bundle)}
            chosen = [f"{name}={value}" for name, value in lines.items()]
            chosen += [f"WOPR_DOMAIN={DOMAIN}", "LOG_LEVEL=warning", "BOT_RUNTIME=process"]
            made.release(platform_image, *made.chosen(*chosen))
            yield Site(made, names, signs)
        finally:
            made.remove()


def test_a_first_release_has_its_certificate_without_a_hand(site: Site) -> None:
    assert site.shown()
    assert site.ask(f"api.{DOMAIN}", "/health").json() == {"status": "ok"}
    assert site.ask(DOMAIN, "/").status_code in (200, 303)
    assert site.ask(f"ada.bots.{DOMAIN}", "/").status_code == 404, "the page that says that bots have none"
    key = site.made.folder / "certificates" / "served" / "certificate.pem"
    assert (key.stat().st_mode & 0o777, key.stat().st_uid) == (0o600, 0)


def test_a_renewal_by_hand_restarts_nothing(site: Site) -> None:
    before, started = site.shown(), _started(site)
    assert site.told("certs", "renew", "--exit-code")["code"] == 4
    renewed = site.told("certs", "renew", "--force")
    assert (renewed["code"], renewed["fetched"], renewed["reason"]) == (0, True, "asked for"), renewed
    assert site.shown() != before
    assert _started(site) == started
    entries = [entry for entry in site.made.journal() if entry["name"] == "certs.renew"]
    assert entries[-1]["data"]["serial"] == site.shown()


def test_the_checks_of_the_edge_pass_once_the_names_are_made(site: Site) -> None:
    site.shown()
    assert site.told("dns", "apply")["code"] == 0
    checked = site.made.wopr("dns", "check", "--json")
    assert checked.returncode == 0, checked.stdout
    found = _checks(site, "tls") | _checks(site, "dns")
    assert found == dict.fromkeys(("tls.certificate", "tls.shown", "dns.records", "dns.answers"), "ok")


def test_without_dns_the_container_goes_and_caddy_fetches_its_own_again(site: Site) -> None:
    site.made.set_env("WOPR_TLS", "")
    site.made.release(site.made.platform)
    assert "certificates" not in site.made.containers()
    caddy = site.made.containers()["caddy"]["Config"]["Env"]
    assert "CADDY_TLS=automatic" in caddy
    site.made.set_env("WOPR_TLS", "dns")
    site.made.release(site.made.platform)
    assert site.shown()


def test_a_wipe_takes_the_key_away(site: Site) -> None:
    done = site.made.wopr("teardown", "--wipe", "--yes", "--json")
    assert done.returncode == 0, done.stderr
    assert not (Path(site.made.folder) / "certificates").exists()


def _seen_by_containers(engine: Engine) -> str:
    """This machine's address on the engine's bridge. Nothing is sent: the question is which one would be taken."""
    bridge = json.loads(engine.docker("network", "inspect", "bridge").stdout)[0]
    there = ip_network(bridge["IPAM"]["Config"][0]["Subnet"]).broadcast_address - 1
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.connect((str(there), 9))
        return str(probe.getsockname()[0])


def _started(site: Site) -> str:
    return str(site.made.containers()["caddy"]["State"]["StartedAt"])


def _checks(site: Site, only: str) -> dict[str, str]:
    words = ("check", "--only", only, "--dir", str(site.made.folder), "--json")
    command = [*site.made.command, *words]
    done = subprocess.run(command, capture_output=True, text=True, env=site.made.variables(), timeout=120)
    return {check["name"]: check["verdict"] for check in json.loads(done.stdout)["checks"]}
