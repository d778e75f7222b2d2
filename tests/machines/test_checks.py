"""`wopr check` on an installation of real containers: a sound one raises no alarm, and each planted fault is named."""

import json
from collections.abc import Iterator

import pytest
from tests.machines.engine import Engine
from tests.machines.faults import COMPLAINTS, FAULTS, KEY, Fault, Site, complaints, found, named, planted
from tests.machines.installation import Installation, fresh
from tests.machines.nodes import here
from tests.serving import served

from wopr.emulators.resend import ResendSettings, build_resend
from wopr.emulators.stripe import StripeSettings, build_stripe

CHECKS_MIN = 40
MAIL_KEY = "re_of_the_tests"


@pytest.fixture(scope="module")
def site(engine: Engine, platform_image: str, third_party_images: object) -> Iterator[Site]:
    made = fresh(engine, platform_image)
    hook = f"{made.api}/api/billing/webhook"
    resend = build_resend(ResendSettings(api_key=MAIL_KEY, strict=True))
    with served(build_stripe(StripeSettings(webhook_url=hook)), here()) as stripe, served(resend, here()) as mail:
        try:
            yield sound(made, Site(made, stripe, mail))
        finally:
            made.remove()


def sound(made: Installation, site: Site) -> Site:
    """A release with everything that a check wants: companies that know it, a dump, pages."""
    companies = {
        "STRIPE_API_BASE": site.stripe,
        "STRIPE_SECRET_KEY": KEY["authorization"].partition(" ")[2],
        "STRIPE_WEBHOOK_SECRET": "whsec_of_the_tests_of_the_checks",
        "STRIPE_DEFAULT_PRICE_ID": "price_wopr_monthly",
        "RESEND_API_BASE": site.resend,
        "RESEND_API_KEY": MAIL_KEY,
        "MAIL_FROM": "hello@wopr.bot",
        "BETTER_AUTH_URL": made.api,
        "UI_URL": f"http://localhost:{made.port}",
        "BOT_RUNTIME": "process",
        "LOG_LEVEL": "warning",
    }
    made.release(made.platform, *made.chosen(*(f"{name}={value}" for name, value in companies.items())))
    dumped = made.wopr("migrate", "dump", "--json")
    assert dumped.returncode == 0, dumped.stderr
    assert json.loads(dumped.stdout)["rows"] > 0
    made.psql("CREATE TABLE kept_version AS SELECT version_num FROM alembic_version")
    return site


def test_a_sound_installation_raises_no_alarm(site: Site) -> None:
    outcomes = found(site)
    assert {name: outcomes[name].finding.evidence for name in complaints(outcomes)} == {}
    assert len(outcomes) >= CHECKS_MIN
    checked = site.installed.wopr("check", "--json")
    assert {one["name"] for one in json.loads(checked.stdout)["checks"]} == set(outcomes)
    listed = site.installed.wopr("check", "--go-live", "--json")
    assert listed.returncode == 3  # no node serves, and no smoke test passed
    told = {item["says"]: item["done"] for item in json.loads(listed.stdout)["checklist"]}
    assert told["The VPS is provisioned and a release serves on it"] is True
    assert told["What runs is what was released, and can be gone back from"] is True


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.name)
def test_a_planted_fault_is_named_with_its_remedy(site: Site, fault: Fault) -> None:
    with planted(site, fault):
        outcome = named(site, fault)
        assert outcome.finding.verdict in COMPLAINTS, outcome
        assert outcome.finding.remedy
    assert complaints(found(site, fault.check.partition(".")[0])) == set()
