"""The wall: headers on everything, forms only from our own pages, one person's cookies only for that person."""

from __future__ import annotations

import re

import httpx
import pytest
from fake_data import Store
from structlog.testing import capture_logs

from wopr.core.settings import Settings
from wopr.web import build_web

PATHS = ["/", "/dashboard", "/nowhere", "/static/x/none.css", "/health", "/bots/none", "/bots/new?template=%00"]


@pytest.mark.parametrize("path", PATHS)
async def test_every_answer_carries_the_policy(browser: httpx.AsyncClient, path: str) -> None:
    headers = (await browser.get(path)).headers
    policy = headers["content-security-policy"]
    assert "default-src 'self'" in policy
    assert "unsafe" not in policy
    assert "frame-ancestors 'none'" in policy
    assert "form-action 'self' http://127.0.0.1:4101" in policy
    assert headers["x-content-type-options"] == "nosniff"
    assert "server" not in headers


async def test_no_page_has_inline_scripts_or_styles(browser: httpx.AsyncClient, store: Store) -> None:
    bot = f"/bots/{store.bots[0]['id']}"
    for path in (
        "/",
        "/sign-in",
        "/dashboard",
        bot,
        f"{bot}/logs",
        f"{bot}/settings",
        "/keys",
        "/billing",
        "/admin/nodes",
    ):
        page = (await browser.get(path)).text
        assert not re.search(r"<script(?![^>]*\bsrc=)", page), path
        assert not re.search(r"<[^>]+\s(style|on\w+)=", page), path
        assert "<style" not in page
        assert not re.findall(r'(?:src|href)="(?:https?:)?//(?!127\.0\.0\.1|localhost|api\.test)', page), path


@pytest.mark.parametrize(
    "origin", ["https://evil.example", "null", "http://localhost:3001", "http://localhost.evil.example:3000"]
)
async def test_forms_of_other_sites_change_nothing(browser: httpx.AsyncClient, store: Store, origin: str) -> None:
    answer = await browser.post("/account/name", data={"name": "Mallory"}, headers={"origin": origin})
    assert answer.status_code == 403
    assert store.name == "Ada"
    assert "content-security-policy" in answer.headers


async def test_a_form_without_origin_but_with_a_cookie_is_refused(browser: httpx.AsyncClient, store: Store) -> None:
    del browser.headers["origin"]
    assert (await browser.post("/account/name", data={"name": "Mallory"})).status_code == 403
    assert store.name == "Ada"


async def test_head_is_answered_like_get(browser: httpx.AsyncClient) -> None:
    assert (await browser.head("/")).status_code == 200
    assert (await browser.head("/nowhere")).status_code == 404


async def test_the_ui_works_under_the_name_it_is_called_by(browser: httpx.AsyncClient, store: Store) -> None:
    headers = {"origin": "http://192.168.1.5:3000", "host": "192.168.1.5:3000"}
    assert (await browser.post("/account/name", data={"name": "Ada L."}, headers=headers)).status_code == 303
    assert store.name == "Ada L."


async def test_the_api_learns_who_asks(browser: httpx.AsyncClient, store: Store) -> None:
    await browser.get("/keys", headers={"x-forwarded-for": "203.0.113.9", "user-agent": "Test/1"})
    _, _, headers = store.seen[-1]
    assert headers["x-forwarded-for"] == "203.0.113.9, 127.0.0.1"
    assert headers["user-agent"] == "Test/1"
    assert f"wopr_session={store.session}" in headers["cookie"]


async def test_one_persons_session_never_reaches_the_next(browser: httpx.AsyncClient, store: Store) -> None:
    browser.cookies.clear()
    await browser.post("/sign-in", data={"email": "ada@example.com", "password": "correct horse battery"})
    browser.cookies.clear()
    assert (await browser.get("/dashboard")).headers["location"] == "/sign-in"
    assert not [1 for _, path, headers in store.seen[-1:] if path == "/api/auth/session" and "cookie" in headers]


async def test_an_unexpected_error_is_a_page_without_details(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    app = build_web(Settings(api_url="http://api.test", ui_url="http://localhost:3000"))

    async def broken() -> None:
        raise RuntimeError("secret detail")

    monkeypatch.setattr(app.state.site.prices, "current", broken)
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://localhost:3000") as client:
        with capture_logs() as logs:
            page = await client.get("/")
    await app.state.site.http.aclose()
    assert page.status_code == 500
    assert "secret detail" not in page.text
    assert "secret detail" in logs[0]["error"]
    assert "content-security-policy" in page.headers


async def test_static_files_are_kept_for_ever_and_small(browser: httpx.AsyncClient) -> None:
    page = await browser.get("/")
    addresses = re.findall(r'(?:src|href)="(/static/[^"]+)"', page.text)
    assert addresses
    total = len(page.content)
    for address in addresses:
        answer = await browser.get(address)
        assert answer.status_code == 200
        assert "immutable" in answer.headers["cache-control"]
        total += int(answer.headers["content-length"])
    assert total < 100_000


async def test_an_old_static_address_is_gone_rather_than_wrong(browser: httpx.AsyncClient) -> None:
    assert (await browser.get("/static/000000000000/wopr.css")).status_code == 404
    assert (await browser.get("/static/000000000000/../../app.py")).status_code == 404


async def test_scripts_find_each_other_under_the_hashed_address(browser: httpx.AsyncClient) -> None:
    page = (await browser.get("/dashboard")).text
    waiting = re.findall(r'src="(/static/[^"]+\.js)"', page)
    seen = set()
    while waiting:
        address = waiting.pop()
        seen.add(address)
        answer = await browser.get(address)
        assert answer.status_code == 200, address
        assert answer.headers["content-type"].startswith("text/javascript")
        folder = address.rpartition("/")[0]
        names = re.findall(r'(?:from|import) "\./([\w-]+\.js)"', answer.text)
        waiting += [f"{folder}/{name}" for name in names if f"{folder}/{name}" not in seen]
    assert len(seen) >= 8
