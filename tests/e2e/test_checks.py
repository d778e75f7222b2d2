"""`wopr check` on the whole business as `wopr up` runs it: no alarm, and the go-live list says what is still to do."""

import json

import pytest
from tests.stack import Stack

pytestmark = pytest.mark.e2e


def test_a_sound_machine_raises_no_alarm(live: Stack) -> None:
    checked = live.wopr("check", "--json")
    assert checked.returncode == 0, checked.stdout
    told = json.loads(checked.stdout)
    complaints = [one for one in told["checks"] if one["verdict"] in ("failed", "warning")]
    assert complaints == []


def test_the_go_live_list_is_ticked_by_proof_and_refuses_while_a_line_is_open(live: Stack) -> None:
    checked = live.wopr("check", "--go-live", "--json")
    assert checked.returncode == 3
    told = json.loads(checked.stdout)
    assert told["go_live"] is False
    listed = {item["says"]: item["done"] for item in told["checklist"]}
    assert listed["Stripe's webhook secret is whole"] is True
    assert listed["The VPS is provisioned and a release serves on it"] is False
    written = live.wopr("check", "--go-live")
    assert written.returncode == 3
    assert "not ready to go live" in written.stdout
    page = (live.home / "logbook" / "RUNBOOK.md").read_text()
    for says, done in listed.items():
        assert f"- [{'x' if done else ' '}] {says}" in page
