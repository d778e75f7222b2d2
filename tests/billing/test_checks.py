"""What `wopr check` says of the account at Stripe: right ones raise no alarm, each planted fault is named."""

from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest
from pydantic import SecretStr

from wopr.billing.checks import checks
from wopr.core.settings import Settings
from wopr.ops.checks import Finding, Verdict, run_checks

API = "https://api.wopr.example"
HOOK = f"{API}/api/billing/webhook"
AUTH = {"authorization": "Bearer sk_test_wopr"}


@pytest.fixture
async def account(stripe_url: str) -> AsyncIterator[httpx.AsyncClient]:
    """Stripe, as its dashboard changes it."""
    async with httpx.AsyncClient(base_url=stripe_url, headers=AUTH) as http:
        yield http


def settings(url: str, **changes: Any) -> Settings:
    known: dict[str, Any] = {
        "api_url": API,
        "stripe_api_base": url,
        "stripe_secret_key": SecretStr("sk_test_wopr"),
        "stripe_default_price_id": "price_wopr_monthly",
    }
    return Settings(**known | changes)


async def found(url: str, **changes: Any) -> dict[str, Finding]:
    outcomes = await run_checks(checks(settings(url, **changes)))
    assert all(one.finding.remedy for one in outcomes if one.finding.verdict in (Verdict.FAILED, Verdict.WARNING))
    return {one.name: one.finding for one in outcomes}


async def endpoint(account: httpx.AsyncClient, url: str = HOOK, *events: str) -> str:
    body = {"url": url} | {f"enabled_events[{n}]": event for n, event in enumerate(events or ("*",))}
    made = await account.post("/v1/webhook_endpoints", data=body)
    assert made.status_code == 200, made.text
    return str(made.json()["id"])


async def test_a_sound_account_raises_no_alarm(account: httpx.AsyncClient, stripe_url: str) -> None:
    await endpoint(account)
    findings = await found(stripe_url)
    assert {one.verdict for one in findings.values()} == {Verdict.OK}
    assert findings["stripe.price"].evidence == "5.00 USD every 1 month, test mode"


async def test_without_a_key_nothing_is_asked() -> None:
    findings = await found("http://127.0.0.1:1", stripe_secret_key=None)
    assert {one.verdict for one in findings.values()} == {Verdict.SKIPPED}


@pytest.mark.parametrize(
    ("changes", "evidence"),
    [
        ({"stripe_default_price_id": "price_of_nobody"}, "does not know"),
        ({"stripe_secret_key": SecretStr("nothing like a key")}, "refuses our key"),
    ],
)
async def test_a_wrong_setting_of_the_price_is_named(
    account: httpx.AsyncClient, stripe_url: str, changes: dict[str, Any], evidence: str
) -> None:
    price = (await found(stripe_url, **changes))["stripe.price"]
    assert price.verdict is Verdict.FAILED
    assert evidence in price.evidence


@pytest.mark.parametrize(
    ("fields", "evidence"),
    [
        ({"currency": "eur", "recurring[interval]": "month"}, "EUR"),
        ({"currency": "usd", "recurring[interval]": "year"}, "every 1 year"),
        ({"currency": "usd"}, "never again"),
    ],
)
async def test_a_price_that_is_no_monthly_one_in_dollars_is_named(
    account: httpx.AsyncClient, stripe_url: str, fields: dict[str, str], evidence: str
) -> None:
    body = {"unit_amount": "500", "product": "prod_wopr", **fields}
    made = (await account.post("/v1/prices", data=body)).json()
    price = (await found(stripe_url, stripe_default_price_id=made["id"]))["stripe.price"]
    assert price.verdict is Verdict.FAILED
    assert evidence in price.evidence


async def test_an_archived_price_is_named(account: httpx.AsyncClient, stripe_url: str) -> None:
    await account.post("/v1/prices/price_wopr_monthly", data={"active": "false"})
    price = (await found(stripe_url))["stripe.price"]
    assert (price.verdict, "archived" in price.evidence) == (Verdict.FAILED, True)


async def test_an_endpoint_that_is_elsewhere_off_or_deaf_is_named(account: httpx.AsyncClient, stripe_url: str) -> None:
    assert (await found(stripe_url))["stripe.webhook"].verdict is Verdict.FAILED
    await endpoint(account, "https://old.wopr.example/api/billing/webhook")
    elsewhere = (await found(stripe_url))["stripe.webhook"]
    assert (elsewhere.verdict, "old.wopr.example" in elsewhere.evidence) == (Verdict.FAILED, True)
    ours = await endpoint(account, HOOK, "checkout.session.completed")
    deaf = (await found(stripe_url))["stripe.webhook"]
    assert (deaf.verdict, "invoice.paid" in deaf.evidence) == (Verdict.WARNING, True)
    await account.post(f"/v1/webhook_endpoints/{ours}", data={"disabled": "true"})
    off = (await found(stripe_url))["stripe.webhook"]
    assert (off.verdict, "disabled" in off.evidence) == (Verdict.FAILED, True)
