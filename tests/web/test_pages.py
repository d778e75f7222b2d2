"""Every page through its public door: a browser's requests against the UI, with the contract's API behind it."""

from __future__ import annotations

import html
import json
import re
import shlex

import httpx
import pytest
from fake_data import Store, bot_json, conversation_json, message

from wopr.fleet import names

MEMBER_PAGES = ["/dashboard", "/bots/new", "/billing", "/keys", "/account", "/parts/balance", "/dashboard/bots"]
BOT_PAGES = ["", "/logs", "/usage", "/settings", "/turns/t1/receipt", "/state"]
ADMIN_PAGES = [
    "",
    "/tenants",
    "/bots",
    "/nodes",
    "/nodes/list",
    "/nodes/gpu-tor1-77c0de",
    "/nodes/gpu-fra-1/logs?source=llama",
    "/inbox",
    "/inbox?state=failed",
    "/loops",
]
OPEN_PAGES = [
    "/",
    "/status",
    "/sign-up",
    "/sign-in",
    "/reset-request",
    "/reset?token=x",
    "/verify?token=x",
    "/welcome?token=x",
]


def bot_of(store: Store) -> str:
    return str(store.bots[0]["id"])


async def form_of(browser: httpx.AsyncClient, path: str, action: str) -> dict[str, str]:
    """The hidden fields of a form, so that tests send what a browser would."""
    page = (await browser.get(path)).text
    form = re.search(rf'<form[^>]*action="{re.escape(action)}".*?</form>', page, re.S)
    assert form, f"{path} has no form to {action}"
    return dict(re.findall(r'<input type="hidden" name="(\w+)" value="([^"]*)"', form[0]))


@pytest.mark.parametrize("path", OPEN_PAGES)
async def test_visitors_see_the_open_pages(browser: httpx.AsyncClient, path: str) -> None:
    browser.cookies.clear()
    page = await browser.get(path)
    assert page.status_code == 200
    assert 'id="main"' in page.text


@pytest.mark.parametrize("path", MEMBER_PAGES)
async def test_members_see_their_pages(browser: httpx.AsyncClient, path: str) -> None:
    assert (await browser.get(path)).status_code == 200


@pytest.mark.parametrize("path", BOT_PAGES)
async def test_a_bot_has_its_pages(browser: httpx.AsyncClient, store: Store, path: str) -> None:
    page = await browser.get(f"/bots/{bot_of(store)}{path}")
    assert page.status_code == 200
    assert "Marvin" in page.text or path == "/state"


@pytest.mark.parametrize("path", ADMIN_PAGES)
async def test_administrators_see_the_administration_and_nobody_else(
    browser: httpx.AsyncClient, store: Store, path: str
) -> None:
    assert (await browser.get(f"/admin{path}")).status_code == 200
    store.admin = False
    assert (await browser.get(f"/admin{path}")).status_code == 404


@pytest.mark.parametrize("path", [page for page in MEMBER_PAGES if not page.startswith("/parts")])
async def test_who_is_not_signed_in_is_sent_to_sign_in_and_back(browser: httpx.AsyncClient, path: str) -> None:
    browser.cookies.clear()
    answer = await browser.get(path)
    assert answer.status_code == 303
    expected = "/sign-in" if path == "/dashboard" else f"/sign-in?next={path}"
    assert answer.headers["location"] == expected


async def test_an_expired_session_is_sent_to_sign_in(browser: httpx.AsyncClient) -> None:
    browser.cookies.set("wopr_session", "old")
    assert (await browser.get("/billing")).headers["location"] == "/sign-in?next=/billing"


async def test_another_customers_bot_is_not_found(browser: httpx.AsyncClient) -> None:
    page = await browser.get("/bots/00000000-0000-0000-0000-000000000000")
    assert page.status_code == 404
    assert "no such page" in page.text
    assert 'href="/sign-in"' not in page.text  # who is signed in is led to the bots
    browser.cookies.clear()
    assert 'href="/sign-in"' in (await browser.get("/no-such-page")).text


async def test_signing_in_passes_the_cookie_through_and_goes_where_one_wanted_to_be(
    browser: httpx.AsyncClient, store: Store
) -> None:
    browser.cookies.clear()
    fields = await form_of(browser, "/sign-in?next=/billing", "/sign-in")
    entry = {**fields, "email": "ada@example.com", "password": "correct horse battery"}
    answer = await browser.post("/sign-in", data=entry)
    assert answer.headers["location"] == "/billing"
    assert f"wopr_session={store.session}; HttpOnly" in answer.headers["set-cookie"]


