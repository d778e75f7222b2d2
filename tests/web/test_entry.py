"""Coming in: what a visitor reads, where the cursor stands, where the mails are, where a link leads."""

from __future__ import annotations

import re

import httpx
import pytest
from fake_api import build_fake_api
from fake_data import Store

from wopr.core.settings import Settings
from wopr.web import build_web

UI = "http://localhost:3000"


@pytest.mark.parametrize(
    ("path", "first", "body"),
    [("/sign-in", "email", {"email": "ada@example.com"}), ("/sign-up", "name", {"email": "ada@example.com"})],
)
async def test_the_cursor_stands_where_one_types_next(
    browser: httpx.AsyncClient, path: str, first: str, body: dict[str, str]
) -> None:
    def focused(page: str) -> list[str]:
        return re.findall(r'<input class="input" id="f-(\w+)"[^>]* autofocus', page)

    assert focused((await browser.get(path)).text) == [first]
    refused = await browser.post(path, data=body | {"password": "too short"})
    assert focused(refused.text) == ["password"], "what was typed before is kept, the password is not"


async def test_the_link_is_sent_again_from_where_one_is(browser: httpx.AsyncClient, store: Store) -> None:
    store.verified = False
    assert 'name="back" value="/billing"' in (await browser.get("/billing")).text
    answer = await browser.post("/verify/resend", data={"email": "ada@example.com", "back": "/billing"})
    assert answer.headers["location"] == "/billing?done=resent"
    assert "A new link is on its way." in (await browser.get("/billing?done=resent")).text
    answer = await browser.post("/verify/resend", data={"email": "ada@example.com", "back": "https://evil.example"})
    assert answer.headers["location"] == "/dashboard?done=resent"


@pytest.mark.parametrize(
    ("form", "says"),
    [
        ("/sign-up", "We sent a link to <strong>ada+bots@example.com</strong>"),
        ("/verify/resend", "A new link is on its way."),
        ("/reset-request", "If <strong>ada+bots@example.com</strong> has an account here"),
    ],
)
async def test_a_reload_sends_no_second_mail_and_no_address_is_in_the_address(
    browser: httpx.AsyncClient, form: str, says: str
) -> None:
    entry = {"email": " ada+bots@example.com", "password": "violet anchor tundra biscuit"}
    answer = await browser.post(form, data=entry)
    assert (answer.status_code, answer.headers["location"].partition("?")[0]) == (303, "/check-mail")
    assert "ada" not in answer.headers["location"]
    for _reload in range(2):
        assert says in (await browser.get(answer.headers["location"])).text


async def test_a_dead_link_for_a_new_password_leads_to_another(browser: httpx.AsyncClient) -> None:
    answer = await browser.post("/reset", data={"token": "old", "password": "violet anchor tundra biscuit"})
    assert answer.status_code == 400
    assert 'href="/reset-request"' in answer.text
    assert "<form" not in answer.text.partition("<main")[2].partition("</main>")[0]


async def test_who_asked_for_no_mail_is_told_of_none(browser: httpx.AsyncClient) -> None:
    for cookie in ("", "verify:", "anything:ada@example.com", "<b>"):
        answer = await browser.get("/check-mail", headers={"cookie": f"wopr_mail={cookie}"})
        assert answer.headers["location"] == "/sign-in"
    hostile = await browser.get("/check-mail", headers={"cookie": "wopr_mail=verify:%3Cscript%3E"})
    assert "<strong>&lt;script&gt;</strong>" in hostile.text


@pytest.mark.parametrize(
    ("base", "where"),
    [("http://localhost:4102", "http://localhost:4102/?to=ada%40"), ("https://api.resend.com", "spam")],
)
async def test_mails_that_stay_on_this_machine_are_pointed_at(store: Store, base: str, where: str) -> None:
    app = build_web(Settings(api_url="http://api.test", ui_url=UI, resend_api_base=base))
    app.state.site.http._transport = httpx.ASGITransport(build_fake_api(store))
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url=UI, headers={"origin": UI}) as browser:
        page = await browser.post("/reset-request", data={"email": "ada@example.com"}, follow_redirects=True)
    assert where in page.text
    await app.state.site.http.aclose()


async def test_the_price_list_says_what_a_model_is_for(browser: httpx.AsyncClient) -> None:
    page = (await browser.get("/")).text
    assert 'minilm<span class="sub">Embeddings</span>' in page
    assert "Other models: text<" in page


async def test_the_administrators_link_leads_to_the_administration(browser: httpx.AsyncClient, store: Store) -> None:
    assert (await browser.post("/welcome", data={"token": "good"})).headers["location"] == "/admin"
    store.admin = False
    assert (await browser.post("/welcome", data={"token": "good"})).headers["location"] == "/dashboard"
