"""Keys, sessions and the administrator's pages, as a person uses them."""

import json
import re
from collections.abc import Callable

import openai
import pytest
from playwright.sync_api import Page, expect
from tests.e2e.browser import Watch, picture
from tests.live import Person, sign_up
from tests.stack import Stack

ADMIN_PAGES = ["tenants", "bots", "nodes", "inbox", "loops"]


def test_a_key_is_shown_once_works_and_is_refused_once_it_is_revoked(
    live: Stack, window: Callable[..., Page], customer: Person
) -> None:
    page = window(customer)
    page.goto("/keys")
    page.get_by_label("Name").fill("Laptop of Ada")
    page.get_by_role("button", name="Make the key").click()
    secret = page.locator(".secret code").inner_text()
    assert secret.startswith("wopr_")
    picture(page, "key-made")
    page.goto("/keys")
    expect(page.locator("main")).not_to_contain_text(secret)
    expect(page.get_by_text("Laptop of Ada").first).to_be_visible()

    with openai.OpenAI(base_url=f"{live.api}/v1", api_key=secret, max_retries=0) as client:
        assert client.models.list().data
        client.chat.completions.create(model="handbook", messages=[{"role": "user", "content": "Hello"}], max_tokens=3)
        page.get_by_role("row", name="Laptop of Ada").get_by_role("button", name="Revoke").click()
        dialog = page.get_by_role("dialog")
        expect(dialog).to_contain_text("Laptop of Ada")
        dialog.get_by_role("button", name="Revoke the key").click()
        expect(page.get_by_text("Laptop of Ada")).to_have_count(0)
        with pytest.raises(openai.AuthenticationError):
            client.models.list()


def test_signing_out_everywhere_ends_every_session_at_once(live: Stack, window: Callable[..., Page]) -> None:
    with sign_up(live, "Grace") as person:
        first, second = window(person), window(person)
        first.goto("/account")
        expect(first.get_by_text("This one", exact=True)).to_be_visible()
        picture(first, "account-sessions")
        second.goto("/dashboard")
        first.get_by_role("button", name="Sign out everywhere").first.click()
        first.get_by_role("dialog").get_by_role("button", name="Sign out everywhere").click()
        first.wait_for_url("**/sign-in*")
        second.goto("/dashboard")
        second.wait_for_url("**/sign-in*")
        assert person.http.get("/api/auth/session").status_code == 401


def test_a_bot_is_deleted_only_after_its_name_was_shown(window: Callable[..., Page], customer: Person) -> None:
    bot = customer.make_bot("Short-lived")
    page = window(customer)
    page.goto(f"/bots/{bot}/settings")
    page.get_by_role("button", name="Delete").first.click()
    dialog = page.get_by_role("dialog")
    expect(dialog).to_contain_text("Short-lived")
    dialog.locator("button.danger").click()
    page.wait_for_url("**/dashboard*")
    assert customer.http.get(f"/fleet/bots/{bot}").status_code in (404, 200)


def test_the_administrators_link_opens_every_admin_page_once(
    live: Stack, window: Callable[..., Page], customer: Person, watch: Watch
) -> None:
    link = json.loads(live.wopr("admin", "link", "--json").stdout)["link"]
    page = window()
    page.goto(link, wait_until="commit")  # its form sends itself, maybe before the page is loaded
    page.wait_for_url("**/admin")
    expect(page.get_by_role("heading", level=1)).to_have_text("Administration")
    for name in ADMIN_PAGES:
        page.goto(f"/admin/{name}")
        expect(page.locator("main")).to_be_visible()
        picture(page, f"admin-{name}")
    page.goto(f"/admin/tenants?q={customer.email}")
    expect(page.locator("main")).to_contain_text(customer.email)
    page.goto("/admin/nodes")
    expect(page.locator("main")).to_contain_text("local")
    page.goto("/admin/loops")
    expect(page.locator("main")).to_contain_text("reconcile")
    for why in page.locator("td:first-child .sub").all_inner_texts():
        assert re.fullmatch(r"[A-Z].*\.", why), f"a sentence: {why}"

    watch.allow(400)
    again = window()
    again.goto(link)
    expect(again.get_by_role("heading", level=1)).to_have_text("This link does not work")


def test_the_admin_pages_are_closed_to_customers(window: Callable[..., Page], customer: Person, watch: Watch) -> None:
    watch.allow(403, 404)
    page = window(customer)
    for name in ("", *(f"/{page_name}" for page_name in ADMIN_PAGES)):
        answer = page.goto(f"/admin{name}")
        assert answer is not None
        assert answer.status in (403, 404)