async def test_a_wrong_password_says_so_above_the_form_and_keeps_the_address(browser: httpx.AsyncClient) -> None:
    answer = await browser.post("/sign-in", data={"email": "ada@example.com", "password": "wrong"})
    assert answer.status_code == 401
    assert "Address or password is wrong." in answer.text
    assert 'value="ada@example.com"' in answer.text


async def test_signing_in_never_leads_to_another_site(browser: httpx.AsyncClient) -> None:
    entry = {"email": "a@b.c", "password": "correct horse battery", "next": "//evil.example"}
    assert (await browser.post("/sign-in", data=entry)).headers["location"] == "/dashboard"


async def test_sign_up_leads_to_the_mail_and_the_link_signs_in(browser: httpx.AsyncClient) -> None:
    browser.cookies.clear()
    entry = {"email": "ada@example.com", "password": "correct horse battery", "name": "Ada"}
    assert "ada@example.com" in (await browser.post("/sign-up", data=entry, follow_redirects=True)).text
    fields = await form_of(browser, "/verify?token=good", "/verify")
    answer = await browser.post("/verify", data=fields)
    assert answer.headers["location"] == "/dashboard?done=verified"
    assert "Your address is confirmed." in (await browser.get(answer.headers["location"])).text


async def test_a_used_link_says_so(browser: httpx.AsyncClient) -> None:
    answer = await browser.post("/welcome", data={"token": "used"})
    assert answer.status_code == 422
    assert "This link was used or is too old." in answer.text


async def test_mail_readers_that_follow_links_do_not_use_them_up(browser: httpx.AsyncClient, store: Store) -> None:
    await browser.get("/verify?token=good")
    assert not [path for method, path, _ in store.seen if method == "POST"]


async def test_a_new_account_is_told_what_to_do_first(browser: httpx.AsyncClient, store: Store) -> None:
    store.bots, store.available_usd, store.plan = [], "0", {"status": "none"}
    store.entitlement = {"state": "unfunded"}
    page = (await browser.get("/dashboard")).text
    assert "First steps" in page
    assert "No bot yet" in page
    assert "No credit yet" in page or "used up" in page
    assert 'action="/billing/subscribe"' in page, "the plan starts here"
    assert "Start for $5 a month" in page
    assert "Nothing spent yet" not in page, "an empty chart helps nobody yet"
    assert "Open the chat" not in page, "there is no bot to talk to"
    assert "Make your first bot" not in page, "credit comes first"


async def test_a_bot_that_failed_can_be_started_where_it_was_found(browser: httpx.AsyncClient, store: Store) -> None:
    path = f"/bots/{store.bots[3]['id']}"
    assert f'action="{path}/restart"' in (await browser.get(path)).text
    answer = await browser.post(f"{path}/restart", data={"back": path})
    assert answer.headers["location"].startswith(f"{path}?")


async def test_a_finished_account_sees_no_first_steps(browser: httpx.AsyncClient) -> None:
    assert "First steps" not in (await browser.get("/dashboard")).text


async def test_who_has_used_the_credit_up_is_no_beginner(browser: httpx.AsyncClient, store: Store) -> None:
    store.available_usd, store.plan, store.entitlement = "0", {"status": "none"}, {"state": "warning"}
    page = (await browser.get("/dashboard")).text
    assert "First steps" not in page
    assert "answer nothing until you top up" in page


async def test_talking_and_running_bots_have_one_name_each(browser: httpx.AsyncClient, store: Store) -> None:
    store.transactions = [
        {"id": kind, "created_at": "2026-11-22T12:00:00Z", "kind": kind, "description": "", "amount_usd": "-0.02"}
        for kind in ("inference", "runtime")
    ]
    for path in ("/dashboard", "/billing"):
        page = (await browser.get(path)).text
        assert "Talking" in page
        assert "Running bots" in page
        assert "Inference" not in page


async def test_a_thousand_bots_are_shown_a_page_at_a_time(browser: httpx.AsyncClient, store: Store) -> None:
    store.bots = [bot_json(name=f"Bot {number}") for number in range(1000)]
    page = (await browser.get("/dashboard")).text
    assert page.count('class="card bot-card"') == 24
    assert "Page 1 of 42" in page
    assert "Bot 999" in (await browser.get("/dashboard?q=bot+999")).text


