"""The gateway as the official client library sees it: each endpoint and each class of error."""

import base64
import io
import struct
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import openai
import pytest
from aiohttp import web

from wopr.accounts import keys, tenants
from wopr.accounts.principal import Scope

HELLO: Any = [{"role": "user", "content": "hello"}]


async def test_a_chat_completion_is_answered_and_charged(stage: Any) -> None:
    await stage.backend()
    customer = await stage.customer("1")
    raw = await stage.openai(customer).chat.completions.with_raw_response.create(
        model="handbook", messages=HELLO, max_tokens=4
    )
    answer = raw.parse()
    assert answer.choices[0].message.content == "word " * 4
    assert raw.headers["x-wopr-node"] == "node-1"
    assert raw.headers["x-wopr-model"] == "handbook"
    [row] = await stage.usage(customer)
    assert str(row.request_id) == raw.headers["x-request-id"]
    assert (row.kind, row.model, row.node_id, row.status) == ("chat", "handbook", "node-1", "ok")
    assert (row.prompt_tokens, row.completion_tokens) == (5, 4)
    assert row.cost > 0
    assert raw.headers["x-wopr-cost-usd"] == f"{row.cost / 1e9:.9f}".rstrip("0")


async def test_a_stream_without_usage_hides_the_chunk_that_we_asked_for(stage: Any) -> None:
    backend = await stage.backend()
    customer = await stage.customer()
    stream = await stage.openai(customer).chat.completions.create(
        model="handbook", messages=HELLO, max_tokens=6, stream=True
    )
    chunks = [chunk async for chunk in stream]
    assert "".join(c.choices[0].delta.content or "" for c in chunks) == "word " * 6
    assert all(chunk.usage is None for chunk in chunks)
    assert b'"include_usage":true' in backend.bodies[0]
    [row] = await stage.usage(customer)
    assert (row.prompt_tokens, row.completion_tokens, row.status) == (5, 6, "ok")
    assert row.first_token_ms is not None


async def test_a_stream_with_usage_shows_it(stage: Any) -> None:
    await stage.backend()
    stream = await stage.openai(await stage.customer()).chat.completions.create(
        model="handbook", messages=HELLO, max_tokens=2, stream=True, stream_options={"include_usage": True}
    )
    chunks = [chunk async for chunk in stream]
    assert chunks[-1].usage is not None
    assert chunks[-1].usage.total_tokens == 7
    assert chunks[-1].choices == []


async def test_the_clients_bytes_reach_the_model_unchanged(stage: Any) -> None:
    backend = await stage.backend()
    http = stage.http(await stage.customer())
    body = (
        b'{ "model" : "handbook","messages":[{"role":"user","content":"\\u00e9 \xc3\xa9"}], "max_tokens":2,\r\n'
        b'"tools":[{"type":"function","function":{"name":"look","parameters":{}}}],"logprobs":true,"n":1,'
        b'"response_format":{"type":"json_object"},"x_unknown":1.50e0}'
    )
    response = await http.post("/v1/chat/completions", content=body)
    assert response.status_code == 200, response.text
    assert backend.bodies == [body]
    assert response.json()["choices"][0]["message"]["tool_calls"][0]["function"]["name"] == "look"
    assert backend.headers[0]["Authorization"] == "Bearer secret-of-node-1"


async def test_a_text_completion(stage: Any) -> None:
    await stage.backend()
    customer = await stage.customer()
    answer = await stage.openai(customer).completions.create(model="handbook", prompt="once", max_tokens=3)
    assert answer.choices[0].text == "word " * 3
    assert (await stage.usage(customer))[0].kind == "completion"


async def test_embeddings_as_floats_and_as_base64(stage: Any) -> None:
    backend = await stage.backend("qwen", ("minilm",))
    customer = await stage.customer()
    client = stage.openai(customer)
    # The library asks for base64 by itself and decodes it.
    answer = await client.embeddings.create(model="text-embedding-3-small", input="hello")
    assert answer.data[0].embedding == [0.5, -0.25]
    plain = await client.embeddings.create(model="minilm", input="hello", encoding_format="float")
    assert plain.data[0].embedding == [0.5, -0.25]
    coded = await client.embeddings.create(model="minilm", input="hello", encoding_format="base64")
    encoded: Any = coded.data[0].embedding
    assert struct.unpack("<2f", base64.b64decode(encoded)) == (0.5, -0.25)
    assert b'"minilm"' in backend.bodies[0]
    assert b"text-embedding-3-small" not in backend.bodies[0]
    rows = await stage.usage(customer, 3)
    assert {(row.kind, row.model, row.prompt_tokens) for row in rows} == {("embedding", "minilm", 7)}


