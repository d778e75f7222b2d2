"""The fleet's routes as customers meet them: rules with their remedies, and talking to a bot."""

import asyncio
import base64
import json
import os
import signal
from typing import Any
from uuid import uuid4

import pytest

from wopr.accounts.principal import Scope
from wopr.billing.grants import grant_credit
from wopr.core.money import from_usd

World = Any  # of conftest.py, which can't be imported


def events(body: str) -> list[tuple[int, str, dict[str, Any]]]:
    found = []
    for block in body.split("\n\n"):
        fields = dict(line.split(": ", 1) for line in block.splitlines() if not line.startswith(":"))
        if fields:
            found.append((int(fields["id"]), fields["event"], json.loads(fields["data"])))
    return found


async def test_templates_are_whole(world: World) -> None:
    found = (await (await world.customer()).http.get("/fleet/templates")).json()["templates"]
    assert len(found) == 6
    assert all(value for template in found for value in template.values())


async def test_a_bot_without_a_model_gets_the_one_of_the_installation(world: World) -> None:
    customer = await world.customer()
    world.platform.settings.bot_model = "llama"
    assert (await customer.http.post("/fleet/bots", json={"name": "Ada"})).json()["model"] == "llama"
    templates = (await customer.http.get("/fleet/templates")).json()["templates"]
    assert {template["model"] for template in templates} == {"llama"}


async def test_bad_names_are_refused_with_the_rule(world: World) -> None:
    customer = await world.customer()
    for name in ("", "   ", "x" * 41, "a\nb\u0007", "<script>", "-rf", "../up"):
        answer = await customer.http.post("/fleet/bots", json={"name": name})
        assert (answer.status_code, answer.json()["error"]["code"]) == (422, "invalid_name"), name
        assert answer.json()["error"]["remedy"]


async def test_names_are_unique_for_one_customer_only(world: World) -> None:
    one, other = await world.customer(), await world.customer()
    await one.create("Ada")
    answer = await one.http.post("/fleet/bots", json={"name": " ADA "})
    assert (answer.status_code, answer.json()["error"]["code"]) == (409, "name_taken")
    await other.create("Ada")


async def test_two_requests_at_once_make_one_bot_of_a_name(world: World) -> None:
    customer = await world.customer()
    answers = await asyncio.gather(*(customer.http.post("/fleet/bots", json={"name": "Ada"}) for _ in range(5)))
    assert sorted(answer.status_code for answer in answers) == [201, 409, 409, 409, 409]


async def test_too_many_bots_are_refused(world: World) -> None:
    customer = await world.customer()
    answers = await asyncio.gather(
        *(customer.http.post("/fleet/bots", json={"name": f"Bot {number}"}) for number in range(5))
    )
    assert sorted(answer.status_code for answer in answers) == [201, 201, 201, 409, 409]
    refused = next(answer for answer in answers if answer.status_code == 409).json()["error"]
    assert (refused["code"], refused["remedy"]) == ("too_many_bots", "Delete one that is no longer needed.")


async def test_what_a_bot_can_not_be_is_refused(world: World) -> None:
    customer = await world.customer()
    for body, code in (
        ({"template": "none such"}, "unknown_template"),
        ({"size": "planet"}, "unknown_size"),
        ({"model": "minilm"}, "wrong_model"),
        ({"model": "tts-1"}, "wrong_model"),
        ({"persona": "x" * 4_001}, "invalid"),
        ({"instructions": "bell \u0007"}, "invalid"),
        ({"model": "a b"}, "invalid"),
        ({"voice": "../x"}, "invalid"),
    ):
        answer = await customer.http.post("/fleet/bots", json={"name": "Ada", **body})
        assert (answer.status_code, answer.json()["error"]["code"]) == (422, code), body


async def test_without_credit_or_a_verified_address_there_is_no_bot(world: World) -> None:
    for customer, status, code in (
        (await world.customer(None), 402, "unfunded"),
        (await world.customer(verified=False), 403, "email_unverified"),
    ):
        answer = await customer.http.post("/fleet/bots", json={"name": "Ada"})
        assert (answer.status_code, answer.json()["error"]["code"]) == (status, code)
        assert answer.json()["error"]["remedy"]