async def test_making_a_bot_leads_to_its_chat(browser: httpx.AsyncClient, store: Store) -> None:
    answer = await browser.post("/bots/new", data={"name": "Joshua", "template": "assistant", "size": "standard"})
    assert answer.headers["location"] == f"/bots/{bot_of(store)}?done=bot-created"
    assert store.bots[0]["name"] == "Joshua"


async def test_a_refused_bot_leaves_the_form_as_it_was(browser: httpx.AsyncClient) -> None:
    answer = await browser.post("/bots/new", data={"name": " ", "persona": "Terse, kind."})
    assert answer.status_code == 422
    assert "A bot needs a name." in answer.text
    assert "Terse, kind." in answer.text


async def test_the_forms_offer_the_voices_that_there_are(browser: httpx.AsyncClient, store: Store) -> None:
    for path in ("/bots/new", f"/bots/{store.bots[0]['id']}/settings"):
        page = (await browser.get(path)).text
        assert '<option value="lessac">lessac</option>' in page
        assert "Sarah, bright" in page
        assert '"kal"' not in page


async def test_picking_a_template_fills_the_fields(browser: httpx.AsyncClient) -> None:
    assert "A patient support agent." in (await browser.get("/bots/new/character?template=support")).text


async def test_settings_change_only_what_differs(browser: httpx.AsyncClient, store: Store) -> None:
    bot = store.bots[0]
    form = {key: bot[key] for key in ("name", "persona", "instructions", "model", "voice", "size")}
    answer = await browser.post(f"/bots/{bot['id']}/settings", data=form | {"voice": "rms"})
    assert answer.headers["location"].endswith("?done=bot-saved")
    assert bot["voice"] == "rms"
    assert "Saved." in (await browser.get(answer.headers["location"])).text


async def test_a_stopped_bot_offers_to_start(browser: httpx.AsyncClient, store: Store) -> None:
    bot = store.bots[2]
    assert "is stopped" in (await browser.get(f"/bots/{bot['id']}")).text
    answer = await browser.post(f"/bots/{bot['id']}/start", data={"back": f"/bots/{bot['id']}"})
    assert answer.headers["location"] == f"/bots/{bot['id']}?done=bot-started"
    assert bot["desired"] == "running"


async def test_deleting_asks_first_and_names_what_goes(browser: httpx.AsyncClient, store: Store) -> None:
    bot = store.bots[0]
    page = (await browser.get(f"/bots/{bot['id']}/settings")).text
    assert "all its conversations and everything it remembers" in page
    await browser.post(f"/bots/{bot['id']}/delete")
    assert bot not in store.bots


async def test_history_comes_with_the_page_as_safe_html(browser: httpx.AsyncClient, store: Store) -> None:
    store.messages["c1"].append(message("t9", "assistant", "<img src=x onerror=alert(1)> **fine**"))
    page = (await browser.get(f"/bots/{bot_of(store)}?c=c1")).text
    assert "<strong>fine</strong>" in page
    assert "<img" not in page


async def test_saying_something_without_scripts_comes_back_with_the_turn(
    browser: httpx.AsyncClient, store: Store
) -> None:
    store.gated = True
    answer = await browser.post(f"/bots/{bot_of(store)}/say", data={"text": "Hello", "conversation_id": "c1"})
    page = (await browser.get(answer.headers["location"])).text
    assert page.count(">Hello<") == 1
    assert "aria-busy" in page
    assert 'http-equiv="refresh"' in page


async def test_a_running_turn_is_found_again_without_its_id(browser: httpx.AsyncClient, store: Store) -> None:
    store.gated = True
    started = store.start_turn({"text": "Still there?", "conversation_id": "c7"})
    store.conversations[0] = conversation_json("c7", "Newest")
    page = (await browser.get(f"/bots/{bot_of(store)}")).text
    assert f'data-running="{started["turn_id"]}"' in page
    assert page.count("Still there?</div>") == 1


async def test_a_finished_turn_in_the_address_is_not_shown_twice(browser: httpx.AsyncClient, store: Store) -> None:
    started = store.start_turn({"text": "Once only", "conversation_id": "c1"})
    store.turns[started["turn_id"]].state = "completed"
    page = (await browser.get(f"/bots/{bot_of(store)}?c=c1&turn={started['turn_id']}")).text
    assert page.count("Once only</div>") == 1


