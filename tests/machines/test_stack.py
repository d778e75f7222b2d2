"""The stack of one host as customers and operators meet it: Caddy's sites, a glance at everything, and its end."""

import json
import os
import re
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from tests.machines.engine import Engine
from tests.machines.installation import Installation, fresh

DOMAIN = "wopr.test"
SHIPPED = Path(__file__).parents[2] / "deploy" / "Caddyfile"
KEPT = {
    ".env",
    "journal.jsonl",
    "journal.head",
    "logbook",
    "logbook.head",
    "logbook.key",
    "logbook.lock",
    "lock.json",
    ".lock.guard",
    ".lock.busy",
}


@pytest.fixture(scope="module")
def site(engine: Engine, platform_image: str, third_party_images: object) -> Iterator[Installation]:
    """A public name with https, its certificates from Caddy's own authority."""
    made = fresh(engine, platform_image)
    try:
        made.folder.mkdir(parents=True, mode=0o700)
        edited = SHIPPED.read_text().replace(
            "{\n\t# One JSON", "{\n\tlocal_certs\n\tskip_install_trust\n\t# One JSON", 1
        )
        (made.folder / "Caddyfile").write_text(edited)
        made.release(platform_image, *made.chosen(f"WOPR_DOMAIN={DOMAIN}", "LOG_LEVEL=warning", "BOT_RUNTIME=process"))
        yield made
    finally:
        made.remove()


def ask(site: Installation, url: str, **more: object) -> httpx.Response:
    """A request to Caddy as if its names led to this machine; nothing is followed and no certificate is checked."""
    scheme, _, rest = url.partition("://")
    host, _, path = rest.partition("/")
    port = site.tls_port if scheme == "https" else site.port
    with httpx.Client(verify=False, trust_env=False, timeout=30) as http:
        given = {"method": "GET", **more}
        headers = {"host": host, **given.pop("headers", {})}  # type: ignore[dict-item]
        address = f"{scheme}://127.0.0.1:{port}/{path}"
        return http.request(url=address, headers=headers, extensions={"sni_hostname": host}, **given)  # type: ignore[arg-type]


def eventually(what: str, look: object, seconds: float = 60) -> None:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        try:
            if look():  # type: ignore[operator]
                return
        except httpx.HTTPError:
            pass
        time.sleep(0.2)
    raise AssertionError(f"{what} within {seconds} s")


def test_each_name_leads_to_what_it_is_for(site: Installation) -> None:
    health = ask(site, f"https://api.{DOMAIN}/health")
    assert (health.status_code, health.json()) == (200, {"status": "ok"})
    for name in (DOMAIN, f"app.{DOMAIN}"):
        page = ask(site, f"https://{name}/")
        assert page.status_code == 200
        assert "<html" in page.text
    sent = ask(site, f"http://api.{DOMAIN}/health")
    assert (sent.status_code, sent.headers["location"]) == (308, f"https://api.{DOMAIN}/health")


def test_an_address_of_the_local_network_shows_the_pages_without_a_certificate(site: Installation) -> None:
    for host in ("127.0.0.1", "192.168.1.20", "somewhere.lan"):
        page = ask(site, f"http://{host}/")
        assert page.status_code == 200
        assert "<html" in page.text
        assert "strict-transport-security" not in page.headers


def test_a_bots_address_says_clearly_that_there_is_no_page(site: Installation) -> None:
    for path in ("", "settings", "sign-in"):
        page = ask(site, f"http://7c9e6679.bots.{DOMAIN}/{path}")
        assert page.status_code == 404
        assert "There is no such page" in page.text
    style = re.search(r'href="(/static/[^"]+\.css)"', page.text)
    assert style is not None
    assert ask(site, f"http://7c9e6679.bots.{DOMAIN}{style[1]}").status_code == 200
    assert ask(site, f"http://x.bots.{DOMAIN}/dashboard").headers["location"] == f"//{DOMAIN}/dashboard"


def test_every_answer_carries_the_security_headers_once_and_names_no_server(site: Installation) -> None:
    for url in (f"https://api.{DOMAIN}/health", f"https://api.{DOMAIN}/v1/models", f"https://{DOMAIN}/"):
        headers = ask(site, url).headers
        for name in ("x-content-type-options", "strict-transport-security", "referrer-policy"):
            assert len(headers.get_list(name)) == 1, (url, name, headers)
        assert headers["x-content-type-options"] == "nosniff"
        assert "server" not in headers
        assert "via" not in headers
    assert "frame-ancestors 'none'" in ask(site, f"https://{DOMAIN}/").headers["content-security-policy"]