async def test_a_bot_can_be_read_with_a_read_key_and_not_changed(world: World) -> None:
    customer = await world.customer(scope=Scope.READ)
    assert (await customer.http.get("/fleet/bots")).json() == {"bots": [], "next_cursor": None}
    assert (await customer.http.post("/fleet/bots", json={"name": "Ada"})).status_code == 403


async def test_another_customers_bot_is_not_there(world: World) -> None:
    bot = await (await world.customer()).create()
    stranger = (await world.customer()).http
    base, turn = f"/fleet/bots/{bot['id']}", uuid4()
    requests = [
        stranger.get(base),
        stranger.patch(base, json={"name": "Mine"}),
        stranger.delete(base),
        *(stranger.post(f"{base}/{verb}") for verb in ("start", "stop", "restart")),
        *(stranger.get(f"{base}/{what}") for what in ("logs", "logs?follow=true", "usage", "conversations")),
        stranger.post(f"{base}/turns", json={"text": "hello"}),
        stranger.post(f"{base}/transcriptions", content=b"RIFF"),
        *(stranger.get(f"{base}/turns/{turn}{what}") for what in ("", "/events", "/audio", "/receipt")),
        stranger.post(f"{base}/turns/{turn}/cancel"),
        stranger.get(f"{base}/conversations/x/messages"),
        stranger.delete(f"{base}/conversations/x"),
    ]
    answers = [await request for request in requests]
    assert {answer.status_code for answer in answers} == {404}
    assert {answer.json()["error"]["code"] for answer in answers} == {"bot_not_found"}


async def test_administrators_see_every_bot_and_customers_do_not(world: World) -> None:
    customer, admin = await world.customer(), await world.customer()
    bot = await customer.create()
    assert (await customer.http.get("/api/admin/bots")).status_code == 403
    await world.sql(
        "UPDATE users SET platform_admin = true FROM memberships m "
        "WHERE m.user_id = users.id AND m.tenant_id = :tenant",
        tenant=admin.tenant_id,
    )
    await world.sql("UPDATE api_keys SET scope = 'admin' WHERE tenant_id = :tenant", tenant=admin.tenant_id)
    (seen,) = (await admin.http.get("/api/admin/bots")).json()["bots"]
    await world.sql("UPDATE bots SET tenant_id = gen_random_uuid()")
    (orphan,) = (await admin.http.get("/api/admin/bots")).json()["bots"]
    assert orphan["tenant_name"] == "–"
    assert (seen["id"], seen["tenant_id"], seen["tenant_name"]) == (bot["id"], str(customer.tenant_id), "Someone")


async def test_a_turn_to_a_starting_bot_waits_and_streams_its_answer(world: World) -> None:
    customer = await world.customer()
    await world.work()
    bot = await customer.create(persona="You like echoes.")
    base = f"/fleet/bots/{bot['id']}"
    answer = await customer.http.post(f"{base}/turns", json={"text": "shall we play"})
    assert answer.status_code == 202, answer.text
    turn = answer.json()
    stream = await customer.http.get(f"{base}/turns/{turn['turn_id']}/events")
    assert stream.headers["content-type"].startswith("text/event-stream")
    seen = events(stream.text)
    assert seen[0][1] == "started"
    assert seen[-1][1] == "completed"
    assert seen[-1][2]["text"].strip() == "You said: shall we play"
    assert "You like echoes." in world.gateway.personas[0]
    assert world.gateway.headers[0]["x-wopr-turn"] == turn["turn_id"]
    assert world.gateway.headers[0]["authorization"].startswith("Bearer wopr_bot_")
    last = seen[1][0]
    again = await customer.http.get(f"{base}/turns/{turn['turn_id']}/events", headers={"last-event-id": str(last)})
    assert events(again.text) == [event for event in seen if event[0] > last]
    state = (await customer.http.get(f"{base}/turns/{turn['turn_id']}")).json()
    assert (state["state"], state["text"].strip()) == ("completed", "You said: shall we play")
    assert (await customer.http.post(f"{base}/turns/{turn['turn_id']}/cancel")).status_code == 202