async def test_events_pass_through_and_are_resumed_by_the_last_number(browser: httpx.AsyncClient, store: Store) -> None:
    started = store.start_turn({"text": "Hi", "conversation_id": "c1"})
    path = f"/bots/{bot_of(store)}/turns/{started['turn_id']}/events"
    whole = await browser.get(path, headers={"accept": "text/event-stream"})
    assert whole.headers["content-type"].startswith("text/event-stream")
    rest = await browser.get(path, headers={"accept": "text/event-stream", "last-event-id": "4"})
    assert whole.text.endswith(rest.text)
    assert rest.text.startswith("id: 5\n")
    assert (await browser.get(f"{path}?after=4")).text == rest.text


async def test_the_finished_answer_is_a_part_with_its_receipt(browser: httpx.AsyncClient, store: Store) -> None:
    started = store.start_turn({"text": "Hi", "conversation_id": "c1"})
    store.turns[started["turn_id"]].state = "completed"
    path = f"/bots/{bot_of(store)}/turns/{started['turn_id']}"
    part = (await browser.get(f"{path}/answer")).text
    assert "<strong>week of dinners</strong>" in part
    assert "<html" not in part
    receipt = (await browser.get(f"{path}/receipt", headers={"hx-request": "true"})).text
    assert "$0.000412" in receipt
    assert "<html" not in receipt


async def test_an_answer_stopped_before_its_first_word_offers_nothing_to_hear(
    browser: httpx.AsyncClient, store: Store
) -> None:
    store.answer = ""
    turn_id = store.start_turn({"text": "Hi", "conversation_id": "c1"})["turn_id"]
    store.turns[turn_id].state = "cancelled"
    part = (await browser.get(f"/bots/{bot_of(store)}/turns/{turn_id}/answer")).text
    assert "Nothing had been said yet." in part
    assert "Receipt" in part
    assert 'data-act="speak"' not in part
    assert 'data-act="copy"' not in part


async def test_what_a_script_may_not_do_is_said_as_json(browser: httpx.AsyncClient) -> None:
    answer = await browser.post("/bots/none/turns", json={"text": "x"}, headers={"accept": "application/json"})
    assert answer.status_code in (404, 202)
    browser.cookies.clear()
    answer = await browser.get("/bots/x/turns/y", headers={"accept": "application/json"})
    assert answer.json()["error"]["code"] == "unauthenticated"


async def test_a_recording_becomes_text_and_a_long_one_is_refused(browser: httpx.AsyncClient, store: Store) -> None:
    path = f"/bots/{bot_of(store)}/transcriptions"
    headers = {"content-type": "audio/wav", "accept": "application/json"}
    assert (await browser.post(path, content=b"RIFF", headers=headers)).json() == {
        "text": "what is the capital of france"
    }
    assert (await browser.post(path, content=bytes(11 * 1024 * 1024), headers=headers)).status_code == 413


async def test_an_answer_can_be_heard(browser: httpx.AsyncClient, store: Store) -> None:
    sound = await browser.get(f"/bots/{bot_of(store)}/turns/t1/audio")
    assert sound.headers["content-type"] == "audio/wav"
    assert sound.content.startswith(b"RIFF")


async def test_logs_are_filtered_by_the_address_and_downloaded_so(browser: httpx.AsyncClient, store: Store) -> None:
    page = (await browser.get(f"/bots/{bot_of(store)}/logs?q=429&stream=stderr")).text
    assert "gateway answered 429" in page
    assert "bot ready" not in page
    file = await browser.get(f"/bots/{bot_of(store)}/logs/download?q=ready")
    assert "attachment" in file.headers["content-disposition"]
    assert len(file.text.splitlines()) == 8


async def test_payments_lead_to_the_payment_page_and_back(browser: httpx.AsyncClient, store: Store) -> None:
    answer = await browser.post("/billing/top-up", data={"amount_cents": "1000"})
    assert (answer.status_code, answer.headers["location"]) == (303, "http://127.0.0.1:4101/c/pay/cs_1")
    assert "Waiting for the payment" in (await browser.get("/billing/return?session_id=cs_1")).text
    assert "Your payment arrived." in (await browser.get("/billing/return/state?session_id=cs_1")).text


async def test_after_the_first_payment_comes_the_first_bot(browser: httpx.AsyncClient, store: Store) -> None:
    store.bots = []
    waiting = await browser.get("/billing/return?session_id=cs_1")
    assert "Waiting for the payment" in waiting.text
    looked = await browser.get("/billing/return/state?session_id=cs_1")
    assert looked.headers["hx-redirect"] == "/bots/new?done=payment-arrived"
    again = await browser.get("/billing/return?session_id=cs_1")
    assert (again.status_code, again.headers["location"]) == (303, "/bots/new?done=payment-arrived")
    page = (await browser.get(again.headers["location"])).text
    assert "Your payment arrived." in page
    assert re.search(r'name="name"[^>]* autofocus', page), "only a name is needed"


