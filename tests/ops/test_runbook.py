"""RUNBOOK.md states what was seen and done, in the operator's own format, and nothing that nobody looked at."""

from collections.abc import Sequence
from pathlib import Path

import pytest

from wopr.ops.incidents import open_incident, resolve_incident
from wopr.ops.journal import Journal
from wopr.ops.logbook.observed import SECRETS, sights
from wopr.ops.logbook.runbook import runbook_page
from wopr.ops.observed import observe, observe_secrets

IMAGE = "ghcr.io/wopr-network/wopr-platform@sha256:"
SECTIONS = (
    "Current State",
    "Production Blockers (must resolve before go-live)",
    "Go-Live Checklist",
    "Stack",
    "VPS",
    "GPU Node",
    "Secrets Inventory",
    "Known Gotchas",
    "Rollback Procedure",
    "Health Check URLs (when live)",
)


@pytest.fixture
def journal(tmp_path: Path) -> Journal:
    """A journal in which something was done already: looking alone makes none."""
    journal = Journal(tmp_path)
    journal.append("begin", "note", "note", {"text": "installed"})
    return journal


def section(journal: Journal, name: str) -> str:
    page = runbook_page(journal.read())
    return page.split(f"## {name}\n\n", 1)[1].split("\n## ", 1)[0]


def check(name: str, verdict: str, evidence: str = "") -> dict[str, str]:
    return {"name": name, "proves": f"{name} is right", "verdict": verdict, "evidence": evidence}


def services(*states: str) -> Sequence[dict[str, str]]:
    return [{"name": n, "state": s, "address": "http://h:1"} for n, s in zip(("api", "ui"), states, strict=True)]


def test_it_has_the_sections_of_the_operators_runbook_in_their_order(journal: Journal) -> None:
    headings = [line[3:] for line in runbook_page(journal.read()).splitlines() if line.startswith("## ")]
    assert tuple(headings) == SECTIONS


def test_an_empty_journal_claims_nothing() -> None:
    page = runbook_page([])
    assert "**Status:** PRE-PRODUCTION — not yet deployed to VPS" in page
    assert "**Last Updated:** never" in page
    assert "[x]" not in page
    assert "Nothing was checked yet" in page
    assert "Nothing was observed yet" in page


def test_a_release_makes_it_live_and_what_is_down_is_said(journal: Journal) -> None:
    with journal.operation("deploy", release=7, platform=IMAGE + "7" * 64) as operation:
        operation.outcome["verdict"] = "good"
    assert "**Status:** LIVE — release 7 since" in section(journal, "Current State")
    observe(journal, "services", services("ok", "down"))
    name = open_incident(journal, "The UI is down", "SEV2", "operator")
    state = section(journal, "Current State")
    assert "; down: ui; open incidents: INC-0001 (SEV2)" in state
    assert "**Last Operation:** deploy done" in state
    assert "INC-0001 | HIGH | The UI is down" in section(journal, SECTIONS[1])
    observe(journal, "services", services("ok", "ok"))
    resolve_incident(journal, name)
    assert "down" not in section(journal, "Current State")
    assert "- [x] All services healthy — 2 services" in section(journal, "Go-Live Checklist")


def test_a_blocker_is_open_until_its_check_succeeds_and_done_afterwards(journal: Journal) -> None:
    observe(journal, "checks", [check("settings.auth-url", "failed", "it is plain http")])
    blockers = section(journal, SECTIONS[1])
    assert "1 outstanding." in blockers
    assert "| settings.auth-url | HIGH | settings.auth-url is right: it is plain http | Open since" in blockers
    observe(journal, "checks", [check("settings.auth-url", "ok", "https")])
    blockers = section(journal, SECTIONS[1])
    assert "No CRITICAL or HIGH blockers outstanding." in blockers
    assert "it is plain http | **Done** — " in blockers


def test_the_checklist_is_ticked_by_proof_only(journal: Journal) -> None:
    live, price = "Stripe switched to live mode keys and a live monthly price", check("stripe.price", "ok", "monthly")
    observe(journal, "checks", [check("settings.stripe-mode", "ok", "test mode"), price])
    assert f"- [ ] {live} — test mode; monthly" in section(journal, "Go-Live Checklist")
    seen = [check("settings.stripe-mode", "ok", "live mode"), price, check("machine.disk", "warning", "low")]
    observe(journal, "checks", seen)
    checklist = section(journal, "Go-Live Checklist")
    assert f"- [x] {live} — live mode; monthly" in checklist
    assert "- [ ] machine.disk is right (`machine.disk`) — warning: low" in checklist
    assert "- [ ] Happy path smoke test passes (sign-up → pay → bot created) — not run yet" in checklist
    with journal.operation("smoke") as operation:
        operation.outcome["passed"] = False
    assert "- [ ] Happy path smoke test" in section(journal, "Go-Live Checklist")
    with journal.operation("smoke") as operation:
        operation.outcome["passed"] = True
    assert "- [x] Happy path smoke test" in section(journal, "Go-Live Checklist")


