"""The official `openai` library against the gateway of the running platform: what works, and each class of error."""

import base64
import io
import struct
from collections.abc import Iterator
from typing import Any

import openai
import pytest
from tests.live import Person, missing, sign_up, spoken, wait_for
from tests.stack import Stack

pytestmark = pytest.mark.slow

HELLO: Any = [{"role": "user", "content": "What does a bot cost?"}]
SENTENCE = "hello this is a test of the speech service"


@pytest.fixture(scope="module")
def key(customer: Person) -> str:
    return customer.make_key("write", "library")[1]


@pytest.fixture(scope="module")
def client(live: Stack, key: str) -> Iterator[openai.OpenAI]:
    with library(live, key) as made:
        yield made


def library(live: Stack, key: str) -> openai.OpenAI:
    return openai.OpenAI(base_url=f"{live.api}/v1", api_key=key, max_retries=0, timeout=60)


def test_a_chat_completion_answers_and_its_price_is_the_ledgers(client: openai.OpenAI, customer: Person) -> None:
    raw = client.chat.completions.with_raw_response.create(model="handbook", messages=HELLO)
    answer = raw.parse()
    assert "$" in (answer.choices[0].message.content or "")
    assert answer.usage is not None
    assert answer.usage.total_tokens == answer.usage.prompt_tokens + answer.usage.completion_tokens
    request_id = raw.headers["x-request-id"]

    def row() -> Any:
        usage = customer.get("/api/billing/usage")["usage"]
        return next((line for line in usage if line["request_id"] == request_id), None)

    line = wait_for(row, "the usage row")
    assert line["cost_usd"] == raw.headers["x-wopr-cost-usd"]
    assert line["completion_tokens"] == answer.usage.completion_tokens


def test_a_stream_ends_with_its_usage_and_says_what_the_whole_answer_says(client: openai.OpenAI) -> None:
    whole = client.chat.completions.create(model="handbook", messages=HELLO)
    stream = client.chat.completions.create(
        model="handbook", messages=HELLO, stream=True, stream_options={"include_usage": True}
    )
    chunks = list(stream)
    text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
    assert text == whole.choices[0].message.content
    assert chunks[-1].usage == whole.usage
    assert [chunk.usage for chunk in chunks[:-1]] == [None] * (len(chunks) - 1)


def test_limits_choices_and_json_reach_the_model(client: openai.OpenAI) -> None:
    cut = client.chat.completions.create(model="handbook", messages=HELLO, max_tokens=5, n=2)
    assert [choice.finish_reason for choice in cut.choices] == ["length", "length"]
    as_json = client.chat.completions.create(model="handbook", messages=HELLO, response_format={"type": "json_object"})
    assert (as_json.choices[0].message.content or "").startswith("{")


def test_tools_pass_through_to_a_model_that_has_none(client: openai.OpenAI) -> None:
    tool: Any = {"type": "function", "function": {"name": "weather", "parameters": {"type": "object"}}}
    answer = client.chat.completions.create(model="handbook", messages=HELLO, tools=[tool], tool_choice="auto")
    assert answer.choices[0].message.content
    talk: Any = [
        *HELLO,
        {"role": "assistant", "content": None, "tool_calls": [_call("weather")]},
        {"role": "tool", "tool_call_id": "call_1", "content": "sunny"},
    ]
    assert client.chat.completions.create(model="handbook", messages=talk, tools=[tool]).choices[0].message.content


def test_a_text_completion_answers(client: openai.OpenAI) -> None:
    assert client.completions.create(model="handbook", prompt="What does a bot cost?", max_tokens=8).choices[0].text


def test_embeddings_as_numbers_and_as_base64_are_the_same(client: openai.OpenAI) -> None:
    texts = ["The cat sat on the mat.", "A feline rested on a rug.", "Quarterly revenue grew."]
    numbers = client.embeddings.create(model="minilm", input=texts, encoding_format="float")
    packed = client.embeddings.create(model="text-embedding-3-small", input=texts, encoding_format="base64")
    first = numbers.data[0].embedding
    raw: Any = packed.data[0].embedding  # a string, whatever the library's type says
    unpacked = struct.unpack(f"<{len(first)}f", base64.b64decode(raw))
    assert unpacked == pytest.approx(first, abs=1e-6)
    near, far = (_cosine(first, numbers.data[i].embedding) for i in (1, 2))
    assert near > far + 0.2


