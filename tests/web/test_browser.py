"""What only a browser shows: streaming, reloading in mid-answer, two tabs, dialogs, keys, no scripts, narrow screens.

Against the fake API over loopback; the whole story with real parts is in tests/e2e.
"""

from __future__ import annotations

import json

import pytest
from stage import MARKS, Stage, say, streamed, until

pytestmark = MARKS


async def test_an_answer_streams_survives_a_reload_and_a_second_tab_and_is_there_once(stage: Stage) -> None:
    stage.store.gated = True
    page = await stage.page(f"{stage.bot}?c=c1")
    before = await page.locator(".message").count()
    await say(page, "Plan it, please")
    first = await streamed(page)
    await page.reload()
    assert await streamed(page) == first
    second = await page.context.new_page()
    await second.goto(stage.url + stage.bot)
    assert await streamed(second) == first
    next(iter(stage.store.turns.values())).gate.set()
    for one in (page, second):
        await one.wait_for_selector("[data-answer] .prose table")
        assert await one.locator(".message").count() == before + 2
        assert await one.locator("text=Plan it, please").count() == 1
        assert await one.locator("[data-answer] .prose").inner_text() != ""
    assert stage.complaints == []


async def test_a_stream_that_breaks_off_goes_on_without_a_double_letter(stage: Stage) -> None:
    stage.store.gated = True
    page = await stage.page(f"{stage.bot}?c=c1")
    started = stage.store.start_turn({"text": "Cut me off", "conversation_id": "c1"})
    turn = stage.store.turns[started["turn_id"]]
    turn.cut_after = 4
    await page.reload()
    await until(page, "document.querySelector('.streaming')?.textContent.length > 80")
    assert await page.locator(".streaming").inner_text() == turn.answer[: 24 * 5].rstrip()
    turn.gate.set()
    await page.wait_for_selector("[data-answer] .prose table")


async def test_a_page_made_while_the_bot_stops_shows_that_it_has_stopped(stage: Stage) -> None:
    bot = stage.store.bots[0]
    bot["state"] = bot["desired"] = "stopping"
    stage.store.silenced = (409, "stopped")
    page = await stage.page(stage.bot)
    await page.wait_for_selector("text=is stopping")
    bot["state"] = bot["desired"] = "stopped"
    await page.wait_for_selector("main button:has-text('Start')")


async def test_how_long_credit_lasts_is_told_once_the_bot_runs(stage: Stage) -> None:
    stage.store.early, stage.store.lasts_days, stage.store.conversations = True, None, []
    stage.store.bots[0] |= {"state": "starting"}
    page = await (await stage.context()).new_page()
    await page.add_init_script("window.setInterval = () => 1")  # not by the look at the balance that comes round anyway
    await page.goto(stage.url + stage.bot)
    assert await page.locator(".sidebar [data-lasts]").inner_text() == "Nothing is being spent"
    assert await page.locator("text=What did we talk about last time?").count() == 0, "there was no last time"
    stage.store.lasts_days = 24.6
    stage.store.bots[0] |= {"state": "running"}
    await until(page, "document.querySelector('.sidebar [data-lasts]').textContent === 'Lasts 24 days'")


async def test_a_running_bot_that_could_not_be_reached_is_looked_for_again(stage: Stage) -> None:
    stage.store.silenced = (503, "unreachable")
    page = await stage.page(stage.bot)
    await page.wait_for_selector("text=can't be reached")
    stage.store.silenced = None
    await page.wait_for_selector("textarea#say:not([disabled])")


async def test_an_answer_that_is_another_one_after_it_broke_off_replaces_the_first(stage: Stage) -> None:
    stage.store.gated = True
    page = await stage.page(f"{stage.bot}?c=c1")
    started = stage.store.start_turn({"text": "Begin anew", "conversation_id": "c1"})
    turn = stage.store.turns[started["turn_id"]]
    turn.restart_after, turn.cut_after = 2, 3
    await page.reload()
    await until(page, f"document.querySelector('.streaming')?.textContent === {turn.answer[:48]!r}")
    turn.gate.set()
    await page.wait_for_selector("[data-answer] .prose table")
    assert await page.locator("text=Something else").count() == 0


