"""A bot in the browser: its balance, its logs as they are written, stopping and starting; a forgotten password."""

import re
from collections.abc import Callable

import pytest
from playwright.sync_api import Page, expect
from tests.e2e.browser import ANSWER_MS, overflow, picture, say
from tests.live import Person, mailed_token, sign_up
from tests.stack import Stack

NEW_PASSWORD = "seven otters repaint the harbour"


@pytest.fixture
def own_bot(customer: Person) -> str:
    """A bot that the test may stop."""
    return customer.make_bot()


def test_the_balance_on_the_page_follows_an_answer(live: Stack, window: Callable[..., Page]) -> None:
    with sign_up(live) as person:
        person.pay()
        page = window(person)
        page.goto(f"/bots/{person.make_bot()}?c=new")
        balance = page.locator("aside [data-balance]")
        before = balance.inner_text()
        assert before.startswith("$")
        say(page, "What happens when my credit is used up?")
        expect(balance).not_to_have_text(before, timeout=ANSWER_MS)


def test_on_a_phone_one_talks_and_finds_the_way(window: Callable[..., Page], customer: Person, bot: str) -> None:
    page = window(customer, viewport={"width": 390, "height": 844}, has_touch=True, is_mobile=True)
    page.goto(f"/bots/{bot}?c=new")
    say(page, "Remember this: " + "a-very-long-word-without-any-blank-" * 8)
    assert overflow(page) == 0
    page.get_by_role("button", name="Menu").tap()
    menu = page.locator("#menu")
    expect(menu).to_be_visible()
    menu.get_by_role("link", name="Billing").tap()
    page.wait_for_url("**/billing*")


def test_logs_arrive_while_they_are_written_and_can_be_filtered(
    window: Callable[..., Page], customer: Person, own_bot: str
) -> None:
    page = window(customer)
    page.goto(f"/bots/{own_bot}/logs")
    expect(page.get_by_text("Live", exact=True)).to_be_visible(timeout=ANSWER_MS)
    lines = page.locator(".lines li")
    before = lines.count()
    customer.ask(own_bot, "Hello")
    customer.post(f"/fleet/bots/{own_bot}/restart")
    expect(lines.nth(before)).to_be_visible(timeout=ANSWER_MS)
    page.get_by_role("searchbox", name="Filter the lines").fill("nothing contains this")
    expect(page.locator(".lines li:visible")).to_have_count(0)


def test_a_stopped_bot_says_so_and_starts_again(window: Callable[..., Page], customer: Person, own_bot: str) -> None:
    page = window(customer)
    page.goto(f"/bots/{own_bot}/settings")
    page.get_by_role("button", name="Stop").click()
    expect(page.locator("#bot-state")).to_have_text(re.compile("Stopp"))
    page.goto(f"/bots/{own_bot}")
    start = page.get_by_role("button", name=re.compile("^Start"))
    expect(start).to_be_visible(timeout=ANSWER_MS)
    picture(page, "chat-stopped")
    start.click()
    say(page, "Hello again")


def test_a_forgotten_password_is_replaced_and_ends_every_session(live: Stack, window: Callable[..., Page]) -> None:
    with sign_up(live) as person:
        page = window()
        page.goto("/sign-in")
        page.get_by_role("link", name="Forgot the password?").click()
        page.get_by_label("E-mail address").fill(person.email)
        page.get_by_role("button", name="Send the link").click()
        expect(page.get_by_role("heading", level=1)).to_have_text("Check your mail")
        page.goto(f"/reset?token={mailed_token(live, person.email, 'reset')}")
        page.get_by_label("New password").fill(NEW_PASSWORD)
        page.get_by_role("button", name="Set the password").click()
        page.wait_for_url("**/sign-in*")
        assert person.http.get("/api/auth/session").status_code == 401
        page.get_by_label("E-mail address").fill(person.email)
        page.get_by_label("Password").fill(NEW_PASSWORD)
        page.get_by_role("button", name="Sign in").click()
        page.wait_for_url("**/dashboard*")


def test_the_theme_can_be_chosen_and_stays(window: Callable[..., Page], customer: Person) -> None:
    page = window(customer)
    page.goto("/dashboard")
    page.locator("aside").get_by_role("button", name="Dark").click()
    expect(page.locator("html")).to_have_attribute("data-theme", "dark")
    page.goto("/billing")
    expect(page.locator("html")).to_have_attribute("data-theme", "dark")