def test_stack_vps_nodes_and_addresses_are_what_was_seen(journal: Journal) -> None:
    observe(journal, "stack", [
        {"name": "caddy", "image": "caddy:2-alpine", "port": "80, 443", "status": "running"},
        {"name": "platform-api", "image": IMAGE + "a" * 64, "port": "3100", "status": "healthy"},
    ])  # fmt: skip
    observe(journal, "vps", [{"name": "vps", "status": "active", "ip": "203.0.113.7", "region": "fra1"}])
    observe(journal, "nodes", [{"name": "n1", "status": "active", "services": {"llama": True}}])
    observe(journal, "addresses", [{"name": "api", "address": "https://api.wopr.bot"}])
    stack = section(journal, "Stack")
    assert "| caddy | caddy:2-alpine | 80, 443 | running since" in stack
    assert "wopr-platform `sha256:aaaaaaaaaaaa` | 3100 | healthy since" in stack
    assert "| IP | 203.0.113.7 |" in section(journal, "VPS")
    assert "| Size | TBD |" in section(journal, "VPS")
    assert "| [n1](nodes/n1.md) | active |" in section(journal, "GPU Node")
    assert '- API: `https://api.wopr.bot/health` → `{"status":"ok"}`' in section(journal, SECTIONS[9])


@pytest.mark.parametrize(
    ("address", "ending"), [("https://wopr.bot", "200 with valid TLS"), ("http://localhost", "200")]
)
def test_a_certificate_is_promised_only_where_there_is_one(journal: Journal, address: str, ending: str) -> None:
    observe(journal, "addresses", [{"name": "ui", "address": address}])
    assert section(journal, SECTIONS[9]).strip().endswith(f"`{address}` → {ending}")


def test_secrets_are_told_by_name_and_age_and_a_rotation_shows(
    journal: Journal, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("STRIPE_SECRET_KEY", raising=False)
    env = journal.home / ".env"
    env.write_text("STRIPE_SECRET_KEY=the-first-value\nPLATFORM_SECRET=the-other-value\n", encoding="utf-8")
    assert observe_secrets(journal)
    assert not observe_secrets(journal)
    first = section(journal, "Secrets Inventory")
    assert "| STRIPE_SECRET_KEY | Payments | set, unchanged since" in first
    assert "| DO_API_TOKEN | Fleet droplet provisioning | not set |" in first
    env.write_text("STRIPE_SECRET_KEY=the-second-value\n", encoding="utf-8")
    assert observe_secrets(journal)
    second = section(journal, "Secrets Inventory")
    assert "| PLATFORM_SECRET | Internal service-to-service auth | removed" in second
    last = journal.read()[-1]
    (secret,) = sights(journal.read(), SECRETS, "mark")[0]
    assert (secret.name, secret.since) == ("STRIPE_SECRET_KEY", last.at)
    everything = "".join(path.read_text(encoding="utf-8") for path in journal.home.rglob("*.md"))
    everything += journal.path.read_text(encoding="utf-8")
    assert not any(value in everything for value in ("the-first", "the-second", "the-other"))


def test_seeing_the_same_again_writes_nothing(journal: Journal) -> None:
    rows = [check("machine.disk", "ok", "34.5 GB free")]
    assert observe(journal, "checks", rows)
    assert not observe(journal, "checks", [check("machine.disk", "ok", "33.9 GB free")])
    assert observe(journal, "services", services("ok", "ok"))
    assert not observe(journal, "checks", rows)
    assert observe(journal, "checks", [check("machine.disk", "failed", "0.1 GB free")])
    assert len(journal.read()) == 4


def test_looking_makes_no_installation(tmp_path: Path) -> None:
    journal = Journal(tmp_path)
    assert not observe(journal, "services", services("ok", "ok"))
    assert not observe_secrets(journal)
    assert list(tmp_path.iterdir()) == []