async def test_history_survives_a_killed_bot(world: World) -> None:
    customer = await world.customer()
    await world.work()
    bot = await customer.create()
    base = f"/fleet/bots/{bot['id']}"
    said = {"text": "remember me", "turn_id": str(uuid4()), "conversation_id": "first"}
    assert (await customer.http.post(f"{base}/turns", json=said)).status_code == 202
    await customer.http.get(f"{base}/turns/{said['turn_id']}/events")
    os.kill(world.record(bot["id"]).pid, signal.SIGKILL)
    answer = await customer.http.get(f"{base}/conversations")
    assert answer.status_code == 200, answer.text
    assert [thread["id"] for thread in answer.json()["conversations"]] == ["first"]
    messages = (await customer.http.get(f"{base}/conversations/first/messages", params={"limit": 10})).json()[
        "messages"
    ]
    assert [message["role"] for message in messages] == ["user", "assistant"]
    older = await customer.http.get(f"{base}/conversations/first/messages", params={"before": messages[1]["id"]})
    assert [message["text"] for message in older.json()["messages"]] == ["remember me"]
    again = await customer.http.post(f"{base}/turns", json=said)
    assert again.json()["state"] == "completed"
    assert (await customer.http.delete(f"{base}/conversations/first")).status_code == 204
    assert (await customer.http.get(f"{base}/conversations")).json() == {"conversations": []}


NODE = """
INSERT INTO gpu_nodes (id, host, region, size, status, provision_stage, service_health, monthly_cost_cents, ports,
  probe_state, created_at, updated_at)
VALUES ('local', '127.0.0.1', 'local', 'cpu', 'active', 'done', '{"llama": true, "chatterbox": true}', 0,
  '{"llama": 8080, "chatterbox": 8081}', CAST(:seen AS jsonb), 0, 0)"""


async def offer(world: World, models: list[str], voices: list[str]) -> None:
    """What the watchdog saw on the only node."""
    seen = json.dumps({"llama": {"models": models}, "chatterbox": {"models": ["flite"], "voices": voices}})
    await world.sql("DELETE FROM gpu_nodes")
    await world.sql(NODE, seen=seen)


async def test_what_does_not_exist_is_refused_with_what_does(world: World) -> None:
    await offer(world, ["handbook", "smollm2-360m"], ["rms", "slt"])
    customer = await world.customer()
    bot = await customer.create(model="smollm2-360m", voice="alloy", size="small")  # OpenAI's name for a voice
    for said, code, exists in (
        ({"model": "gpt-9"}, "unknown_model", "smollm2-360m"),
        ({"voice": "hal"}, "unknown_voice", "rms, slt"),
        ({"size": "huge"}, "unknown_size", "small, standard, large"),
        ({"model": "minilm"}, "wrong_model", "handbook"),
    ):
        for answer in (
            await customer.http.post("/fleet/bots", json={"name": "Hal", **said}),
            await customer.http.patch(f"/fleet/bots/{bot['id']}", json=said),
        ):
            assert (answer.status_code, answer.json()["error"]["code"]) == (422, code), answer.text
            assert exists in answer.json()["error"]["remedy"]
    answer = await customer.http.post("/fleet/bots", json={"name": "Hal", "template": "hal"})
    assert (answer.status_code, answer.json()["error"]["code"]) == (422, "unknown_template")
    assert "joshua" in answer.json()["error"]["remedy"]
    assert len((await customer.http.get("/fleet/bots")).json()["bots"]) == 1


async def test_a_bot_whose_offer_was_withdrawn_keeps_it_until_it_is_given_another(world: World) -> None:
    await offer(world, ["smollm2-360m"], ["rms", "kal"])
    customer = await world.customer()
    bot = await customer.create(model="smollm2-360m", voice="kal")
    await world.sql("UPDATE bots SET size = 'gone'")
    await offer(world, ["handbook"], ["lessac"])
    path = f"/fleet/bots/{bot['id']}"
    same = {"name": "Eve", "model": "smollm2-360m", "voice": "kal"}  # as the form sends it
    changed = await customer.http.patch(path, json=same)
    assert changed.status_code == 200, changed.text
    assert [changed.json()[name] for name in ("name", "model", "voice", "size")] == [*same.values(), "gone"]
    assert (await customer.http.patch(path, json={"voice": "rms"})).status_code == 422
    better = {"model": "handbook", "voice": "lessac", "size": "small"}
    assert (await customer.http.patch(path, json=better)).json()["voice"] == "lessac"