async def test_speech_is_charged_by_the_character(stage: Any) -> None:
    await stage.backend("chatterbox", ("flite",))
    customer = await stage.customer()
    raw = await stage.openai(customer).audio.speech.with_raw_response.create(
        model="tts-1", voice="alloy", input="héllo world"
    )
    assert raw.content.startswith(b"RIFF")
    assert len(raw.content) == 5004
    [row] = await stage.usage(customer)
    assert (row.kind, row.model, row.units, row.cost) == ("speech", "flite", 11, 55_000)
    assert raw.headers["x-wopr-cost-usd"] == "0.000055"


async def test_a_transcription_is_charged_by_the_seconds_of_its_sound(
    stage: Any, silence: Callable[[float], bytes]
) -> None:
    backend = await stage.backend("whisper", ("whisper-1",))
    customer = await stage.customer()
    file = ("hello.wav", io.BytesIO(silence(2.5)), "audio/wav")
    answer = await stage.openai(customer).audio.transcriptions.create(model="whisper-1", file=file)
    assert answer.text == "hello there"
    assert silence(2.5) in backend.bodies[0]
    [row] = await stage.usage(customer)
    assert (row.kind, row.model, row.units) == ("transcription", "whisper-1", 3)


async def test_models_are_listed_and_described(stage: Any) -> None:
    await stage.backend()
    await stage.backend("qwen", ("minilm",))
    client = stage.openai(await stage.customer(scope=Scope.READ))
    assert [model.id async for model in client.models.list()] == ["handbook", "minilm"]
    assert (await client.models.retrieve("handbook")).id == "handbook"
    with pytest.raises(openai.NotFoundError):
        await client.models.retrieve("nothing")


async def test_errors_are_the_classes_that_the_library_has_for_them(stage: Any) -> None:
    await stage.backend()
    customer = await stage.customer()
    client = stage.openai(customer)
    with pytest.raises(openai.NotFoundError) as unknown:
        await client.chat.completions.create(model="nope", messages=HELLO)
    assert (unknown.value.code, unknown.value.param) == ("model_not_found", "model")
    with pytest.raises(openai.BadRequestError) as wrong:
        await client.chat.completions.create(model="minilm", messages=HELLO)
    assert wrong.value.code == "model_mismatch"
    customer.key = "wopr_write_wrong"
    with pytest.raises(openai.AuthenticationError) as refused:
        await stage.openai(customer).chat.completions.create(model="handbook", messages=HELLO)
    assert refused.value.code == "invalid_api_key"
    reader = await stage.customer(scope=Scope.READ)
    with pytest.raises(openai.PermissionDeniedError) as read_only:
        await stage.openai(reader).chat.completions.create(model="handbook", messages=HELLO)
    assert read_only.value.code == "insufficient_scope"


async def test_without_credit_the_answer_is_402_and_not_worth_another_try(stage: Any) -> None:
    backend = await stage.backend()
    client = stage.openai(await stage.customer("0"), max_retries=2)
    with pytest.raises(openai.APIStatusError) as empty:
        await client.chat.completions.create(model="handbook", messages=HELLO)
    assert empty.value.status_code == 402
    assert empty.value.code == "insufficient_quota"
    assert empty.value.response.headers["x-should-retry"] == "false"
    assert backend.bodies == []


async def test_paths_methods_and_bodies_that_are_wrong(stage: Any) -> None:
    await stage.backend()
    http = stage.http(await stage.customer())
    for method, path, content, status, code in [
        ("POST", "/v1/nothing", b"{}", 404, "unknown_url"),
        ("GET", "/v1/chat/completions", None, 405, "method_not_allowed"),
        ("POST", "/v1/models", b"", 405, "method_not_allowed"),
        ("POST", "/v1/chat/completions", b"{", 400, "invalid_json"),
        ("POST", "/v1/chat/completions", b"[]", 400, "invalid_json"),
        ("POST", "/v1/chat/completions", b"[" * 100_000, 400, "invalid_json"),
        ("POST", "/v1/chat/completions", b'{"a":' + b"[" * 100_000, 400, "invalid_json"),
        ("POST", "/v1/chat/completions", b"\xff{}", 400, "invalid_json"),
        ("POST", "/v1/chat/completions", b'{"messages":[]}', 400, "missing_required_parameter"),
        ("POST", "/v1/chat/completions", b'{"model":"handbook"}', 400, "missing_required_parameter"),
        ("POST", "/v1/chat/completions", b'{"model":"a\\nb","messages":[]}', 400, "invalid_value"),
        ("POST", "/v1/audio/transcriptions", b"--x--", 400, "invalid_form"),
        ("POST", "/v1/audio/speech", b'{"model":"tts-1","input":3}', 400, "missing_required_parameter"),
    ]:
        response = await http.request(method, path, content=content)
        assert (response.status_code, response.json()["error"]["code"]) == (status, code), (path, content)
        assert response.headers["x-request-id"]
    response = await http.post("/v1/chat/completions", content=b"x" * (33 * 1024 * 1024))
    assert response.status_code == 413


