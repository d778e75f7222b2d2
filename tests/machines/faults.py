"""Faults as operators make them, planted one at a time into a sound installation, each with the check that must name
it. The test plants them all; `benchmarks/checks.py` counts and times the same ones.
"""

import asyncio
import json
import os
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx
from tests.machines.installation import Installation

from wopr.cli.checking import look
from wopr.cli.installation import Where
from wopr.ops.checks import Outcome, Verdict
from wopr.ops.incidents import open_incident
from wopr.ops.journal import Journal

COMPLAINTS = (Verdict.FAILED, Verdict.WARNING)
# No false alarm: an installation without a node serves no model.
EXPECTED = {"inference.nodes"}
LOOKS_MAX = 5
LOGIN = {"REGISTRY_USERNAME": "robot", "REGISTRY_PASSWORD": "a-token-of-the-registry"}
KEY = {"authorization": "Bearer sk_test_wopr"}
NODE = """
services:
  llama-cpp:
    image: ghcr.io/ggml-org/llama.cpp:server-cuda
    command: ["--model", "/models/llama.gguf", "--flash-attn", "off"]
  chatterbox:
    image: travisvn/chatterbox-tts-api:gpu
  whisper:
    image: fedirz/faster-whisper-server:0.6.0-rc.3-cuda
"""
OURS = "  platform-api:\n    image: ghcr.io/wopr-network/wopr-platform:{}\n    environment: [{}]\n"


@dataclass
class Site:
    """A sound installation with its companies: the stand-ins' addresses are in its `.env`."""

    installed: Installation
    stripe: str
    resend: str

    @property
    def folder(self) -> Path:
        return self.installed.folder

    def file(self, name: str, text: str) -> None:
        (self.folder / name).write_text(text)

    def edit(self, name: str, old: str, new: str) -> None:
        path = self.folder / name
        text = path.read_text()
        assert old in text, f"{old!r} is not in {name}"
        path.write_text(text.replace(old, new, 1))

    def env(self, **values: str) -> None:
        for name, value in values.items():
            self.installed.set_env(name, value)

    def docker(self, *words: str) -> None:
        self.installed.engine.docker(*words)

    def container(self, role: str) -> str:
        suffix = f"-{self.installed.state()['active']['slot']}" if role in ("api", "ui") else ""
        return f"{self.installed.name}-{role}{suffix}"


@dataclass(frozen=True)
class Fault:
    """What is done to a site, the check that must complain, and how it is undone beyond its folder's files."""

    name: str
    check: str
    plant: Callable[[Site], object]
    mend: Callable[[Site], object] | None = None


def found(site: Site, only: str = "") -> dict[str, Outcome]:
    """What `wopr check` finds of a site, by the checks' names."""
    installed = site.installed
    variables = {name: value for name, value in installed.variables().items() if name in ("DOCKER_HOST", "WOPR_HOME")}
    before = {name: os.environ.get(name) for name in variables}
    os.environ.update(variables)
    try:
        outcomes = asyncio.run(look(only, Where(str(site.folder), "", installed.name)))
    finally:
        for name, value in before.items():
            os.environ.pop(name) if value is None else os.environ.update({name: value})
    return {outcome.name: outcome for outcome in outcomes}


def complaints(outcomes: Mapping[str, Outcome]) -> set[str]:
    """The checks that are not content, but for those of `EXPECTED`."""
    return {name for name, one in outcomes.items() if one.finding.verdict in COMPLAINTS} - EXPECTED


def named(site: Site, fault: Fault) -> Outcome:
    """What the fault's check finds; a look that came to nothing (the database was busy) is taken again."""
    for _ in range(LOOKS_MAX):
        outcome = found(site, fault.check)[fault.check]
        if outcome.finding.verdict is not Verdict.SKIPPED:
            break
    return outcome


@contextmanager
def planted(site: Site, fault: Fault) -> Iterator[None]:
    """The site with a fault, and afterwards as it was: its files from a copy, the rest by the fault's own mending."""
    kept = site.folder.with_name("kept")
    subprocess.run(["cp", "-a", str(site.folder), str(kept)], check=True)
    try:
        fault.plant(site)
        yield
    finally:
        if fault.mend is not None:
            fault.mend(site)
        _put_back(kept, site.folder)