async def test_while_the_platform_is_away_the_page_says_so_and_then_goes_on(stage: Stage) -> None:
    stage.store.gated = True
    page = await stage.page(f"{stage.bot}?c=c1")
    await say(page, "Survive a restart")
    shown = await streamed(page)
    turn = next(iter(stage.store.turns.values()))
    stage.store.down, turn.cut_after = True, 7
    turn.gate.set()
    await page.wait_for_selector("[data-note]:has-text('Reconnecting…')")
    assert (await page.locator(".streaming").inner_text()).startswith(shown)
    stage.store.down = False
    await page.wait_for_selector("[data-answer] .prose table")
    assert await page.locator("[data-note]").inner_text() == ""
    assert await page.locator("text=Survive a restart").count() == 1


async def test_a_hostile_answer_runs_nothing_while_it_streams_nor_afterwards(stage: Stage) -> None:
    stage.store.answer = (
        "<img src=x onerror=\"document.title='owned'\"> <script>document.title='owned'</script> done" * 5
    )
    page = await stage.page(f"{stage.bot}?c=c1")
    await say(page, "Be evil")
    await page.wait_for_selector("[data-answer] .prose")
    assert await page.title() == "Marvin – WOPR"
    assert await page.locator("[data-answer] img, [data-answer] script").count() == 0


async def test_an_answer_can_be_stopped_and_what_was_said_stays(stage: Stage) -> None:
    stage.store.gated = True
    page = await stage.page(f"{stage.bot}?c=c1")
    await say(page, "Too long")
    await streamed(page)
    await page.click("[data-stop]")
    await page.wait_for_selector("[data-answer] .banner:has-text('Stopped.')")
    assert "Here is a week of dinners" in await page.locator("[data-answer] .prose").inner_text()
    assert await page.locator("[data-send]").is_enabled()


async def test_another_tab_sees_what_is_said_in_this_one(stage: Stage) -> None:
    page = await stage.page(f"{stage.bot}?c=c1")
    second = await page.context.new_page()
    await second.goto(f"{stage.url}{stage.bot}?c=c1")
    await say(page, "Can you hear me?")
    for one in (page, second):
        await one.wait_for_selector("[data-answer] .prose")
        assert await one.locator("text=Can you hear me?").count() == 1


async def test_without_streaming_the_answer_appears_once_and_whole(stage: Stage) -> None:
    stage.store.gated = True
    context = await stage.context()
    await context.add_cookies([{"name": "wopr_streaming", "value": "off", "url": stage.url}])
    page = await context.new_page()
    await page.goto(f"{stage.url}{stage.bot}?c=c1")
    await say(page, "Quietly")
    await page.wait_for_selector("[data-answer][aria-busy]")
    assert await page.locator("[data-answer] .streaming").inner_text() == ""
    next(iter(stage.store.turns.values())).gate.set()
    await page.wait_for_selector("[data-answer] .prose")
    assert "week of dinners" in await page.locator("[data-announce]").inner_text()


async def test_a_receipt_opens_below_its_answer_and_the_balance_is_renewed(stage: Stage) -> None:
    page = await stage.page(f"{stage.bot}?c=c1")
    await say(page, "How much?")
    await page.wait_for_selector("[data-answer] .prose")
    stage.store.available_usd = "4.1"
    await until(page, "document.querySelector('.sidebar [data-balance]').textContent === '$4.1100'")
    await page.click("[data-answer] summary")
    await page.wait_for_selector("[data-answer] .slip .total:has-text('$0.000412')")
    assert stage.complaints == []