def test_what_is_measured_is_for_the_inside_and_internal_routes_are_reached(site: Installation) -> None:
    refused = ask(site, f"https://api.{DOMAIN}/metrics")
    assert (refused.status_code, refused.json()["error"]["code"]) == (404, "not_found")
    for host in (DOMAIN, "127.0.0.1"):
        assert "wopr_http" not in ask(site, f"http://{host}/metrics").text
    slot = site.state()["active"]["slot"]
    fetch = ("exec", f"{site.name}-caddy", "wget", "-q", "-O", "-")
    assert "wopr_http_requests_total" in site.engine.docker(*fetch, f"http://api-{slot}:3100/metrics").stdout
    assert site.engine.docker(*fetch, "http://127.0.0.1:3100/metrics", check=False).returncode != 0, "bots ask there"
    node = ask(site, f"https://api.{DOMAIN}/internal/gpu/register?stage=done", method="POST", json={})
    assert node.status_code != 502
    assert "There is nothing here." not in node.text


def test_an_upload_that_is_too_large_is_refused_by_its_length_and_when_it_never_ends(site: Installation) -> None:
    whole = ask(site, f"https://api.{DOMAIN}/api/auth/sign-in", method="POST", content=b"x" * 13_000_000)
    assert whole.status_code == 413
    assert whole.json()["error"]["code"] == "too_large"

    def endless() -> Iterator[bytes]:
        for _ in range(40):
            yield b"x" * 1_000_000

    try:
        status = ask(site, "http://127.0.0.1/sign-in", method="POST", content=endless()).status_code
    except httpx.HTTPError:
        status = 413  # cut while it was sent
    assert 400 <= status < 500, "the pages refuse what was cut"
    assert ask(site, f"https://{DOMAIN}/").status_code == 200


def test_the_log_has_each_request_and_nothing_that_is_secret(site: Installation) -> None:
    secret = "geheim-4711"
    headers = {"authorization": f"Bearer {secret}", "cookie": f"session={secret}", "referer": f"https://x/?t={secret}"}
    ask(site, f"https://{DOMAIN}/verify-the-log?token={secret}", headers=headers)
    lines: list[str] = []

    def logged() -> bool:
        done = site.engine.docker("logs", f"{site.name}-caddy")
        lines[:] = (done.stdout + done.stderr).splitlines()
        return any("/verify-the-log" in line for line in lines)

    eventually("the request is in the log", logged, 10)
    assert not [line for line in lines if secret in line]
    entry = json.loads(next(line for line in lines if "/verify-the-log" in line))
    assert entry["request"]["uri"] == "/verify-the-log"
    assert entry["status"] == 404
    assert "duration" in entry


def test_everything_is_seen_at_one_glance(site: Installation) -> None:
    health = json.dumps({"llama": True, "chatterbox": True, "whisper": False, "qwen": True})
    site.psql(
        "INSERT INTO gpu_nodes (id, host, status, provision_stage, service_health) "
        f"VALUES ('gpu-1', '10.0.0.9', 'active', 'done', '{health}')"
    )
    try:
        done = site.wopr("status", "--json")
        assert done.returncode == 0, done.stdout + done.stderr
        seen = json.loads(done.stdout)
        assert seen["verdict"] == "degraded", "a service of a node is down"
        assert seen["release"]["number"] == site.state()["active"]["release"]
        assert seen["slots"]["blue"]["is"] == "active"
        assert {box["service"] for box in seen["containers"]} == {"caddy", "postgres", "api-blue", "ui-blue"}
        assert all(box["since"] for box in seen["containers"])
        assert {answer["name"]: answer["state"] for answer in seen["answers"]} == {
            "api": "ok", "pages": "ok", "database": "ok",
        }  # fmt: skip
        assert seen["nodes"][0]["services"]["whisper"] is False
        assert seen["database"]["migration"] == seen["release"]["migration_head"]
        assert seen["deploys"][0]["verdict"] == "good"
        assert seen["lock"] is None
        text = site.wopr("status").stdout
        for part in (f"{site.name}-api-blue", "gpu-1", "whisper down", "unlocked", "MB", "deploy"):
            assert part in text
        listed = json.loads(site.wopr("check", "--go-live", "--json").stdout)["checklist"]
        healthy = next(item for item in listed if item["says"] == "All services healthy")
        assert not healthy["done"]
        assert "whisper on gpu-1" in healthy["evidence"]  # and others once the watchdog has found nothing there
        assert "whisper on gpu-1" in (site.folder / "logbook" / "RUNBOOK.md").read_text()
    finally:
        site.psql("DELETE FROM gpu_nodes")


def test_a_slot_that_dies_comes_back_by_itself_and_the_glance_says_so(site: Installation) -> None:
    eventually("Caddy and all slots are well", lambda: site.wopr("status").returncode == 0)
    process = int(site.containers()["api-blue"]["State"]["Pid"])
    os.kill(process, signal.SIGKILL)
    eventually("the API answers again", lambda: ask(site, f"https://api.{DOMAIN}/ready").status_code == 200)
    boxes = json.loads(site.wopr("status", "--json").stdout)["containers"]
    assert {box["service"]: box["restarts"] for box in boxes}["api-blue"] == 1


