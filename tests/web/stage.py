"""A stage for tests that need a browser: a UI on a real port, the fake API behind it, Chromium in front."""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pytest
import pytest_asyncio
import uvicorn
from fake_api import build_fake_api
from fake_data import Store, full_store
from tests.browsing import CHROMIUM, calm

from wopr.core.settings import Settings
from wopr.web import build_web

if TYPE_CHECKING:
    from playwright.async_api import BrowserContext, Page

NEEDED = os.environ.get("WOPR_REQUIRE", "") in ("all", "1") or "browser" in os.environ.get("WOPR_REQUIRE", "")
MARKS = [
    pytest.mark.e2e,
    pytest.mark.asyncio(loop_scope="module"),
    pytest.mark.skipif(not CHROMIUM and not NEEDED, reason="needs chromium"),
]
ARGUMENTS = ["--no-sandbox", "--disable-background-networking"]
WAIT_MS = 60_000


@dataclass
class Stage:
    """A UI on a real port, with the store behind it and a browser in front."""

    url: str
    store: Store
    browser: Any
    complaints: list[str]

    async def context(self, **given: Any) -> BrowserContext:
        """A browser profile that is signed in; errors on its console are collected."""
        context = await self.browser.new_context(**given)
        context.set_default_timeout(WAIT_MS)
        await context.add_cookies([{"name": "wopr_session", "value": self.store.session, "url": self.url}])
        context.on("console", lambda m: self.complaints.append(m.text) if m.type in ("error", "warning") else None)
        context.on("weberror", lambda error: self.complaints.append(str(error.error)))
        return context

    async def page(self, path: str, **given: Any) -> Page:
        page = await (await self.context(**given)).new_page()
        await page.goto(self.url + path)
        return page

    @property
    def bot(self) -> str:
        return f"/bots/{self.store.bots[0]['id']}"


def listening() -> socket.socket:
    held = socket.socket()
    held.bind(("127.0.0.1", 0))
    return held


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def chromium() -> AsyncIterator[Any]:
    """One browser for all tests of this file; each test has a profile of its own."""
    from playwright.async_api import async_playwright

    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(executable_path=CHROMIUM, args=ARGUMENTS, env=calm())
        yield browser
        await browser.close()


@pytest_asyncio.fixture(loop_scope="module")
async def stage(chromium: Any) -> AsyncIterator[Stage]:
    api_socket, ui_socket = listening(), listening()
    api_url, ui_url = (f"http://127.0.0.1:{one.getsockname()[1]}" for one in (api_socket, ui_socket))
    store = full_store()
    store.ui_origin = ui_url
    settings = Settings(api_url=api_url, ui_url=ui_url)
    servers = [(build_fake_api(store), api_socket), (build_web(settings), ui_socket)]
    running = []
    for app, held in servers:
        config = uvicorn.Config(app, log_level="critical", timeout_graceful_shutdown=1, ws="none")
        server = uvicorn.Server(config)
        running.append((server, asyncio.create_task(server.serve(sockets=[held]))))
    stage = Stage(ui_url, store, chromium, [])
    yield stage
    for context in chromium.contexts:
        await context.close()
    for turn in store.turns.values():
        turn.gate.set()
    for server, task in reversed(running):
        server.should_exit = True
        await task


async def say(page: Page, words: str) -> None:
    await page.fill("#say", words)
    await page.keyboard.press("Enter")


async def until(page: Page, expression: str) -> None:
    """Wait until an expression holds. Playwright's own way evaluates strings in the page, which the policy forbids."""
    async with asyncio.timeout(WAIT_MS / 1000):
        while not await page.evaluate(expression):  # noqa: ASYNC110 - the event is in another process
            await asyncio.sleep(0.05)


async def streamed(page: Page) -> str:
    await until(page, "document.querySelector('.streaming')?.textContent.length > 80")
    return await page.locator(".streaming").inner_text()