async def test_destruction_asks_and_focus_comes_back(stage: Stage) -> None:
    page = await stage.page(f"{stage.bot}/settings")
    await page.click("[data-opens=delete-bot]")
    await page.wait_for_selector("dialog[open]")
    await page.keyboard.press("Escape")
    await until(page, "document.activeElement.dataset.opens === 'delete-bot'")
    await page.click("[data-opens=delete-bot]")
    await page.click("dialog[open] button.danger")
    await page.wait_for_url("**/dashboard?done=bot-deleted")
    assert stage.store.bots[0]["name"] == "Kitchen"


async def test_keys_save_a_walk_and_can_be_switched_off(stage: Stage) -> None:
    page = await stage.page("/dashboard")
    await page.keyboard.press("?")
    assert await page.locator("#shortcuts[open]").count() == 1
    await page.keyboard.press("Escape")
    await page.keyboard.press("g")
    await page.keyboard.press("m")
    await page.wait_for_url("**/billing")
    await page.context.add_cookies([{"name": "wopr_shortcuts", "value": "off", "url": stage.url}])
    await page.reload()
    await page.keyboard.press("?")
    assert await page.locator("#shortcuts[open]").count() == 0


async def test_everything_that_matters_works_without_scripts(stage: Stage) -> None:
    page = await stage.page(f"{stage.bot}?c=c1", java_script_enabled=False)
    await page.fill("#say", "No scripts here")
    await page.click("[data-send]")
    await page.wait_for_selector("text=No scripts here")
    await page.goto(f"{stage.url}{stage.bot}/settings")
    await page.click("[data-opens=delete-bot]")
    assert await page.locator("dialog#delete-bot").is_visible()
    await page.click("dialog#delete-bot button.danger")
    await page.wait_for_url("**/dashboard?done=bot-deleted")


async def test_lines_of_the_log_arrive_once_and_the_filter_is_in_the_address(stage: Stage) -> None:
    page = await stage.page(f"{stage.bot}/logs")
    await page.wait_for_selector("text=heartbeat 2")
    assert await page.locator(".lines li:has-text('bot ready')").count() == 8
    await page.fill("[name=q]", "heartbeat")
    assert await page.locator(".lines li").count() >= 3
    assert page.url.endswith("?q=heartbeat")
    await page.fill("[name=q]", "nothing like that")
    assert await page.locator("[data-empty]").inner_text() == "No line matches."
    await page.fill("[name=q]", "")
    assert not await page.locator("[data-empty]").is_visible()


@pytest.mark.parametrize("width", [320, 390, 1280])
async def test_no_page_is_wider_than_the_screen(stage: Stage, width: int) -> None:
    page = await stage.page("/", viewport={"width": width, "height": 700})
    bot = stage.bot
    paths = [
        "/",
        "/sign-up",
        "/status",
        "/dashboard",
        "/bots/new",
        bot,
        f"{bot}/logs",
        f"{bot}/usage",
        f"{bot}/settings",
    ]
    paths += [
        "/billing",
        "/keys",
        "/account",
        "/admin",
        "/admin/tenants",
        "/admin/nodes",
        "/admin/inbox",
        "/admin/loops",
    ]
    for path in paths:
        await page.goto(stage.url + path)
        over = await page.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth")
        assert over <= 0, f"{path} is {over} px too wide at {width}"
    assert stage.complaints == []


async def test_the_logs_of_a_node_come_in_their_place_from_their_end_and_the_focus_stays(stage: Stage) -> None:
    stage.store.gated = True
    page = await stage.page("/admin/nodes/gpu-fra-1")
    await page.focus("#log-llama")
    await page.keyboard.press("Enter")
    await page.locator("#logs .reading").wait_for()
    stage.store.told.set()
    await page.wait_for_selector("#logs pre:has-text('line 99 of llama')")
    assert not await page.locator("#logs .reading").is_visible()
    assert await page.evaluate("document.activeElement.id") == "log-llama"
    last = "document.querySelector('#logs .log').getBoundingClientRect().bottom"
    assert await page.evaluate(f"{last} - document.querySelector('#logs pre').getBoundingClientRect().bottom") >= 0
    await page.focus("#logs .log")
    assert stage.complaints == []


