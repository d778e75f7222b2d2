"""Talking to a bot in the browser: streaming, reloads, second tabs, hostile text, and the keyboard alone."""

import json
import re
from collections.abc import Callable

from playwright.sync_api import Page, Route, expect
from tests.e2e.browser import ANSWER_MS, Watch, answers, finished, picture, say
from tests.live import PASSWORD, Person

QUESTION = "What happens when my credit is used up?"
STREAMING = "li.message.assistant .streaming"
SOME_WORDS = re.compile(".{6,}", re.DOTALL)


def questions(page: Page) -> list[str]:
    return page.locator("li.message.user .bubble").all_inner_texts()


def test_an_answer_is_shown_while_it_is_written(window: Callable[..., Page], customer: Person, bot: str) -> None:
    page = window(customer)
    page.goto(f"/bots/{bot}?c=new")
    page.evaluate(
        """() => { window.lengths = new Set(); new MutationObserver(() => {
            const s = document.querySelector('.streaming'); if (s) window.lengths.add(s.textContent.length);
        }).observe(document.body, {childList: true, subtree: true, characterData: true}); }"""
    )
    answer = say(page, QUESTION)
    assert page.evaluate("window.lengths.size") > 5, "it came in one piece"
    turn = re.search(r"turn=([\w-]+)", page.url)
    assert turn is not None
    whole = customer.get(f"/fleet/bots/{bot}/turns/{turn.group(1)}")["text"]
    assert _letters(answer.locator(".prose").inner_text()) == _letters(whole)


def test_a_reload_in_mid_stream_loses_and_doubles_nothing(
    window: Callable[..., Page], customer: Person, bot: str
) -> None:
    page = window(customer)
    page.goto(f"/bots/{bot}?c=new")
    page.get_by_role("textbox", name=re.compile("Say something")).fill(QUESTION)
    page.get_by_role("textbox", name=re.compile("Say something")).press("Enter")
    expect(page.locator(STREAMING)).to_have_text(SOME_WORDS, timeout=ANSWER_MS)
    page.wait_for_url("**turn=*")
    page.reload()
    finished(answers(page).last)
    assert questions(page) == [QUESTION]
    assert answers(page).count() == 1
    turn = re.search(r"turn=([\w-]+)", page.url)
    assert turn is not None
    whole = customer.get(f"/fleet/bots/{bot}/turns/{turn.group(1)}")["text"]
    assert _letters(answers(page).last.locator(".prose").inner_text()) == _letters(whole)
    page.reload()
    assert questions(page) == [QUESTION]
    assert answers(page).count() == 1


def test_a_second_tab_sees_the_same_conversation(window: Callable[..., Page], customer: Person, bot: str) -> None:
    page = window(customer)
    page.goto(f"/bots/{bot}?c=new")
    say(page, "Hello there")
    conversation = page.url.split("c=")[1].split("&")[0]
    second = page.context.new_page()
    second.goto(f"/bots/{bot}?c={conversation}")
    assert questions(second) == questions(page)
    say(page, QUESTION)
    expect(second.locator("li.message.user .bubble")).to_have_count(2)
    finished(answers(second).last)
    assert answers(second).all_inner_texts() == answers(page).all_inner_texts()


def test_what_is_said_never_becomes_markup_that_runs(window: Callable[..., Page], customer: Person, bot: str) -> None:
    page = window(customer)
    hostile = "Remember that my motto is **bold** <img src=x onerror=alert(1)> [x](javascript:alert(1)) ![y](http://a.b/y.png)"
    page.goto(f"/bots/{bot}?c=new")
    say(page, hostile)
    answer = say(page, "What is my motto?")
    assert page.locator(".messages img, .messages script, .messages [onerror]").count() == 0
    assert page.locator(".messages a[href^='javascript']").count() == 0
    assert questions(page)[0] == hostile
    expect(answer.locator(".prose")).to_contain_text("bold")
    page.reload()
    assert page.locator(".messages img, .messages script, .messages a[href^='javascript']").count() == 0


def test_markdown_is_rendered(window: Callable[..., Page], customer: Person, bot: str) -> None:
    page = window(customer)
    page.goto(f"/bots/{bot}?c=new")
    answer = say(page, "Which models are there?")
    assert answer.locator(".prose p, .prose li, .prose strong, .prose code").count() > 0
    assert "**" not in answer.locator(".prose").inner_text()


def test_a_refusal_is_shown_where_the_message_was_and_keeps_it(
    window: Callable[..., Page], customer: Person, bot: str, watch: Watch
) -> None:
    page = window(customer)
    page.goto(f"/bots/{bot}?c=new")
    refusal = {"error": {"code": "credit_empty", "message": "Your credit is used up.", "remedy": "Top up."}}

    def refuse(route: Route) -> None:
        route.fulfill(status=402, content_type="application/json", body=json.dumps(refusal))

    watch.allow(402)
    page.route("**/turns", refuse)
    field = page.get_by_role("textbox", name=re.compile("Say something"))
    field.fill("Are you there?")
    field.press("Enter")
    expect(page.get_by_role("alert")).to_contain_text("Your credit is used up.")
    expect(page.get_by_role("alert").get_by_role("link", name="Top up")).to_be_visible()
    expect(field).to_have_value("Are you there?")
    picture(page, "chat-refused")


def test_with_the_keyboard_alone_one_signs_in_and_talks(
    window: Callable[..., Page], customer: Person, bot: str
) -> None:
    page = window()
    page.goto("/sign-in")
    expect(page.get_by_label("E-mail address")).to_be_focused()
    keys = page.keyboard
    keys.type(customer.email)
    keys.press("Tab")
    keys.type(PASSWORD)
    keys.press("Enter")
    page.wait_for_url("**/dashboard*")
    _tab_to(page, f"a[href^='/bots/{bot}']")
    keys.press("Enter")
    page.wait_for_url(f"**/bots/{bot}*")
    field = page.get_by_role("textbox", name=re.compile("Say something"))
    expect(field).to_be_enabled(timeout=ANSWER_MS)
    _tab_to(page, "textarea#say")
    keys.type("Hello from the keyboard")
    before = answers(page).count()
    keys.press("Enter")
    finished(answers(page).nth(before))


def _tab_to(page: Page, selector: str) -> None:
    """Press Tab until an element that matches has the focus."""
    for _ in range(80):
        if page.evaluate("s => document.activeElement?.matches(s) ?? false", selector):
            return
        page.keyboard.press("Tab")
    raise AssertionError(f"{selector} can't be reached with Tab")


def _letters(text: str) -> str:
    """The words alone: what markdown shows otherwise than it is written does not matter here."""
    return "".join(re.findall(r"\w+", text))