def test_a_fault_in_the_settings_refuses_the_release_with_its_line(site: Installation) -> None:
    site.set_env("MODELS_DIR", "models")
    try:
        number = (site.folder / ".env").read_text().splitlines().index("MODELS_DIR=models") + 1
        refused = site.deploy()
        assert refused.returncode == 3
        assert f"line {number}: MODELS_DIR is a relative path" in refused.stderr
        assert "fix: Write the whole path" in refused.stderr
        checked = site.command, "check", "--only", "env", "--dir", str(site.folder), "--json"
        done = subprocess.run(
            [*checked[0], *checked[1:]], capture_output=True, text=True, env=site.variables(), timeout=60
        )
        verdicts = {one["name"]: one["verdict"] for one in json.loads(done.stdout)["checks"]}
        assert (done.returncode, verdicts["env.settings"], verdicts["env.mode"]) == (3, "failed", "ok")
    finally:
        site.set_env("MODELS_DIR", "")


def test_a_setting_that_is_refused_is_not_in_the_file_afterwards(site: Installation) -> None:
    before = (site.folder / ".env").read_text()
    refused = site.deploy("", "--set", "MODELS_DIR=models")
    assert refused.returncode == 3
    assert "MODELS_DIR is a relative path" in refused.stderr
    assert (site.folder / ".env").read_text() == before


def test_the_secrets_are_told_by_name_and_age_and_never_by_value(site: Installation) -> None:
    command = [*site.command, "secrets", "list", "--dir", str(site.folder), "--json"]
    done = subprocess.run(command, capture_output=True, text=True, env=site.variables(), timeout=60)
    rows = {row["name"]: row for row in json.loads(done.stdout)["secrets"]}
    values = [line.partition("=")[2] for line in (site.folder / ".env").read_text().splitlines() if "SECRET" in line]
    assert values
    assert not [value for value in values if value in done.stdout]
    assert rows["BETTER_AUTH_SECRET"]["set"]
    assert rows["BETTER_AUTH_SECRET"]["since"]
    assert not rows["STRIPE_SECRET_KEY"]["set"]


def a_bot(site: Installation) -> None:
    """A container and a volume as a bot has them."""
    name, label = f"{site.name}-a-bot", f"wopr.installation={site.name}"
    site.engine.docker("volume", "create", "--label", label, "--label", "wopr.bot=1", name)
    # A program that is the first of its container would hear no SIGTERM.
    options = ("--label", label, "--label", "wopr.bot=1", "--volume", f"{name}:/data", "--entrypoint", "tini")
    site.engine.docker("run", "-d", "--name", name, *options, site.platform, "--", "sleep", "600")


def test_a_teardown_keeps_the_data_and_a_deploy_brings_everything_back(site: Installation) -> None:
    a_bot(site)
    site.psql("CREATE TABLE precious (id int)")
    assert site.wopr("teardown").returncode == 2, "nobody can be asked, and nobody said yes"
    dry = json.loads(site.wopr("teardown", "--dry-run", "--json").stdout)
    assert f"{site.name}-api-blue" in dry["found"]["containers"]
    assert dry["found"]["bots"] == [f"{site.name}-a-bot"]
    volumes = site.left("volume")
    done = site.wopr("teardown", "--yes", "--json")
    assert done.returncode == 0, done.stderr
    assert site.left("container") == []
    assert site.left("network") == []
    assert site.left("volume") == volumes
    assert site.wopr("status").returncode == 1
    assert site.wopr("teardown", "--yes", "--exit-code").returncode == 4
    assert site.release()["verdict"] == "unchanged"
    eventually("the API answers again", lambda: ask(site, f"https://api.{DOMAIN}/ready").status_code == 200)
    assert site.psql("SELECT count(*) FROM precious") == "0"


def test_a_wipe_leaves_nothing_but_the_settings_and_what_was_done(site: Installation) -> None:
    for name in ("deliver.alive", "deliver.failed"):
        (site.folder / name).write_text("{}")
    asked = site.wopr("teardown", "--wipe")
    assert asked.returncode == 2
    assert "DESTROYED" in asked.stderr
    assert f"{site.name}_postgres-data" in asked.stderr
    done = site.wopr("teardown", "--wipe", "--yes")
    assert done.returncode == 0, done.stderr
    for kind in ("container", "network", "volume"):
        assert site.left(kind) == []
    assert {path.name for path in site.folder.iterdir()} <= KEPT | {"Caddyfile"}, "the operator edited that file"
    assert (site.folder / "Caddyfile").exists()
    ended = [entry for entry in site.journal() if entry["name"] == "teardown" and entry["phase"] == "end"]
    assert ended[-1]["data"]["wiped"] is True
    assert site.wopr("logbook", "verify").returncode in (0, 2)