async def test_a_default_voice_that_is_not_there_is_another_one(world: World) -> None:
    customer = await world.customer()
    assert (await customer.create("Blind", model="anything", voice="anyone"))["voice"] == "anyone"  # nothing is known
    await offer(world, ["handbook"], ["lessac"])
    listed = (await customer.http.get("/fleet/templates")).json()["templates"]
    assert {template["voice"] for template in listed} == {"lessac"}
    assert (await customer.create("Ada", template="joshua"))["voice"] == "lessac"


async def test_the_same_message_again_starts_nothing_with_a_turn_id_or_an_idempotency_key(world: World) -> None:
    customer = await world.customer()
    await world.work()
    bot = await customer.create()
    path = f"/fleet/bots/{bot['id']}/turns"
    for more, headers in (({"turn_id": str(uuid4())}, {}), ({}, {"idempotency-key": "hello-of-monday"})):
        said = {"text": "hello", **more}
        first, again = [await customer.http.post(path, json=said, headers=headers) for _ in range(2)]
        assert (first.status_code, again.status_code) == (202, 202), again.text
        assert [answer.headers.get("idempotent-replayed") for answer in (first, again)] == [None, "true"]
        for name in ("turn_id", "conversation_id"):
            assert again.json()[name] == first.json()[name]
        other = await customer.http.post(path, json=said | {"text": "something else"}, headers=headers)
        assert other.status_code == 409
        assert other.json()["error"]["code"] == ("idempotency_key_reused" if headers else "conflict")
    unkeyed = [(await customer.http.post(path, json={"text": "hello"})).json()["turn_id"] for _ in range(2)]
    assert len(set(unkeyed)) == 2


async def test_refusals_of_the_bot_reach_the_caller_as_they_are(world: World) -> None:
    customer = await world.customer()
    await world.work()
    bot = await customer.create()
    base = f"/fleet/bots/{bot['id']}"
    sound = base64.b64encode(b"no sound").decode()
    for answer, status in (
        (await customer.http.get(f"{base}/turns/{uuid4()}"), 404),
        (await customer.http.get(f"{base}/turns/{uuid4()}/events"), 404),
        (await customer.http.get(f"{base}/conversations/none/messages"), 404),
        (await customer.http.post(f"{base}/turns", json={"audio_base64": sound}), 400),
        (await customer.http.post(f"{base}/transcriptions", content=b"no sound"), 400),
    ):
        assert answer.status_code == status, answer.text
        assert set(answer.json()["error"]) == {"code", "message", "remedy"}


async def test_a_turn_that_says_nothing_clear_is_refused(world: World) -> None:
    customer = await world.customer()
    bot = await customer.create()
    for body in (
        {},
        {"text": ""},
        {"text": "a", "audio_base64": "YQ=="},
        {"text": "a", "turn_id": "x"},
        {"text": "a", "conversation_id": "../x"},
    ):
        answer = await customer.http.post(f"/fleet/bots/{bot['id']}/turns", json=body)
        assert answer.status_code == 422, body


async def test_a_stopped_bot_says_that_it_must_be_started(world: World) -> None:
    customer = await world.customer()
    bot = await customer.create()
    await customer.http.post(f"/fleet/bots/{bot['id']}/stop")
    await world.reconciler().settle()
    answer = await customer.http.post(f"/fleet/bots/{bot['id']}/turns", json={"text": "hello"})
    assert (answer.status_code, answer.json()["error"]["code"]) == (409, "bot_not_running")
    assert answer.json()["error"]["remedy"] == "Start the bot, then try again."


