"""A real browser on the running platform; a test that ends with a problem which nobody saw fails (see `Watch`)."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, BrowserContext, Page, Playwright, expect, sync_playwright
from tests.browsing import CHROMIUM, calm
from tests.e2e.browser import DESKTOP, Watch
from tests.live import Person, missing, spoken
from tests.stack import Stack

ARGUMENTS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--use-fake-ui-for-media-stream",
    "--use-fake-device-for-media-stream",
]
WAIT_MS = 60_000


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Everything in this folder drives a browser."""
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker(pytest.mark.e2e)


@pytest.fixture(scope="module")
def playwright() -> Iterator[Playwright]:
    """Playwright for one file. Its loop must not outlive it: other tests run loops of their own."""
    expect.set_options(timeout=WAIT_MS)
    with sync_playwright() as running:
        yield running


@pytest.fixture(scope="session")
def microphone(tmp_path_factory: pytest.TempPathFactory) -> Path | None:
    """What the browser's microphone hears; None without flite."""
    recording = spoken("the weather is good today")
    if recording is None:
        return None
    path = tmp_path_factory.mktemp("sound") / "microphone.wav"
    path.write_bytes(recording)
    return path


@pytest.fixture(scope="module")
def browser(playwright: Playwright, microphone: Path | None) -> Iterator[Browser]:
    """One for all tests of a file."""
    if not CHROMIUM:
        missing("chromium")
    heard = [f"--use-file-for-fake-audio-capture={microphone}"] if microphone else []
    started = playwright.chromium.launch(executable_path=CHROMIUM, args=ARGUMENTS + heard, env=calm())
    yield started
    started.close()


@pytest.fixture
def watch(live: Stack) -> Iterator[Watch]:
    """The eye on this test's pages."""
    eye = Watch(live)
    yield eye
    assert not eye.problems, "\n".join(eye.problems)


@pytest.fixture
def window(live: Stack, browser: Browser, watch: Watch) -> Iterator[Callable[..., Page]]:
    """Opens windows: `window(person)` is signed in, `window()` is a stranger's; options go to the context."""
    opened: list[BrowserContext] = []

    def open_window(person: Person | None = None, **options: Any) -> Page:
        context = browser.new_context(base_url=live.ui, **({"viewport": DESKTOP} | options))
        context.set_default_timeout(WAIT_MS)
        opened.append(context)
        if person is not None:
            value = person.http.cookies["wopr_session"]
            context.add_cookies([{"name": "wopr_session", "value": value, "url": live.ui}])
        return watch.over(context.new_page())

    yield open_window
    for context in opened:
        context.close()


@pytest.fixture(scope="module")
def bot(customer: Person) -> str:
    """A running bot of the customer."""
    return customer.make_bot()