async def test_an_unknown_payment_page_is_asked_about_rather_than_followed(
    browser: httpx.AsyncClient, store: Store
) -> None:
    store.payment_origin = "https://pay.example"
    answer = await browser.post("/billing/subscribe")
    assert answer.status_code == 200
    assert 'href="https://pay.example/c/pay/cs_1"' in answer.text
    store.payment_origin = "javascript:alert(1)//"
    assert (await browser.post("/billing/portal")).status_code == 503


async def test_a_key_is_shown_once_with_snippets_that_use_it(browser: httpx.AsyncClient) -> None:
    answer = await browser.post("/keys", data={"name": "CI", "scope": "write", "expires": "30"})
    assert answer.text.count("wopr_write_k3Jd82hQpXv7LmN4tYs9RbWc") >= 2
    assert answer.headers["cache-control"] == "private, no-store"
    assert "k3Jd82hQpXv7LmN4tYs9RbWc" not in (await browser.get("/keys")).text


async def test_the_snippets_beside_a_key_are_whole_programs(browser: httpx.AsyncClient) -> None:
    page = (await browser.get("/keys")).text
    curl, openai, ours = (html.unescape(code) for code in re.findall(r"<pre[^>]*><code>(.*?)</code>", page, re.S))
    assert shlex.split(curl)[:2] == ["curl", "http://api.test/v1/chat/completions"]
    assert json.loads(shlex.split(curl)[-1])["messages"][0]["role"] == "user"
    for program in (openai, ours):
        compile(program, "snippet", "exec")


async def test_a_revoked_key_leaves_the_list(browser: httpx.AsyncClient, store: Store) -> None:
    key = store.keys[0]
    assert "It was last used" in (await browser.get("/keys")).text
    answer = await browser.post(f"/keys/{key['id']}/revoke")
    assert "The key is revoked." in (await browser.get(answer.headers["location"])).text
    assert key["revoked_at"]


async def test_the_account_changes_in_place(browser: httpx.AsyncClient, store: Store) -> None:
    assert (await browser.post("/account/name", data={"name": "Ada L."})).headers["location"].endswith("name-saved")
    assert store.name == "Ada L."
    wrong = await browser.post("/account/password", data={"current": "x", "new": "another long one"})
    assert wrong.status_code == 403
    assert "The current password is wrong." in wrong.text
    await browser.post("/account/sessions/s2/revoke")
    assert [one["id"] for one in store.sessions] == ["s1"]


async def test_signing_out_everywhere_counts_right(browser: httpx.AsyncClient, store: Store) -> None:
    assert "All 2 signed-in browsers have to sign in again" in (await browser.get("/account")).text
    del store.sessions[1]
    assert "This browser has to sign in again." in (await browser.get("/account")).text


async def test_preferences_stay_in_this_browser(browser: httpx.AsyncClient) -> None:
    await browser.post("/account/preferences", data={"theme": "dark", "shortcuts": "on"})
    page = (await browser.get("/dashboard")).text
    assert 'data-theme="dark"' in page
    answer = await browser.post("/theme", data={"theme": "light", "back": "//evil.example"})
    assert answer.headers["location"] == "/"
    assert 'data-theme="light"' in (await browser.get("/dashboard")).text


STEPS = {"warning": ["2999", "3000", "3001"], "grace": ["2999", "3000", "3001"]}
STEPS |= {"suspended": ["3000", "3001"], "archived": ["3001"], "deleted": []}


@pytest.mark.parametrize("state", STEPS)
async def test_every_page_warns_with_the_dates_that_lie_ahead_once_credit_is_out(
    browser: httpx.AsyncClient, store: Store, state: str
) -> None:
    dates = {"suspends_at": "2999-01-02", "archives_at": "3000-02-03", "deletes_at": "3001-03-04"}
    store.entitlement = {"state": state} | {name: f"{day}T00:00:00Z" for name, day in dates.items()}
    for path in ("/dashboard", "/keys", f"/bots/{bot_of(store)}"):
        page = (await browser.get(path)).text
        ahead = "".join(re.findall(r'<ol class="steps-ahead">.*?</ol>', page, re.S))
        assert [year for year in ("2999", "3000", "3001") if year in ahead] == STEPS[state]
        assert page.count(">Top up</a>") >= 1


