"""Every page as a picture, light and dark, on a desktop and on a phone: nothing overflows, nothing fails unseen."""

from collections.abc import Callable
from typing import Any

import pytest
from playwright.sync_api import Page
from tests.e2e.browser import DESKTOP, overflow, picture
from tests.live import Person

NARROWEST = 320
PHONE = {"width": 390, "height": 844}
PUBLIC = {
    "landing": "/",
    "sign-up": "/sign-up",
    "sign-in": "/sign-in",
    "reset-request": "/reset-request",
    "status": "/status",
}
OWN = {
    "dashboard": "/dashboard",
    "new-bot": "/bots/new",
    "chat": "/bots/{bot}",
    "logs": "/bots/{bot}/logs",
    "settings": "/bots/{bot}/settings",
    "usage": "/bots/{bot}/usage",
    "billing": "/billing",
    "keys": "/keys",
    "account": "/account",
}
ADMIN = {
    f"admin-{name or 'overview'}": f"/admin/{name}".rstrip("/")
    for name in ("", "tenants", "bots", "nodes", "inbox", "loops")
}


@pytest.fixture(scope="module")
def used_bot(customer: Person, bot: str) -> str:
    """A bot with a conversation, so that the pictures show one."""
    first = customer.ask(bot, "What does a bot cost?")
    customer.ask(bot, "Which models are there?", first["conversation_id"])
    return bot


@pytest.mark.parametrize("theme", ["light", "dark"])
@pytest.mark.parametrize("viewport", [DESKTOP, PHONE], ids=["desktop", "phone"])
def test_every_page_fits_its_window_and_nothing_fails_unseen(
    window: Callable[..., Page],
    customer: Person,
    administrator: Person,
    used_bot: str,
    theme: str,
    viewport: dict[str, Any],
) -> None:
    problems = []
    for person, pages in ((None, PUBLIC), (customer, OWN), (administrator, ADMIN)):
        page = window(person, viewport=viewport, color_scheme=theme)
        for name, path in pages.items():
            answer = page.goto(path.format(bot=used_bot))
            assert answer is not None
            if not answer.ok or page.locator("h1, h2").count() == 0:
                problems.append(f"{name}: {answer.status}")
            size = f"{viewport['width']}-{theme}"
            picture(page, f"{name}-{size}")
            if wide := overflow(page):
                problems.append(f"{name} at {size}: {wide} px too wide")
            if viewport is PHONE:
                page.set_viewport_size({"width": NARROWEST, "height": 700})
                if wide := overflow(page):
                    problems.append(f"{name} at {NARROWEST}: {wide} px too wide")
                page.set_viewport_size(PHONE)  # type: ignore[arg-type]
    assert not problems, "\n".join(problems)


@pytest.mark.parametrize("path", list(PUBLIC.values()))
def test_the_public_pages_work_without_scripts(window: Callable[..., Page], path: str) -> None:
    page = window(java_script_enabled=False)
    answer = page.goto(path)
    assert answer is not None
    assert answer.ok
    assert page.locator("h1").count() == 1


def test_a_page_that_does_not_exist_says_so(window: Callable[..., Page], watch: Any) -> None:
    watch.allow(404)
    page = window()
    answer = page.goto("/joshua")
    assert answer is not None
    assert answer.status == 404
    picture(page, "not-found")
