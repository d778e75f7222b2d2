"""The story of the product, as a stranger with a browser lives it: from the first page to the receipt of an answer."""

import re
import secrets
from collections.abc import Callable

from playwright.sync_api import Page, expect
from tests.e2e.browser import Watch, fill_card, picture, say
from tests.live import PASSWORD, mailed_token, sign_up
from tests.stack import Stack


def test_a_stranger_signs_up_pays_makes_a_bot_and_gets_an_answer(live: Stack, window: Callable[..., Page]) -> None:
    page = window()
    email = f"{secrets.token_hex(5)}@example.com"
    page.goto("/")
    expect(page.locator("main")).to_contain_text("$5")
    page.locator("main").get_by_role("link", name=re.compile("Start")).first.click()

    page.get_by_label("Your name").fill("Ada Lovelace")
    page.get_by_label("E-mail address").fill(email)
    page.get_by_label("Password").fill(PASSWORD)
    page.get_by_role("button", name="Make the account").click()
    expect(page.get_by_role("heading", level=1)).to_have_text("Check your mail")

    mailed_token(live, email, "verify")
    page.goto(f"{live.mail}/?to={email}")
    picture(page, "story-mailbox")
    page.get_by_role("link", name=re.compile("confirm", re.IGNORECASE)).first.click()
    link = page.locator("a[href*='/verify?token=']").first.get_attribute("href")
    assert link is not None
    page.goto(link, wait_until="commit")  # its form sends itself, maybe before the page is loaded
    page.wait_for_url("**/dashboard*")
    expect(page.locator("main")).to_contain_text("Ada")
    picture(page, "story-first-dashboard")

    page.get_by_role("button", name="Start for $5 a month").click()
    page.wait_for_url(f"{live.stripe}/**")
    picture(page, "story-checkout")
    fill_card(page, "4242 4242 4242 4242")
    page.wait_for_url("**/bots/new*")
    expect(page.locator("main")).to_contain_text("Your payment arrived.")
    expect(page.locator(".sidebar")).to_contain_text("$5.0000")
    picture(page, "story-paid")

    page.get_by_label("Name", exact=True).fill("Marvin")
    page.locator("input[name=template]").nth(1).check(force=True)
    page.get_by_role("button", name="Make the bot").click()
    page.wait_for_url(re.compile(r"/bots/[0-9a-f-]{36}"))
    answer = say(page, "What does a bot cost?")
    expect(answer).to_contain_text("$")
    answer.get_by_text("Receipt", exact=True).click()
    expect(answer.locator(".slip")).to_contain_text(re.compile(r"Total\s*\$0\.\d+"))
    expect(answer.locator(".slip")).to_contain_text("handbook")
    picture(page, "story-answer")

    page.goto("/dashboard")
    expect(page.locator("main")).to_contain_text("Marvin")
    expect(page.get_by_text("Running").first).to_be_visible()
    picture(page, "story-dashboard")


def test_a_declined_card_says_why_and_takes_nothing(live: Stack, window: Callable[..., Page], watch: Watch) -> None:
    watch.allow(402)
    with sign_up(live) as person:
        page = window(person)
        page.goto("/billing")
        page.get_by_role("button", name="Start the plan").click()
        page.wait_for_url(f"{live.stripe}/**")
        fill_card(page, "4000 0000 0000 0002")
        expect(page.get_by_text(re.compile("declined", re.IGNORECASE)).first).to_be_visible()
        picture(page, "declined")
        assert float(person.get("/api/billing")["balance"]["available_usd"]) == 0
        fill_card(page, "4242 4242 4242 4242")
        page.wait_for_url("**/bots/new*")
        expect(page.locator(".sidebar")).to_contain_text("$5.0000")


def test_a_used_link_and_a_wrong_password_are_answered_on_the_page(window: Callable[..., Page], watch: Watch) -> None:
    watch.allow(400, 401)
    page = window()
    page.goto("/verify?token=used-up-long-ago")
    expect(page.get_by_role("heading", level=1)).to_have_text("This link does not work")
    page.goto("/sign-in")
    page.get_by_label("E-mail address").fill("nobody@example.com")
    page.get_by_label("Password").fill("this is not the password")
    page.get_by_role("button", name="Sign in").click()
    expect(page.get_by_role("alert")).to_be_visible()
    expect(page.get_by_label("E-mail address")).to_have_value("nobody@example.com")