async def test_an_announced_day_that_is_over_is_not_announced(browser: httpx.AsyncClient, store: Store) -> None:
    store.entitlement = {"state": "suspended", "suspends_at": "2020-01-02T00:00:00Z"}
    page = (await browser.get("/dashboard")).text
    assert "Your bots are suspended" in page
    assert "Bots stop" not in page


@pytest.mark.parametrize(("status", "code"), [(402, "out_of_credit"), (403, "suspended")])
async def test_a_bot_without_credit_still_has_its_page_with_one_banner_and_a_way_to_pay(
    browser: httpx.AsyncClient, store: Store, status: int, code: str
) -> None:
    store.entitlement, store.silenced = {"state": "suspended"}, (status, code)
    store.bots[0] |= {"state": "suspended", "reason": "The credit is used up."}
    answer = await browser.get(f"/bots/{bot_of(store)}")
    assert answer.status_code == 200
    assert "Marvin waits for credit" in answer.text
    assert "None yet." not in answer.text
    assert "Credit is used up" in (await browser.get("/parts/balance")).json()["lasts"]
    assert answer.text.count('class="banner') == 1
    assert 'class="button primary" href="/billing">Top up</a>' in answer.text
    settings = (await browser.get(f"/bots/{bot_of(store)}/settings")).text
    assert "operator" not in settings
    assert "/restart" not in settings


async def test_who_was_suspended_by_the_operator_is_not_asked_to_pay(browser: httpx.AsyncClient, store: Store) -> None:
    store.entitlement, store.silenced, store.suspended = {"state": "suspended"}, (403, "suspended"), True
    store.bots[0] |= {"state": "suspended", "reason": "The account is suspended by the operator. Write to support."}
    page = (await browser.get(f"/bots/{bot_of(store)}")).text
    assert page.count('class="banner') == 1
    assert "suspended by the operator" in page
    assert ">Top up</a>" not in page


async def test_without_credit_the_way_to_a_bot_leads_through_billing(browser: httpx.AsyncClient, store: Store) -> None:
    assert "Make the bot</button>" in (await browser.get("/bots/new")).text
    store.entitlement = {"state": "unfunded"}
    page = (await browser.get("/bots/new")).text
    assert "Make the bot</button>" not in page
    assert 'href="/billing">Add credit first</a>' in page


async def test_a_movement_of_credit_is_named_once_in_words(browser: httpx.AsyncClient, store: Store) -> None:
    movements = [("runtime", "Running bots"), ("topup", "Top-up"), ("grant", "A gift"), ("fee_of_bank", None)]
    store.transactions = [
        {"id": str(n), "created_at": store.bots[0]["created_at"], "kind": kind, "description": words, "amount_usd": "1"}
        for n, (kind, words) in enumerate(movements)
    ]
    page = (await browser.get("/billing")).text
    cells = re.findall(r"<td><div><strong>(.*?)</strong>(?:<span class=\"sub\">(.*?)</span>)?</div></td>", page)
    assert cells == [("Running bots", ""), ("Top-up", ""), ("Credit from WOPR", "A gift"), ("Fee of bank", "")]


async def test_events_that_change_nothing_read_ignored_and_old_failures_of_a_running_bot_are_left_out(
    browser: httpx.AsyncClient, store: Store
) -> None:
    page = (await browser.get("/admin/inbox")).text
    assert page.count(">Ignored</span>") == 1
    assert page.count(">Applied</span>") == 1
    store.bots[0]["last_error"] = "it was killed by SIGKILL"
    page = (await browser.get("/admin/bots")).text
    assert "SIGKILL" not in page
    assert "The process ended 5 times." in page
    store.bots[3] |= {
        "last_error": "Its program is away.",
        "operator_error": "ghcr.io refused the credentials of robot.",
    }
    page = (await browser.get("/admin/bots")).text
    assert "refused the credentials of robot" in page


async def test_a_running_bot_says_for_how_long(browser: httpx.AsyncClient, store: Store) -> None:
    assert re.search(
        r"Running for\s+<time[^>]*>3 days</time>", (await browser.get(f"/bots/{bot_of(store)}/settings")).text
    )


