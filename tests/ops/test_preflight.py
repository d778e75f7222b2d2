"""Each planted fault of the runbook's gotchas is named with its remedy, and a sound installation raises no alarm."""

from pathlib import Path
from typing import Any

import pytest
from pydantic import SecretStr

from wopr.core.files import ensure_own_secrets
from wopr.core.settings import Settings, load_settings
from wopr.ops import preflight
from wopr.ops.checks import Check, Finding, Verdict, ok, run_checks

PRODUCTION: dict[str, Any] = {
    "api_url": "https://api.wopr.bot",
    "ui_url": "https://wopr.bot",
    "cookie_domain": ".wopr.bot",
    "stripe_secret_key": SecretStr("sk_live_x"),
    "stripe_webhook_secret": SecretStr("whsec_0123456789"),
    "better_auth_secret": SecretStr("x" * 64),
    "database_url": SecretStr("postgresql://wopr:pw@db/wopr_platform"),
}


def settings(tmp_path: Path, **changes: Any) -> Settings:
    return Settings(**{"wopr_home": tmp_path, **PRODUCTION, **changes})


@pytest.mark.parametrize(
    ("rule", "changes"),
    [
        (preflight.auth_url, {"api_url": "http://api.wopr.bot"}),
        (preflight.auth_url, {"api_url": "api.wopr.bot"}),
        (preflight.auth_url, {"api_url": "https://api.wopr.bot/api"}),
        (preflight.cookie_domain, {"cookie_domain": ""}),
        (preflight.cookie_domain, {"cookie_domain": ".example.com"}),
        (preflight.cookie_domain, {"cookie_domain": "opr.bot"}),
        (preflight.cookie_domain, {"cookie_domain": "api.wopr.bot"}),
        (preflight.webhook_secret, {"stripe_webhook_secret": SecretStr("0123456789")}),
        (preflight.stripe_mode, {"stripe_secret_key": SecretStr("sk_test_x")}),
        (preflight.session_secret, {"better_auth_secret": None}),
        (preflight.session_secret, {"better_auth_secret": SecretStr("short")}),
        (preflight.session_secret, {"better_auth_secret": SecretStr("x" * 64 + ",short")}),
        (preflight.database_address, {"database_url": SecretStr("sqlite:///wopr.db")}),
        (preflight.database_address, {"database_url": SecretStr("postgresql://wopr@db/wopr_platform")}),
        (preflight.registry_login, {"registry_username": "bot"}),
        (preflight.registry_login, {"registry_password": SecretStr("x")}),
        (preflight.node_admission, {"do_api_token": SecretStr("x")}),
        (preflight.node_admission, {"do_api_token": SecretStr("x"), "gpu_admit": "10.108.0.2/32, 10.108.0.0/20"}),
    ],
)
def test_a_planted_fault_is_named_with_its_remedy(tmp_path: Path, rule: Any, changes: dict[str, Any]) -> None:
    finding: Finding = rule(settings(tmp_path, **changes))
    assert finding.verdict in (Verdict.FAILED, Verdict.WARNING)
    assert finding.remedy


@pytest.mark.parametrize("admitted", ["10.108.0.2/32", "10.108.0.2", "10.108.0.2/32,192.0.2.0/24", "fd00::2/128"])
def test_nodes_that_admit_few_raise_no_alarm(tmp_path: Path, admitted: str) -> None:
    finding = preflight.node_admission(settings(tmp_path, do_api_token=SecretStr("x"), gpu_admit=admitted))
    assert finding.verdict is Verdict.OK


def test_who_rents_no_nodes_hears_nothing_of_who_reaches_them(tmp_path: Path) -> None:
    assert preflight.node_admission(settings(tmp_path)).verdict is Verdict.SKIPPED


def test_no_cookie_domain_is_proposed_where_the_hosts_share_none(tmp_path: Path) -> None:
    apart = {"api_url": "https://api.b.com", "ui_url": "https://a.example.com"}
    for domain in ("", ".wopr.bot"):
        finding = preflight.cookie_domain(settings(tmp_path, cookie_domain=domain, **apart))
        assert finding.verdict is Verdict.FAILED
        assert ".com." not in finding.remedy
        assert "UI_URL" in finding.remedy
    shared = preflight.cookie_domain(settings(tmp_path, cookie_domain=".example.com"))
    assert ".wopr.bot" in shared.remedy


async def test_a_sound_production_raises_no_alarm(tmp_path: Path) -> None:
    ensure_own_secrets(tmp_path)
    outcomes = await run_checks(preflight.checks(settings(tmp_path)))
    alarms = {o.name: o.finding for o in outcomes if o.finding.verdict is Verdict.FAILED}
    assert not alarms


async def test_a_relative_path_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WOPR_PRICES", "prices.toml")
    assert preflight.absolute_paths(settings(tmp_path)).verdict is Verdict.FAILED


def test_secrets_that_others_can_read_are_found(tmp_path: Path) -> None:
    ensure_own_secrets(tmp_path)
    assert preflight.secrets_file(settings(tmp_path)).verdict is Verdict.OK
    (tmp_path / "secrets.env").chmod(0o644)
    finding = preflight.secrets_file(settings(tmp_path))
    assert finding.verdict is Verdict.FAILED
    assert "chmod 600" in finding.remedy


async def test_a_check_that_breaks_is_a_failed_check(tmp_path: Path) -> None:
    async def breaks() -> Finding:
        raise KeyError("on purpose")

    async def fine() -> Finding:
        return ok("fine")

    outcomes = await run_checks([Check("breaks", "nothing", breaks), Check("fine", "something", fine)])
    assert [o.finding.verdict for o in outcomes] == [Verdict.FAILED, Verdict.OK]


def test_secrets_are_generated_once_and_never_printed(tmp_path: Path) -> None:
    ensure_own_secrets(tmp_path)
    first = (tmp_path / "secrets.env").read_text(encoding="utf-8")
    ensure_own_secrets(tmp_path)
    assert (tmp_path / "secrets.env").read_text(encoding="utf-8") == first
    loaded = load_settings(tmp_path)
    assert loaded.platform_secret is not None
    assert loaded.platform_secret.get_secret_value() in first
    assert loaded.platform_secret.get_secret_value() not in repr(loaded)