def _put_back(kept: Path, folder: Path) -> None:
    """Caddy's folder is mounted and stays; everything else comes back as it was, times included."""
    for path in folder.iterdir():
        if path.name != "caddy":
            shutil.rmtree(path) if path.is_dir() else path.unlink()
    subprocess.run(["cp", "-a", f"{kept}/.", str(folder)], check=True)
    shutil.rmtree(kept)


def _env(check: str, **values: str) -> Fault:
    shown = " ".join(f"{name}={value}" for name, value in values.items())
    return Fault(shown, check, lambda site: site.env(**values))


def _line(check: str, text: str) -> Fault:
    return Fault(f".env says {text!r}", check, lambda site: site.file(".env", _text(site, ".env") + text + "\n"))


def _node(check: str, old: str, new: str) -> Fault:
    assert old in NODE
    return Fault(f"{old} is {new}", check, lambda site: site.file("node.yml", NODE.replace(old, new)))


def _ours(check: str, tag: str, variable: str = "LOG_LEVEL=info", login: Mapping[str, str] | None = None) -> Fault:
    def plant(site: Site) -> None:
        site.env(**(LOGIN if login is None else login))
        site.file("flat.yml", "services:\n" + OURS.format(tag, variable))

    return Fault(f"a compose file with {tag} and {variable}", check, plant)


def _site(address: str) -> Fault:
    return Fault(
        f"Caddyfile has the site {address}",
        "config.sites",
        lambda site: site.file("Caddyfile.mine", f"{address} {{\n\treverse_proxy x:1\n}}\n"),
    )


def _text(site: Site, name: str) -> str:
    return (site.folder / name).read_text()


def _git(*ways: Sequence[str]) -> Callable[[Site], None]:
    def plant(site: Site) -> None:
        for words in ways:
            who = ("-c", "user.email=a@b.c", "-c", "user.name=a")
            subprocess.run(["git", *who, *words], cwd=site.folder, check=True, capture_output=True)

    return plant


def _sql(statement: str, back: str, check: str, name: str) -> Fault:
    return Fault(name, check, lambda site: site.installed.psql(statement), lambda site: site.installed.psql(back))


def _stopped(role: str, check: str, way: str = "stop", back: str = "start") -> Fault:
    def again(site: Site) -> None:
        site.docker(back, site.container(role))
        _until_sound(site, "stack")

    return Fault(f"{role} is under docker {way}", check, lambda site: site.docker(way, site.container(role)), again)


def _until_sound(site: Site, check: str) -> None:
    deadline = time.monotonic() + 60
    while complaints(found(site, check)) and time.monotonic() < deadline:
        time.sleep(0.3)


def _release(**changes: object) -> Callable[[Site], None]:
    def plant(site: Site) -> None:
        number = site.installed.state()["active"]["release"]
        path = site.folder / "releases" / f"{number:04}.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | changes))

    return plant


def _newest_dump(site: Site) -> Path:
    return sorted((site.folder / "dumps").glob("*.json"))[-1]


def _old_dump(site: Site) -> None:
    long_ago = time.time() - 30 * 86_400
    os.utime(_newest_dump(site), (long_ago, long_ago))


def _stale_lock(site: Site) -> None:
    held = {"token": 99, "owner": "somebody", "operation": "deploy", "machine": "elsewhere", "pid": 1}
    path = site.folder / "lock.json"
    path.write_text(json.dumps({**held, "started": 0.0, "since": "", "beat": 1}))
    long_ago = time.time() - 600
    os.utime(path, (long_ago, long_ago))


def _stripe(method: str, path: str, body: Mapping[str, str]) -> Callable[[Site], None]:
    def plant(site: Site) -> None:
        httpx.request(method, site.stripe + path, headers=KEY, data=dict(body)).raise_for_status()

    return plant