async def test_the_rate_limit_says_when_to_come_back(make_stage: Any) -> None:
    stage = await make_stage(gateway_requests_per_minute=2)
    await stage.backend()
    customer = await stage.customer()
    http = stage.http(customer)
    body = {"model": "handbook", "messages": HELLO, "max_tokens": 1}
    first = await http.post("/v1/chat/completions", json=body)
    assert first.headers["x-ratelimit-limit-requests"] == "2"
    assert first.headers["x-ratelimit-remaining-requests"] == "1"
    await http.post("/v1/chat/completions", json=body)
    third = await http.post("/v1/chat/completions", json=body)
    assert third.status_code == 429
    assert 1 <= int(third.headers["retry-after"]) <= 30
    with pytest.raises(openai.RateLimitError):
        await stage.openai(customer).chat.completions.create(model="handbook", messages=HELLO)


async def test_a_revoked_key_and_a_suspended_tenant_are_refused_at_once(stage: Any) -> None:
    await stage.backend()
    customer, other = await stage.customer(), await stage.customer()
    body = {"model": "handbook", "messages": HELLO, "max_tokens": 1}
    revoked, suspended = stage.http(customer), stage.http(other)
    for client in (revoked, suspended):
        assert (await client.post("/v1/chat/completions", json=body)).status_code == 200
    async with stage.platform.db.begin() as session:
        await keys.revoke(session, customer.tenant_id, customer.key_id)
        await tenants.set_suspended(session, other.tenant_id, True)
    assert await _status_after_change(revoked, body) == 401
    assert await _status_after_change(suspended, body) == 403
    async with stage.platform.db.begin() as session:
        await tenants.set_suspended(session, other.tenant_id, False)
    assert await _status_after_change(suspended, body, 403) == 200


async def _status_after_change(client: Any, body: Any, before: int = 200) -> int:
    for _ in range(200):
        response = await client.post("/v1/chat/completions", json=body)
        if response.status_code != before:
            break
    return int(response.status_code)


async def test_unverified_owners_and_expired_keys_are_refused(stage: Any) -> None:
    await stage.backend()
    unverified = await stage.customer(verified=False)
    expired = await stage.customer(expires_at=stage.platform.clock.now() - timedelta(seconds=1))
    with pytest.raises(openai.PermissionDeniedError) as caught:
        await stage.openai(unverified).chat.completions.create(model="handbook", messages=HELLO)
    assert caught.value.code == "email_not_verified"
    with pytest.raises(openai.AuthenticationError):
        await stage.openai(expired).chat.completions.create(model="handbook", messages=HELLO)


async def test_a_bots_key_and_its_turn_are_in_the_record(stage: Any, bot_id: Any) -> None:
    await stage.backend()
    customer = await stage.customer(bot_id=bot_id)
    turn = "0192a000-0000-7000-8000-000000000001"
    await stage.openai(customer).chat.completions.create(
        model="handbook", messages=HELLO, max_tokens=1, extra_headers={"x-wopr-turn": turn}
    )
    [row] = await stage.usage(customer)
    assert row.bot_id == bot_id
    assert str(row.turn_id) == turn


async def test_the_models_own_refusal_is_passed_on_and_costs_nothing(stage: Any) -> None:
    backend = await stage.backend()
    refusal = {"error": {"message": "too long", "type": "invalid_request_error", "param": None, "code": "context"}}

    async def refuse(_request: web.Request) -> web.Response:
        return web.json_response(refusal, status=400)

    async def framework(_request: web.Request) -> web.Response:
        return web.json_response({"detail": "no such field"}, status=422)

    backend.answers += [refuse, framework]
    customer = await stage.customer("1")
    http = stage.http(customer)
    body = {"model": "handbook", "messages": HELLO}
    response = await http.post("/v1/chat/completions", json=body)
    assert (response.status_code, response.json()) == (400, refusal)
    response = await http.post("/v1/chat/completions", json=body)
    assert response.status_code == 422
    assert "no such field" in response.json()["error"]["message"]
    await http.post("/v1/chat/completions", json=body | {"max_tokens": 1})
    [row] = await stage.usage(customer)
    assert row.completion_tokens == 1