async def test_a_date_is_named_before_credit_ends_unless_the_plan_renews_it(
    browser: httpx.AsyncClient, store: Store
) -> None:
    store.lasts_days = 2.5
    assert "Your credit runs out about" not in (await browser.get("/keys")).text
    store.plan = {"status": "none"}
    assert "Your credit runs out about" in (await browser.get("/keys")).text


async def test_credit_is_granted_with_a_reason(browser: httpx.AsyncClient, store: Store) -> None:
    await browser.post("/admin/tenants/t1/credit", data={"amount_usd": "$1,000.50", "reason": "Sorry"})
    assert store.credits == [("t1", {"amount_usd": "1000.50", "reason": "Sorry"})]
    for wrong in ("much", "0", "NaN", ""):
        answer = await browser.post("/admin/tenants/t1/credit", data={"amount_usd": wrong, "reason": "x"})
        assert answer.status_code == 422


async def test_which_services_of_a_node_are_down_is_said_in_words(browser: httpx.AsyncClient) -> None:
    part = re.sub(r"<[^>]+>", "", (await browser.get("/admin/nodes/list")).text)
    assert "llama works" in part
    assert "whisper down" in part, "not by a colour alone"


async def test_administrators_retry_payments_and_care_for_machines(browser: httpx.AsyncClient) -> None:
    retried = await browser.post("/admin/inbox/evt_1/retry")
    assert "applied again" in (await browser.get(retried.headers["location"])).text
    added = await browser.post("/admin/nodes", data={"id": "gpu-1", "host": "10.0.0.1"})
    assert added.headers["location"] == "/admin/nodes?done=node-registered"
    assert (await browser.post("/admin/nodes/gpu-1/remove")).headers["location"].endswith("node-removed")


async def test_nodes_are_rented_with_the_price_in_sight(browser: httpx.AsyncClient, store: Store) -> None:
    page = (await browser.get("/admin/nodes")).text
    assert "$0.76 an hour, $565.44 a month" in page
    assert '<option value="gpu-4000adax1-20gb" selected>' in page
    wanted = {"size": "s-4vcpu-8gb", "region": "tor1", "count": "2"}
    asked = (await browser.get("/admin/rent-nodes", params=wanted)).text
    assert "Rent 2 nodes?" in asked
    assert "$0.14286 an hour, $96 a month" in asked
    for wrong in ({"count": "many"}, {"count": "0"}, {"count": "21"}, {"size": "none"}):
        assert (await browser.get("/admin/rent-nodes", params=wanted | wrong)).status_code == 422
    elsewhere = await browser.get("/admin/rent-nodes", params=wanted | {"region": "mars"})
    assert (elsewhere.status_code, "It is in: fra1, tor1." in elsewhere.text) == (422, True)
    assert store.rented == [], "it was asked for only"
    sent = dict(re.findall(r'<input type="hidden" name="(\w+)" value="([^"]*)"', asked.partition("<main")[2]))
    ordered = await browser.post("/admin/nodes/provision", data=sent)
    assert ordered.headers["location"] == "/admin/nodes?done=nodes-ordered"
    assert store.rented == [{"size": "s-4vcpu-8gb", "region": "tor1", "count": 2}]
    refused = await browser.post("/admin/nodes/provision", data=wanted | {"region": "mars"})
    assert (refused.status_code, "It is in: tor1." in refused.text) == (422, True)
    assert (await browser.post("/admin/nodes/provision", data={"count": "many"})).status_code == 422


async def test_how_far_a_rented_node_is_and_why_one_failed(browser: httpx.AsyncClient) -> None:
    part = re.sub(r"<[^>]+>", "", (await browser.get("/admin/nodes/list")).text)
    assert "Models" in part
    assert "is not what it should be" in part
    assert "$0.1140 so far" in part
    made = (await browser.get("/admin/nodes/gpu-tor1-3f9a2c")).text
    assert 'hx-get="/admin/nodes/gpu-tor1-3f9a2c/stages"' in made
    failed = (await browser.get("/admin/nodes/gpu-tor1-77c0de")).text
    assert "hx-get" not in failed.partition('id="stages"')[2].partition(">")[0], "nothing moves there any more"
    assert "curl: (28) Operation timed out" in failed
    assert "Make gpu-tor1-77c0de again?" in failed
    assert (await browser.get("/admin/nodes/nobody")).status_code == 404


