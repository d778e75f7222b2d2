"""Payment pages: one for a wish, whoever clicks how often, and the way back from them."""

import asyncio
from dataclasses import replace

import httpx
import pytest
from sqlalchemy import text
from tests.billing.conftest import USD, Customer, make_customer
from tests.billing.test_stripe import AUTH, DECLINED_CARD, Shop

from wopr.accounts.limits import take
from wopr.billing.checkout import CONFIRM_BY_TENANT, Payer, Wish, confirm_checkout, open_portal, start_checkout
from wopr.core.errors import Conflict, Invalid, TooManyRequests
from wopr.core.platform import Platform


@pytest.fixture
async def shop(platform: Platform, customer: Customer) -> Shop:
    return Shop(platform, customer)


async def test_an_amount_that_is_not_sold_and_a_foreign_address_are_refused(shop: Shop) -> None:
    for cents in (None, 0, 499, -500):
        with pytest.raises(Invalid):
            await start_checkout(shop.platform, shop.payer, Wish("payment", cents))
    for path in ("//evil.example", "https://evil.example", "/\\evil.example", "dashboard", "/a\nb"):
        with pytest.raises(Invalid):
            await start_checkout(shop.platform, shop.payer, Wish("payment", 500, path))


async def test_a_plan_has_no_amount_so_that_it_can_not_be_asked_for_as_two_wishes(shop: Shop) -> None:
    with pytest.raises(Invalid):
        await start_checkout(shop.platform, shop.payer, Wish("subscription", 500))


async def test_a_customer_that_stripe_forgot_is_made_anew(shop: Shop) -> None:
    await shop.buy("payment", 500)
    async with shop.platform.db.begin() as session:
        await session.execute(text("UPDATE stripe_customers SET customer_id = 'cus_of_other_keys'"))
    await shop.buy("payment", 500)
    await shop.deliver(await shop.events())
    assert await shop.money() == (10 * USD, 0)


async def test_the_same_wish_leads_to_the_same_page_until_it_is_paid(shop: Shop) -> None:
    async def ask(wish: Wish) -> str:
        return await start_checkout(shop.platform, shop.payer, wish)

    first = await ask(Wish("subscription"))
    assert await ask(Wish("subscription", None, "/dashboard")) == first
    tens = {await ask(Wish("payment", 1000)) for _ in range(2)}
    assert len(tens | {await ask(Wish("payment", 500)), await ask(Wish("payment", 1000, "/keys")), first}) == 4
    other = await make_customer(shop.platform.db)
    assert await start_checkout(shop.platform, Payer(other.id, other.email), Wish("subscription")) != first
    paid = await shop.buy("payment", 1000)
    assert tens == {f"{shop.base}/c/pay/{paid}"}
    assert await shop.buy("payment", 1000) != paid  # paid a moment ago, and not told to us yet
    await shop.buy("subscription")
    with pytest.raises(Conflict):
        await ask(Wish("subscription"))


async def test_two_clicks_at_once_open_one_page(shop: Shop) -> None:
    urls = await asyncio.gather(*(start_checkout(shop.platform, shop.payer, Wish("subscription")) for _ in range(4)))
    assert len(set(urls)) == 1


async def test_a_page_that_expired_is_replaced(shop: Shop) -> None:
    first = await start_checkout(shop.platform, shop.payer, Wish("payment", 500))
    path = f"{shop.base}/v1/checkout/sessions/{first.rpartition('/')[2]}/expire"
    assert (await shop.platform.http.post(path, headers=AUTH)).status_code == 200
    assert await start_checkout(shop.platform, shop.payer, Wish("payment", 500)) != first


async def test_what_was_credited_is_confirmed_without_asking_stripe_again(shop: Shop) -> None:
    session_id = await shop.buy("payment", 500)
    assert await confirm_checkout(shop.platform, shop.customer.id, session_id) == "applied"
    settings = shop.platform.settings.model_copy(update={"stripe_api_base": "http://127.0.0.1:9"})
    away = replace(shop.platform, settings=settings)
    assert await confirm_checkout(away, shop.customer.id, session_id) == "applied"


async def test_a_payment_can_not_be_asked_for_without_end(shop: Shop) -> None:
    session_id = await shop.buy("payment", 500, DECLINED_CARD)
    for _ in range(CONFIRM_BY_TENANT.burst):
        await take(shop.platform.db, CONFIRM_BY_TENANT, str(shop.customer.id), shop.platform.clock.now())
    with pytest.raises(TooManyRequests):
        await confirm_checkout(shop.platform, shop.customer.id, session_id)


async def test_the_portal_opens_for_the_customer(shop: Shop) -> None:
    url = await open_portal(shop.platform, shop.payer, "/dashboard")
    async with httpx.AsyncClient() as browser:
        assert (await browser.get(url)).status_code == 200
