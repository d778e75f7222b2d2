"""On phones and with names at their longest nothing hides, overlaps or breaks; the keyboard keeps its place."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import pytest
from fake_data import at
from stage import MARKS, Stage, say, streamed, until

if TYPE_CHECKING:
    from fake_data import Store

pytestmark = MARKS
PHONE = {"width": 390, "height": 800}
NARROWEST = {"width": 320, "height": 700}
LONG_WORD = "Wolfeschlegelsteinhausenbergerdorffsupercalifragilisticexpia"
LONG_PATH = "/a/long/path" * 15

# Boxes whose content is cut off at a side, except for code and tables in answers, which may be scrolled sideways.
CUT = """[document.documentElement, ...document.querySelectorAll("main, main *, dialog, dialog *")].filter((one) =>
  one.scrollWidth > one.clientWidth + 1 && one.clientWidth > 1 && !one.closest("pre, .prose table, svg") &&
  (one === document.documentElement || ["auto", "scroll"].includes(getComputedStyle(one).overflowX))
).map((one) => `${one.tagName}.${one.className}: ${one.scrollWidth} in ${one.clientWidth}`)"""
OVERLAPPING = """[...document.querySelectorAll(".chart text")].map((one) => one.getBoundingClientRect())
  .filter((one) => one.width).some((one, at, all) => all.slice(at + 1).some((other) =>
    one.left < other.right && other.left < one.right && one.top < other.bottom && other.top < one.bottom))"""


def with_long_names(store: Store) -> tuple[str, str]:
    """The longest that people may type, in every place; a bot that runs and one that failed with such names."""
    failed = store.add_bot(
        name=LONG_WORD, state="failed", last_error=f"It ended 5 times: {LONG_PATH}", persona="x" * 600
    )
    running = store.add_bot(name="A name with many words that goes on and on until sixty")
    store.add_key(LONG_WORD, "write", 90)
    store.conversations[0]["title"] = LONG_WORD * 3
    store.messages["c1"][0]["text"] = LONG_WORD * 20
    store.messages["c1"][1]["text"] = (
        f"{LONG_WORD * 9}\n\n```\n{'code ' * 90}\n```\n\n[{LONG_WORD}](https://example.com/{LONG_PATH})"
    )
    return f"/bots/{running['id']}", f"/bots/{failed['id']}"


@pytest.mark.parametrize("width", [320, 390, 1280])
async def test_names_at_their_longest_break_no_page(stage: Stage, width: int) -> None:
    running, failed = with_long_names(stage.store)
    page = await stage.page("/dashboard", viewport={"width": width, "height": 700})
    paths = ["/dashboard", f"{running}?c=c1", failed, f"{failed}/settings", f"{failed}/logs", "/keys", "/admin/bots"]
    for path in paths:
        await page.goto(stage.url + path)
        assert await page.evaluate(CUT) == [], path
    await page.goto(f"{stage.url}{failed}/settings")
    await page.click("[data-opens=delete-bot]")
    assert await page.evaluate(CUT) == []


async def test_bots_are_told_apart_by_the_ends_of_their_names(stage: Stage) -> None:
    for number in range(12):
        stage.store.add_bot(name=f"Bot number {number}", state="suspended")
    page = await stage.page("/dashboard", viewport={"width": 1280, "height": 900})
    cut = (
        "[...document.querySelectorAll('.bot-card h3')].filter((one) => one.scrollHeight > one.clientHeight + 1).length"
    )
    assert await page.evaluate(cut) == 0


async def test_on_a_tablet_an_ordinary_name_keeps_its_line(stage: Stage) -> None:
    page = await stage.page("/admin/tenants", viewport={"width": 768, "height": 800})
    lines = "[...document.querySelectorAll('td:first-child .sub')].map((one) => one.getClientRects()[0].height)"
    assert max(await page.evaluate(lines)) < 30
    assert await page.evaluate(CUT) == []


@pytest.mark.parametrize("width", [320, 390, 768, 1280])
async def test_the_stages_of_a_node_and_why_it_failed_are_in_sight_at_every_width(stage: Stage, width: int) -> None:
    page = await stage.page("/admin/nodes/gpu-tor1-77c0de", viewport={"width": width, "height": 900})
    assert await page.evaluate(CUT) == []
    for text in (await page.locator("#stages td").all())[1:]:
        box = await text.bounding_box()
        assert box is not None
        assert box["x"] + box["width"] <= width
    boxes = "[...document.querySelectorAll('#stages > footer > *')].map((one) => one.getBoundingClientRect())"
    touching = (
        f"{boxes}.some((one, at, all) => all.slice(at + 1).some((o) => one.bottom > o.top - 4 && o.left < one.left))"
    )
    assert not await page.evaluate(touching), "rows of buttons keep apart"


@pytest.mark.parametrize("width", [320, 390, 768, 1280])
async def test_the_logs_of_a_node_break_no_page(stage: Stage, width: int) -> None:
    page = await stage.page("/admin/nodes", viewport={"width": width, "height": 900})
    for path in ("gpu-tor1-77c0de/logs?source=making", "gpu-fra-2/logs?source=llama", "local"):
        await page.goto(f"{stage.url}/admin/nodes/{path}")
        assert await page.evaluate(CUT) == [], path


async def test_on_a_desktop_the_id_of_a_node_keeps_its_line_and_nothing_is_cut(stage: Stage) -> None:
    page = await stage.page("/admin/nodes", viewport={"width": 1280, "height": 900})
    ids = "[...document.querySelectorAll('.table.nodes td:first-child strong')]"
    lines = f"{ids}.map((one) => one.getClientRects()[0].height)"
    assert max(await page.evaluate(lines)) < 30
    assert await page.evaluate(CUT) == []
    rows = "[...document.querySelectorAll('.table.nodes tbody tr')].map((one) => one.clientHeight)"
    assert max(await page.evaluate(rows)) < 140


async def test_on_a_phone_a_banner_gives_its_words_the_line(stage: Stage) -> None:
    stage.store.verified = False
    stage.store.bots, stage.store.available_usd, stage.store.plan = [], "0", {"status": "none"}
    page = await stage.page("/dashboard", viewport=NARROWEST)
    widths = "[...document.querySelectorAll('.banner > .grow, .checklist .grow')].map((one) => one.clientWidth)"
    assert min(await page.evaluate(widths)) >= 180
    assert await page.evaluate(CUT) == []


async def test_on_a_phone_every_tab_of_the_administration_is_in_sight(stage: Stage) -> None:
    page = await stage.page("/admin", viewport=PHONE)
    for tab in await page.locator(".tabs a").all():
        box = await tab.bounding_box()
        assert box is not None
        assert box["x"] + box["width"] <= PHONE["width"]


@pytest.mark.parametrize("width", [320, 390, 1280])
async def test_no_label_of_a_choice_is_broken(stage: Stage, width: int) -> None:
    page = await stage.page("/admin/inbox", viewport={"width": width, "height": 800})
    for path in ("/admin/inbox", "/account", f"{stage.bot}/logs"):
        await page.goto(stage.url + path)
        heights = "[...document.querySelectorAll('.main .segmented > *')].map((one) => one.clientHeight)"
        assert max(await page.evaluate(heights)) <= 40, path


@pytest.mark.parametrize("width", [320, 390, 1280])
async def test_the_chart_can_be_read_at_every_width(stage: Stage, width: int) -> None:
    page = await stage.page("/dashboard", viewport={"width": width, "height": 800})
    heights = "[...document.querySelectorAll('.chart text')].map((one) => one.getBoundingClientRect().height)"
    assert min(height for height in await page.evaluate(heights) if height) >= 11
    assert not await page.evaluate(OVERLAPPING)
    bars = "document.querySelector('.chart rect.inference').closest('svg').getBoundingClientRect().height"
    assert await page.evaluate(bars) >= 150


async def test_the_button_that_copies_covers_no_code(stage: Stage) -> None:
    page = await stage.page("/keys", viewport=NARROWEST)
    for block in await page.locator(".code").all():
        code, button = await block.locator("pre").bounding_box(), await block.locator("button").bounding_box()
        assert code is not None
        assert button is not None
        assert code["x"] + code["width"] <= button["x"]


async def test_the_button_that_reads_aloud_silences_too(stage: Stage) -> None:
    page = await stage.page(f"{stage.bot}?c=c1", viewport=PHONE)
    # A sound that goes on until it is silenced.
    await page.evaluate("HTMLMediaElement.prototype.play = async () => undefined")
    button = page.locator("[data-act=speak]").last
    await button.click()
    assert await button.inner_text() == "Silence"
    assert "Reading aloud" in await page.locator("[data-note]").inner_text()
    await button.click()
    assert await button.inner_text() == "Listen"
    assert await page.locator("[data-note]").inner_text() == ""


async def test_with_the_keyboard_focus_goes_to_the_field_when_its_button_goes_away(stage: Stage) -> None:
    stage.store.gated = True
    page = await stage.page(stage.bot + "?c=new")
    await page.fill("#say", "From the keyboard")
    await page.focus("[data-send]")
    await page.keyboard.press("Enter")
    await streamed(page)
    assert await page.evaluate("document.activeElement.id") == "say"
    assert await page.locator(".thread-list a[aria-current] time").inner_text() == "just now"
    await page.keyboard.press("Shift+Tab")
    await page.focus("[data-stop]")
    await page.keyboard.press("Enter")
    await page.wait_for_selector("[data-answer] .banner:has-text('Stopped.')")
    assert await page.evaluate("document.activeElement.id") == "say"


async def test_an_answer_that_could_not_be_stopped_says_so(stage: Stage) -> None:
    stage.store.gated = True
    page = await stage.page(f"{stage.bot}?c=c1")
    await say(page, "Go on")
    await streamed(page)
    await page.route("**/cancel", lambda route: route.abort())
    await page.click("[data-stop]")
    await until(page, "document.querySelector('[data-note]').textContent.startsWith('It could not be stopped')")


@pytest.mark.parametrize("viewport", [NARROWEST, {"width": 1280, "height": 700}], ids=["phone", "desktop"])
async def test_a_long_conversation_scrolls_in_its_place_and_the_page_stays(stage: Stage, viewport: Any) -> None:
    stage.store.messages["c1"] *= 12
    page = await stage.page(f"{stage.bot}?c=c1", viewport=viewport)
    scrolls = "(document.querySelector('.history').scrollHeight > document.documentElement.clientHeight)"
    assert await page.evaluate(scrolls)
    assert await page.evaluate("document.documentElement.scrollHeight - document.documentElement.clientHeight") == 0


async def test_a_bot_is_called_by_its_whole_name_on_its_card(stage: Stage) -> None:
    stage.store.add_bot(name="Wolfeschlegelsteinhausenbergerdorffsuper")
    stage.store.add_bot(name="A name with many words that goes on and")
    page = await stage.page("/dashboard", viewport=NARROWEST)
    cut = "[...document.querySelectorAll('.bot-card h3')].filter((one) => one.scrollHeight > one.clientHeight + 1)"
    assert await page.evaluate(f"{cut}.map((one) => one.textContent)") == []


async def test_a_greeting_is_not_broken_within_a_name(stage: Stage) -> None:
    stage.store.name = "Maximiliana Featherstone"
    page = await stage.page("/dashboard", viewport=NARROWEST)
    title = page.locator("h1")
    assert await title.inner_text() == "Hello, Maximiliana"
    box, button = await title.bounding_box(), await page.locator(".page-head .button").bounding_box()
    assert box is not None
    assert button is not None
    assert button["y"] >= box["y"] + box["height"], "the button makes room for the name"


@pytest.mark.parametrize("width", [320, 390, 768, 1280])
async def test_the_amounts_to_top_up_stand_in_one_line(stage: Stage, width: int) -> None:
    page = await stage.page("/billing", viewport={"width": width, "height": 800})
    tops = "[...document.querySelectorAll('.amounts .option')].map((one) => one.getBoundingClientRect().top)"
    assert len(set(await page.evaluate(tops))) == 1
    assert await page.evaluate(CUT) == []


async def test_dates_keep_their_line_and_look_the_same_on_every_page(stage: Stage) -> None:
    page = await stage.page("/admin/tenants", viewport={"width": 1280, "height": 800}, locale="en-US")
    days = await page.evaluate(
        "[...document.querySelectorAll('td[data-label=Since] time')].map((one) => one.getClientRects().length)"
    )
    assert days
    assert set(days) == {1}
    await page.goto(f"{stage.url}/billing")
    moments = await page.locator("#transactions time").all_inner_texts()
    assert moments
    assert all(re.fullmatch(r"\d{1,2} [A-Z][a-z]{2,3} \d{4}, \d\d:\d\d", moment) for moment in moments), moments


async def test_on_a_phone_what_is_wrong_with_the_microphone_is_said_in_full(stage: Stage) -> None:
    page = await stage.page(f"{stage.bot}?c=c1", viewport=NARROWEST)
    denied = "void (navigator.mediaDevices.getUserMedia = () => Promise.reject({ name: 'NotAllowedError' }))"
    await page.evaluate(denied)
    await page.locator("[data-mic]").dispatch_event("pointerdown")
    note = page.locator("[data-note]")
    await until(page, "document.querySelector('[data-note]').textContent.includes('Allow')")
    assert "address bar" in await note.inner_text()
    assert await note.evaluate("(one) => one.scrollWidth <= one.clientWidth + 1")
    assert await note.get_attribute("role") == "status"
    missing = denied.replace("NotAllowedError", "NotFoundError")
    await page.evaluate(missing)
    await page.locator("[data-mic]").dispatch_event("pointerdown")
    await until(page, "document.querySelector('[data-note]').textContent.includes('No microphone')")


async def test_in_answers_code_can_be_copied_and_words_in_tables_stay_whole(stage: Stage) -> None:
    stage.store.messages["c1"][1]["text"] = (
        "# First of all\n\n```python\nprint('a line of code that is longer than a phone is wide')\n```\n\n"
        "| Name | Another column | Cost | Duration |\n|---|---|---|---|\n| one | some words here | 12345678 | yes |\n"
    )
    context = await stage.context(viewport=NARROWEST)
    await context.grant_permissions(["clipboard-read", "clipboard-write"])
    page = await context.new_page()
    await page.clock.install()
    await page.goto(f"{stage.url}{stage.bot}?c=c1")
    await page.clock.pause_at(datetime.now(UTC) + timedelta(hours=1))  # Buttons say it for a moment only.
    answer = page.locator(".message.assistant").first
    button = answer.locator(".prose .code button")
    await button.click()
    await button.get_by_text("Copied").wait_for()
    assert await page.evaluate("navigator.clipboard.readText()") == (
        "print('a line of code that is longer than a phone is wide')\n"
    )
    whole = answer.locator("[data-act=copy]")
    await whole.click()
    await whole.get_by_text("Copied").wait_for()
    assert "Copy" not in await page.evaluate("navigator.clipboard.readText()"), "words of buttons are no answer"
    assert await answer.locator("pre").get_attribute("tabindex") == "0"
    cells = answer.locator("th, td")
    heights = await cells.evaluate_all("(all) => all.map((one) => one.scrollWidth - one.clientWidth)")
    assert max(heights) <= 0
    assert await answer.locator("th").nth(2).evaluate("(one) => one.getBoundingClientRect().height") < 70
    top = "(one) => one.querySelector('h1').getBoundingClientRect().top - one.getBoundingClientRect().top"
    assert await answer.locator(".prose").evaluate(top) < 1
    assert await page.evaluate(CUT) == []


async def test_on_a_phone_a_warning_leaves_room_for_the_conversation(stage: Stage) -> None:
    stage.store.entitlement = {
        "state": "grace",
        "suspends_at": at(2),
        "archives_at": at(30),
        "deletes_at": at(60),
    }
    page = await stage.page(f"{stage.bot}?c=c1", viewport={"width": 320, "height": 640})
    assert await page.locator(".banner").is_visible()
    assert await page.evaluate("document.querySelector('.history').clientHeight") >= 140