def test_what_is_spoken_is_understood_again(client: openai.OpenAI) -> None:
    speech = client.audio.speech.create(model="tts-1", voice="rms", input=SENTENCE, response_format="wav")
    sound = speech.read()
    assert sound.startswith(b"RIFF")
    heard = client.audio.transcriptions.create(model="whisper-1", file=("speech.wav", io.BytesIO(sound)))
    assert len(set(heard.text.lower().split()) & set(SENTENCE.split())) >= 6, heard.text


def test_a_recording_of_flite_is_transcribed(client: openai.OpenAI) -> None:
    recording = spoken("the weather is good today")
    if recording is None:
        missing("flite")
    assert recording is not None
    heard = client.audio.transcriptions.create(model="whisper-1", file=("x.wav", io.BytesIO(recording)))
    assert "weather" in heard.text.lower()


def test_the_models_are_listed_and_can_be_asked_for_one_by_one(client: openai.OpenAI) -> None:
    names = {model.id for model in client.models.list()}
    assert {"handbook", "minilm"} <= names
    assert client.models.retrieve("handbook").id == "handbook"


class TestErrors:
    def test_a_wrong_key_is_an_authentication_error(self, live: Stack) -> None:
        with library(live, "wopr_write_" + "x" * 43) as stranger, pytest.raises(openai.AuthenticationError) as seen:
            stranger.chat.completions.create(model="handbook", messages=HELLO)
        assert seen.value.code

    def test_a_read_key_may_not_spend(self, live: Stack, customer: Person) -> None:
        with library(live, customer.make_key("read")[1]) as reader, pytest.raises(openai.PermissionDeniedError):
            reader.chat.completions.create(model="handbook", messages=HELLO)

    def test_a_revoked_key_is_refused_at_once(self, live: Stack, customer: Person) -> None:
        key_id, secret = customer.make_key("write", "short lived")
        with library(live, secret) as client:
            client.chat.completions.create(model="handbook", messages=HELLO, max_tokens=1)
            customer.http.delete(f"/api/keys/{key_id}").raise_for_status()
            with pytest.raises(openai.AuthenticationError):
                client.chat.completions.create(model="handbook", messages=HELLO, max_tokens=1)

    def test_without_credit_it_is_402_that_no_client_repeats(self, live: Stack) -> None:
        with (
            sign_up(live) as poor,
            library(live, poor.make_key()[1]) as client,
            pytest.raises(openai.APIStatusError) as seen,
        ):
            client.chat.completions.create(model="handbook", messages=HELLO)
        assert seen.value.status_code == 402
        assert seen.value.code == "insufficient_quota"
        assert seen.value.response.headers["x-should-retry"] == "false"

    def test_an_unknown_model_is_not_found(self, client: openai.OpenAI) -> None:
        with pytest.raises(openai.NotFoundError) as seen:
            client.chat.completions.create(model="joshua", messages=HELLO)
        assert (seen.value.code, seen.value.param) == ("model_not_found", "model")
        with pytest.raises(openai.NotFoundError):
            client.models.retrieve("joshua")

    @pytest.mark.parametrize(
        "changes",
        [{"messages": []}, {"messages": "hello"}, {"n": 1000}, {"stream_options": "yes", "stream": True}],
        ids=lambda changes: ",".join(changes),
    )
    def test_nonsense_is_a_bad_request(self, client: openai.OpenAI, changes: Any) -> None:
        with pytest.raises((openai.BadRequestError, openai.UnprocessableEntityError)):
            client.post("/chat/completions", cast_to=object, body={"model": "handbook", "messages": HELLO} | changes)

    def test_a_model_of_another_kind_is_a_bad_request(self, client: openai.OpenAI) -> None:
        with pytest.raises(openai.BadRequestError) as seen:
            client.embeddings.create(model="handbook", input="x")
        assert seen.value.param == "model"

    def test_a_body_that_is_too_large_is_413(self, client: openai.OpenAI) -> None:
        with pytest.raises(openai.APIStatusError) as seen:
            client.chat.completions.create(
                model="handbook", messages=[{"role": "user", "content": "x" * (40 * 1024 * 1024)}]
            )
        assert seen.value.status_code == 413

    def test_sound_that_is_none_is_a_bad_request(self, client: openai.OpenAI) -> None:
        with pytest.raises(openai.BadRequestError):
            client.audio.transcriptions.create(model="whisper-1", file=("x.wav", io.BytesIO(b"not a recording")))


def _call(name: str) -> dict[str, Any]:
    return {"id": "call_1", "type": "function", "function": {"name": name, "arguments": "{}"}}


def _cosine(one: Any, other: Any) -> float:
    dot = sum(a * b for a, b in zip(one, other, strict=True))
    size = (sum(a * a for a in one) * sum(b * b for b in other)) ** 0.5
    return float(dot / size)
