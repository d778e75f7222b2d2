"""What tests do with pages again and again: pay, talk, take pictures, and watch what a person would not see."""

import re
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

from playwright.sync_api import ConsoleMessage, Locator, Page, Request, expect
from tests.stack import Stack

PICTURES = Path(__file__).parent.parent.parent / "test-results"
ANSWER_MS = 120_000
DESKTOP = {"width": 1280, "height": 900}
# Chromium calls it an error when a page answers a mistake with 4xx, which is what a page should do.
ANSWERED_WITH_ERROR = re.compile(r"Failed to load resource: the server responded with a status of (4\d\d)")


@dataclass
class Watch:
    """What went wrong on the pages of a test without being seen.

    Errors in the console, scripts that throw, requests that fail or leave this machine, and violations of the
    Content-Security-Policy.
    """

    stack: Stack
    problems: list[str] = field(default_factory=list)
    refusals: set[int] = field(default_factory=set)

    def over(self, page: Page) -> Page:
        """Watch a page from now on."""
        page.on("console", self._console)
        page.on("pageerror", lambda error: self.problems.append(f"script: {error}"))
        page.on("requestfailed", self._failed)
        page.on("request", self._request)
        page.add_init_script(
            "document.addEventListener('securitypolicyviolation', e => console.error("
            "'violates the policy: ' + e.violatedDirective + ' ' + e.blockedURI))"
        )
        return page

    def allow(self, *statuses: int) -> None:
        """These refusals are what the test is about."""
        self.refusals.update(statuses)

    def _console(self, message: ConsoleMessage) -> None:
        if message.type not in ("error", "warning"):
            return
        answered = ANSWERED_WITH_ERROR.search(message.text)
        if answered and int(answered.group(1)) in self.refusals:
            return
        self.problems.append(f"console: {message.text} ({message.location.get('url')})")

    def _failed(self, request: Request) -> None:
        # A stream or a look at the balance that is under way when the person leaves is given up; nothing failed.
        if request.failure != "net::ERR_ABORTED":
            self.problems.append(f"failed: {request.method} {request.url}: {request.failure}")

    def _request(self, request: Request) -> None:
        url = urlsplit(request.url)
        if url.scheme in ("data", "blob", "about"):
            return
        if url.hostname not in ("localhost", "127.0.0.1") or url.port not in self.stack.ports.values():
            self.problems.append(f"external: {request.url}")


def fill_card(page: Page, number: str) -> None:
    """Fill the hosted payment page and send it."""
    page.get_by_label("Card number").fill(number)
    page.get_by_label("Expiration").fill("12 / 40")
    page.get_by_label("CVC").fill("123")
    page.get_by_label("Cardholder name").fill("Ada Lovelace")
    page.get_by_role("button", name=re.compile("Subscribe|Pay")).click()


def say(page: Page, words: str) -> Locator:
    """Say something in the open chat; the finished answer."""
    field = page.get_by_role("textbox", name=re.compile("Say something"))
    expect(field).to_be_enabled(timeout=ANSWER_MS)
    before = answers(page).count()
    field.fill(words)
    page.get_by_role("button", name="Send").click()
    answer = answers(page).nth(before)
    finished(answer)
    return answer


def answers(page: Page) -> Locator:
    """Every answer of the open conversation, the oldest first."""
    return page.locator("li.message.assistant")


def finished(answer: Locator) -> None:
    """Wait until an answer is complete."""
    expect(answer.locator(".prose")).to_be_visible(timeout=ANSWER_MS)
    expect(answer).not_to_have_attribute("aria-busy", "true", timeout=ANSWER_MS)


def picture(page: Page, name: str) -> None:
    """Keep a picture of the whole page as an artefact."""
    PICTURES.mkdir(exist_ok=True)
    page.screenshot(path=PICTURES / f"{name}.png", full_page=True, animations="disabled")


def overflow(page: Page) -> int:
    """By how many pixels the page is wider than its window."""
    wide: int = page.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth")
    return wide