def _hook(**body: str) -> Callable[[Site], None]:
    """Change the account's one endpoint."""

    def plant(site: Site) -> None:
        listed = httpx.get(f"{site.stripe}/v1/webhook_endpoints", headers=KEY).json()["data"]
        _stripe("POST", f"/v1/webhook_endpoints/{listed[0]['id']}", body)(site)

    return plant


def _spoiled_journal(site: Site) -> None:
    path = site.folder / "journal.jsonl"
    lines = path.read_text().splitlines(keepends=True)
    path.write_text("".join([lines[0].replace("begin", "began", 1), *lines[1:]]))


def _cut_journal(site: Site) -> None:
    path = site.folder / "journal.jsonl"
    path.write_text("".join(path.read_text().splitlines(keepends=True)[:-1]))


def _incident(site: Site) -> None:
    open_incident(Journal(site.folder), "Nothing answers", "SEV1", "operator")


PUBLIC = {"WOPR_DOMAIN": "wopr.example", "WOPR_SCHEME": "", "UI_URL": "https://wopr.example"}
API = {"BETTER_AUTH_URL": "https://api.wopr.example"}
FAULTS = (
    # .env, by its own rules
    _env("env.settings", WOPR_PRICES="prices.toml"),
    _env("env.settings", METER_DB_PATH="./data/meter.sqlite"),
    _env("env.settings", DATABASE_URL="postgresql://wopr:x@localhost:5432/wopr_platform"),
    _env("env.settings", DATABASE_URL="mysql://wopr:x@db/wopr"),
    _env("env.settings", WOPR_DOMAIN="https://wopr.example/"),
    _env("env.settings", WOPR_SCHEME="https://"),
    _env("env.settings", **PUBLIC, BETTER_AUTH_URL="http://localhost:3100"),
    _env("env.settings", **PUBLIC, BETTER_AUTH_URL="https://api.wopr.example/api"),
    _env("env.settings", **PUBLIC, **API, COOKIE_DOMAIN=".example.org"),
    _env("env.settings", **PUBLIC, PLATFORM_SECRET="short"),
    _env("env.settings", HTTP_PORT="eighty"),
    _env("env.settings", EDGE_PROXIES="everybody"),
    _env("env.settings", REGISTRY_USERNAME="robot"),
    _env("env.settings", STRIPE_WEBHOOK_SECRET="of-the-dashboard-without-prefix"),
    _line("env.readable", "A LINE WITHOUT SENSE"),
    _line("env.readable", "LOG_LEVEL=info\nLOG_LEVEL=debug"),
    Fault(".env is readable by all", "env.mode", lambda site: (site.folder / ".env").chmod(0o644)),
    Fault(".env is in git", "env.git", _git(("init", "-q"), ("add", "-f", ".env"))),
    Fault(".env could get into git", "env.git", _git(("init", "-q"))),
    # settings, as the platform takes them
    _env("settings.auth-url", **PUBLIC, BETTER_AUTH_URL="http://api.wopr.example"),
    _env("settings.cookie-domain", **PUBLIC, **API, COOKIE_DOMAIN="opr.example"),
    _env("settings.webhook-secret", STRIPE_WEBHOOK_SECRET="0123456789abcdef0123456789"),
    _env("settings.stripe-mode", **PUBLIC, **API),
    _env("settings.session-secret", BETTER_AUTH_SECRET="too short"),
    _env("settings.absolute-paths", WOPR_PRICES="prices.toml"),
    _env("settings.database-url", DATABASE_URL="mysql://wopr:x@db/wopr"),
    _env("settings.registry", REGISTRY_USERNAME="robot"),
    # compose files and Caddyfiles
    _node("config.images", "chatterbox-tts-api:gpu", "chatterbox-tts-api:v1.0.1"),
    _node("config.images", "ggml-org/llama.cpp", "ggerganov/llama.cpp"),
    _node("config.images", ":server-cuda", ":server"),
    _node("config.images", ":0.6.0-rc.3-cuda", ":0.6.0-rc.3-cpu"),
    _node("config.flash-attn", '"--flash-attn", "off"', '"--flash-attn"'),
    _node("config.flash-attn", '"--flash-attn", "off"', '"--flash-attn", "--port", "8080"'),
    _node("config.flash-attn", '"off"]', '"off", "-fa"]'),
    _node("config.readable", "services:", "services: ["),
    _ours("config.login", "3f2a1c9", login={}),
    _ours("config.tags", "latest"),
    _ours("config.tags", "staging"),
    _ours("config.paths", "3f2a1c9", "METER_DB_PATH=data/meter.sqlite"),
    _site("localhost"),
    _site("api.localhost"),
    _site("127.0.0.1"),
    # what runs
    _stopped("ui", "stack.containers"),
    _stopped("api", "stack.serving"),
    _stopped("caddy", "stack.serving", "pause", "unpause"),
    _stopped("postgres", "database.reachable"),
    _env("stack.environment", LOG_LEVEL="error"),
    _env("stack.environment", RATE_LIMITS_OF_NOBODY="1"),
    Fault("compose.yaml was edited", "stack.configuration", lambda s: s.edit("compose.yaml", "20m", "30m")),
    Fault("Caddyfile was edited", "stack.configuration", lambda s: s.edit("Caddyfile", "64KB", "32KB")),
    Fault("another release is recorded", "stack.release", _release(platform="ghcr.io/a/b@sha256:" + "0" * 64)),
    Fault("the release was bad", "stack.verdict", _release(verdict="bad", reason="it crashed")),
    Fault("the release wants more", "stack.migrations", _release(migration_head="9999_more")),
    Fault("a dead deployer's lock", "stack.lock", _stale_lock),
    Fault("the dump is a month old", "stack.dump", _old_dump),
    Fault("the dump's file is gone", "stack.dump", lambda site: _newest_dump(site).with_suffix(".dump").unlink()),
    Fault("there is no dump", "stack.dump", lambda site: shutil.rmtree(site.folder / "dumps")),
    # the database
    _sql(
        "UPDATE alembic_version SET version_num = '0001_core'",
        "UPDATE alembic_version SET version_num = (SELECT max(version_num) FROM kept_version)",
        "database.migrated",
        "a migration is pending",
    ),
    _sql(
        "INSERT INTO ledger_accounts (code, kind, credits_posted) VALUES ('nobody', 'revenue', 5)",
        "DELETE FROM ledger_accounts WHERE code = 'nobody'",
        "billing.ledger",
        "a sum was changed by hand",
    ),
    _sql(
        "INSERT INTO stripe_inbox (id, type, object_id, state) VALUES ('evt_x', 'invoice.paid', 'in_x', 'failed')",
        "DELETE FROM stripe_inbox WHERE id = 'evt_x'",
        "billing.inbox",
        "a payment event is stuck",
    ),
    # the records
    Fault("an entry was changed", "journal.intact", _spoiled_journal),
    Fault("the last entry is gone", "journal.intact", _cut_journal),
    Fault("a page was edited", "journal.intact", lambda s: s.edit("logbook/RUNBOOK.md", "VPS", "VPN")),
    Fault("an incident is open", "incidents.open", _incident),
    # companies
    _env("stripe.price", STRIPE_DEFAULT_PRICE_ID="price_of_nobody"),
    _env("stripe.price", STRIPE_SECRET_KEY="nothing_like_a_key"),
    Fault(
        "the price is archived",
        "stripe.price",
        _stripe("POST", "/v1/prices/price_wopr_monthly", {"active": "false"}),
        _stripe("POST", "/v1/prices/price_wopr_monthly", {"active": "true"}),
    ),
    Fault("the endpoint is off", "stripe.webhook", _hook(disabled="true"), _hook(disabled="false")),
    _env("stripe.webhook", BETTER_AUTH_URL="http://api.localhost:1"),
    _env("mail.domain", MAIL_FROM="WOPR <hello@unknown.example>"),
    _env("mail.domain", RESEND_API_KEY="re_wrong"),
    _env("registry.images", **LOGIN, REGISTRY_SERVER="127.0.0.1:1", WOPR_IMAGE="127.0.0.1:1/wopr:latest"),
)