async def test_a_bot_that_does_not_start_in_time_is_a_conflict_with_a_time(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("wopr.fleet.talk.WAIT_SECONDS_MAX", 0.1)
    customer = await world.customer()
    bot = await customer.create()  # nobody reconciles
    answer = await customer.http.get(f"/fleet/bots/{bot['id']}/conversations")
    assert (answer.status_code, answer.json()["error"]["code"]) == (409, "bot_starting")
    assert answer.headers["retry-after"] == "2"


async def test_logs_are_shown(world: World) -> None:
    customer = await world.customer()
    bot = await customer.create()
    await world.reconciler().settle()
    lines = (await customer.http.get(f"/fleet/bots/{bot['id']}/logs", params={"tail": 5})).json()["lines"]
    assert lines
    assert {line["stream"] for line in lines} <= {"stdout", "stderr"}


async def test_a_receipt_lists_the_requests_of_one_answer(world: World) -> None:
    customer = await world.customer()
    bot = await customer.create()
    turn = uuid4()
    for number, cost in enumerate((2_000, 3_000)):
        await world.sql(
            "INSERT INTO usage_records (request_id, settlement_id, tenant_id, bot_id, turn_id, kind, model, "
            "prompt_tokens, completion_tokens, units, cost, upstream_cost, status, started_at, duration_ms) "
            "VALUES (gen_random_uuid(), gen_random_uuid(), :tenant, :bot, :turn, 'chat', :model, "
            "7, 3, 0, :cost, 0, 'ok', now(), 12)",
            tenant=customer.tenant_id,
            bot=bot["id"],
            turn=turn,
            model=f"model-{number}",
            cost=cost,
        )
    receipt = (await customer.http.get(f"/fleet/bots/{bot['id']}/turns/{turn}/receipt")).json()
    assert receipt["total_usd"] == "0.000005"
    assert [line["model"] for line in receipt["lines"]] == ["model-0", "model-1"]
    usage = (await customer.http.get(f"/fleet/bots/{bot['id']}/usage")).json()
    assert (usage["total_usd"], len(usage["usage"]), usage["next_cursor"]) == ("0.000005", 2, None)
    empty = (await customer.http.get(f"/fleet/bots/{bot['id']}/turns/{uuid4()}/receipt")).json()
    assert (empty["total_usd"], empty["lines"]) == ("0.00", [])


async def test_a_repeated_request_with_the_same_key_makes_one_bot(world: World) -> None:
    customer = await world.customer()
    once = {"idempotency-key": "form-1"}
    asked = [customer.http.post("/fleet/bots", json={"name": "Ada"}, headers=once) for _ in range(4)]
    answers = await asyncio.gather(*asked)
    assert {answer.status_code for answer in answers} == {201}
    assert len({answer.text for answer in answers}) == 1
    assert sorted(answer.headers.get("idempotent-replayed", "") for answer in answers) == ["", "true", "true", "true"]
    other = await customer.http.post("/fleet/bots", json={"name": "Bob"}, headers=once)
    assert (other.status_code, other.json()["error"]["code"]) == (409, "idempotency_key_reused")
    assert len((await customer.http.get("/fleet/bots")).json()["bots"]) == 1


async def test_what_was_refused_may_be_tried_again_under_its_key(world: World) -> None:
    customer = await world.customer(None)
    once = {"idempotency-key": "form-1"}
    assert (await customer.http.post("/fleet/bots", json={"name": "Ada"}, headers=once)).status_code == 402
    async with world.platform.db.begin() as session:
        await grant_credit(session, customer.tenant_id, from_usd("5"), "paid")
    assert (await customer.http.post("/fleet/bots", json={"name": "Ada"}, headers=once)).status_code == 201


async def test_a_key_for_reading_spends_nothing_on_a_bot(world: World) -> None:
    reading = await world.customer(scope=Scope.READ)
    base = f"/fleet/bots/{uuid4()}"
    for method, path in (
        ("GET", f"{base}/turns/{uuid4()}/audio"),
        ("POST", f"{base}/turns"),
        ("POST", f"{base}/transcriptions"),
        ("POST", f"{base}/start"),
        ("POST", "/fleet/bots"),
    ):
        body = {"name": "Ada"} if path == "/fleet/bots" else {"text": "Hello"}
        answer = await reading.http.request(method, path, json=None if method == "GET" else body)
        assert (answer.status_code, answer.json()["error"]["code"]) == (403, "scope"), path
        assert answer.json()["error"]["remedy"]