async def test_what_was_written_on_a_node_is_read_when_it_is_asked_for(
    browser: httpx.AsyncClient, store: Store
) -> None:
    page = (await browser.get("/admin/nodes/gpu-tor1-77c0de")).text
    assert re.findall(r'name="source" value="(\w+)"', page) == ["making", "llama", "qwen"]
    assert not [path for _, path, _ in store.seen if path.endswith("/logs")], "the machine may be away"
    where = "/admin/nodes/gpu-tor1-77c0de/logs?source=making"
    whole, part = await browser.get(where), await browser.get(where, headers={"hx-request": "true"})
    assert 'id="stages"' in whole.text, "without scripts it is a page"
    for answer in (whole, part):
        assert "line 99 of making said &lt;nothing&gt;" in answer.text
        assert 'value="making" aria-pressed="true"' in answer.text
    assert part.text.strip().startswith("<section")
    assert 'value="making"' not in (await browser.get("/admin/nodes/gpu-fra-1")).text, "nobody here made it"


async def test_why_a_machine_does_not_tell_its_logs_stands_in_their_place(browser: httpx.AsyncClient) -> None:
    page = await browser.get("/admin/nodes/gpu-fra-2/logs?source=llama", headers={"hx-request": "true"})
    assert page.status_code == 200, "another status would not be shown"
    assert "Try: ssh -p 22 root@10.0.4.18 true" in page.text
    assert (await browser.get("/admin/nodes/nobody/logs?source=llama")).status_code == 404
    browser.cookies.clear()
    gone = await browser.get("/admin/nodes/gpu-fra-2/logs?source=llama", headers={"hx-request": "true"})
    assert gone.headers["hx-redirect"] == "/sign-in"


@pytest.mark.parametrize(
    ("verb", "told"), [("destroy", "node-given-back"), ("retry", "node-retried"), ("reboot", "node-rebooted")]
)
async def test_a_rented_node_is_given_back_made_again_and_restarted(
    browser: httpx.AsyncClient, store: Store, verb: str, told: str
) -> None:
    answer = await browser.post(f"/admin/nodes/gpu-tor1-77c0de/{verb}")
    assert answer.headers["location"] == f"/admin/nodes?done={told}"
    assert store.rented == [{verb: "gpu-tor1-77c0de"}]


async def test_without_a_cloud_the_nodes_are_shown_and_what_is_missing_is_said(
    browser: httpx.AsyncClient, store: Store
) -> None:
    store.no_cloud = True
    page = await browser.get("/admin/nodes")
    assert page.status_code == 200
    assert "Set DO_API_TOKEN." in page.text
    assert "gpu-fra-1" in page.text


async def test_an_api_that_is_away_is_a_page_that_tries_again(browser: httpx.AsyncClient, store: Store) -> None:
    store.down = True
    page = await browser.get("/dashboard")
    assert page.status_code == 503
    assert 'http-equiv="refresh"' in page.text
    assert (await browser.get("/")).status_code == 200
    assert "A part is down" in (await browser.get("/status")).text
    assert (await browser.get("/health")).json() == {"status": "ok"}


async def test_words_in_the_address_are_never_shown_as_ours(browser: httpx.AsyncClient) -> None:
    page = (await browser.get("/dashboard?done=Your+account+was+hacked")).text
    assert "hacked" not in page


async def test_the_forms_of_a_bot_take_as_much_as_the_platform_does(browser: httpx.AsyncClient, store: Store) -> None:
    for path in ("/bots/new", f"/bots/{bot_of(store)}/settings"):
        page = (await browser.get(path)).text
        limits = dict(re.findall(r'name="(name|persona|instructions)"[^>]* maxlength="(\d+)"', page))
        assert limits == {
            "name": str(names.NAME_CHARACTERS_MAX),
            "persona": str(names.PERSONA_CHARACTERS_MAX),
            "instructions": str(names.INSTRUCTIONS_CHARACTERS_MAX),
        }, path


async def test_an_administrator_cares_for_nodes(browser: httpx.AsyncClient) -> None:
    page = (await browser.get("/admin/nodes")).text
    assert "restarting whisper" in page
    assert "Draining" in page
    assert "3 requests running" in page
    done = await browser.post("/admin/nodes/gpu-fra-1/want", data={"desired": "cordoned"})
    assert done.headers["location"].startswith("/admin/nodes")
    assert "gets no new requests" in (await browser.get(done.headers["location"])).text
    assert (await browser.post("/admin/nodes/gpu-fra-1/repair", data={"rung": "reboot"})).status_code == 303
    refused = await browser.post("/admin/nodes/local/repair", data={"rung": "replace"})
    assert refused.status_code == 409
    assert "registered by hand" in refused.text