async def test_machines_are_rented_and_replaced_only_after_their_price_was_answered(stage: Stage) -> None:
    page = await stage.page("/admin/nodes", viewport={"width": 390, "height": 800})
    await page.select_option("#f-size", "s-4vcpu-8gb")
    await page.select_option("#f-rent-region", "tor1")
    await page.select_option("#f-count", "3")
    await page.get_by_role("button", name="Rent…").click()
    await page.get_by_role("heading", name="Rent 3 nodes?").wait_for()
    over = await page.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth")
    assert over <= 0
    await page.get_by_role("link", name="Cancel").click()
    assert stage.store.rented == []
    await page.go_back()
    await page.get_by_role("button", name="Rent for $0.21429 an hour").click()
    await page.wait_for_url("**/admin/nodes?done=nodes-ordered")
    assert stage.store.rented == [{"size": "s-4vcpu-8gb", "region": "tor1", "count": 3}]
    for what in ("Power-cycle", "Replace"):
        await page.goto(stage.url + "/admin/nodes")
        await page.click('[data-opens="care-gpu-fra-2"]')
        await page.locator("#care-gpu-fra-2").get_by_role("button", name=what).click()
        asked = page.locator(f"#{what.lower()}-gpu-fra-2")
        await asked.get_by_role("heading", name=f"{what} gpu-fra-2?").wait_for()
        assert not [path for _, path, _ in stage.store.seen if path.endswith("/repair")]
        await asked.get_by_role("button", name=f"{what} the machine").click()
        await page.wait_for_url("**/admin/nodes?done=node-repair")
        assert [path for _, path, _ in stage.store.seen if path.endswith("/repair")]
        stage.store.seen.clear()
    assert stage.complaints == []


async def test_targets_are_large_enough_for_a_finger(stage: Stage) -> None:
    page = await stage.page("/dashboard", viewport={"width": 390, "height": 800})
    for path in ("/dashboard", "/billing", "/keys"):
        await page.goto(stage.url + path)
        small = await page.evaluate(
            """[...document.querySelectorAll(".main .button, .main .input, .tabs a, .topbar .button")]
            .filter((one) => one.checkVisibility() && one.getBoundingClientRect().height < 43.9)
            .map((one) => one.outerHTML.slice(0, 80))"""
        )
        assert small == [], path


async def test_a_page_that_tells_a_state_is_renewed_in_its_place(stage: Stage) -> None:
    page = await stage.context()
    away = await page.new_page()
    await away.clock.install()
    await away.goto(f"{stage.url}/status")
    assert await away.locator("meta[http-equiv=refresh]").count() == 0, "with scripts nobody is thrown back to the top"
    stage.store.down = True
    await away.clock.run_for(31_000)
    await away.wait_for_selector("h1:has-text('A part is down')")
    await away.goto(f"{stage.url}/dashboard")
    await away.wait_for_selector("h1:has-text('does not answer')")
    stage.store.down = False
    await away.clock.run_for(6_000)
    await away.wait_for_selector("h1:has-text('Hello')")


async def test_another_character_for_a_field_that_was_made_larger_breaks_no_policy(stage: Stage) -> None:
    page = await stage.page("/bots/new")
    await page.evaluate("document.querySelector('#f-persona').style.height = '300px'")
    before = await page.input_value("#f-persona")
    await page.locator("input[name=template]").nth(1).check(force=True)
    await until(page, f"document.querySelector('#f-persona').value !== {json.dumps(before)}")
    await until(page, "!document.querySelector('.htmx-settling, .htmx-swapping')")
    assert stage.complaints == []
