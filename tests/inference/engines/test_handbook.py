"""The handbook model through its HTTP door: useful, honest, deterministic, and in OpenAI's words."""

import json
from typing import Any

import httpx
import pytest
from openai import AsyncOpenAI
from tests.inference.engines.conftest import Serve, free_within_a_second

from wopr.inference.engines.handbook import HandbookEngine
from wopr.inference.engines.options import EngineOptions


def user(text: str) -> dict[str, str]:
    return {"role": "user", "content": text}


def system(text: str) -> dict[str, str]:
    return {"role": "system", "content": text}


def assistant(text: str) -> dict[str, str]:
    return {"role": "assistant", "content": text}


@pytest.fixture
def engine(options: EngineOptions) -> HandbookEngine:
    return HandbookEngine(options, token_seconds=0)


async def ask(client: httpx.AsyncClient, *messages: dict[str, str], **more: object) -> dict[str, Any]:
    response = await client.post("/v1/chat/completions", json={"model": "handbook", "messages": messages, **more})
    assert response.status_code == 200, response.text
    answer: dict[str, Any] = response.json()
    return answer


async def text(client: httpx.AsyncClient, *messages: dict[str, str]) -> str:
    return str((await ask(client, *messages))["choices"][0]["message"]["content"])


async def test_it_answers_from_the_handbook_and_says_what_it_is(serve: Serve, engine: HandbookEngine) -> None:
    async with serve(engine) as client:
        answer = await text(client, user("What does a bot cost?"))
    assert "$3 a month" in answer
    assert "handbook model" in answer


async def test_prices_voice_keys_credit_deletion_and_privacy_are_found(serve: Serve, engine: HandbookEngine) -> None:
    expected = {
        "how much is the subscription": "$5 a month",
        "does a stopped bot cost anything": "costs nothing",
        "how can I talk to it with my voice": "microphone",
        "where do I get an api key": "keys page",
        "can I use the openai python library": "base URL",
        "what happens when my credit runs out": "suspended",
        "how do I delete a bot": "Delete",
        "is what I write private": "nobody else",
    }
    async with serve(engine) as client:
        for question, words in expected.items():
            assert words in await text(client, user(question)), question


async def test_it_knows_what_the_person_said_earlier(serve: Serve, engine: HandbookEngine) -> None:
    earlier = [user("My name is Ada. I live in Paris."), assistant("Noted.")]
    async with serve(engine) as client:
        assert "Ada" in await text(client, *earlier, user("What is my name?"))
        assert "Paris" in await text(client, *earlier, user("where do i live"))


async def test_the_newest_of_two_facts_holds(serve: Serve, engine: HandbookEngine) -> None:
    said = [
        user("My favourite colour is blue."),
        assistant("Noted."),
        user("My favourite colour is green."),
        assistant("Noted."),
    ]
    async with serve(engine) as client:
        assert "green" in await text(client, *said, user("What is my favourite colour?"))


async def test_it_uses_persona_and_recalled_memories(serve: Serve, engine: HandbookEngine) -> None:
    instructions = system(
        "You are Luna, a patient tutor.\nAlways be brief.\nThe shop opens at nine on weekdays.\n"
        "What you remember:\n- user: my sister is called Marie\n- assistant: I will remember that."
    )
    async with serve(engine) as client:
        assert "Luna" in await text(client, instructions, user("Who are you?"))
        assert "Marie" in await text(client, instructions, user("What is my sister's name?"))
        assert "nine" in await text(client, instructions, user("When does the shop open?"))


async def test_who_is_meant_by_her_stays_with_what_was_said_of_her(serve: Serve, engine: HandbookEngine) -> None:
    said = user("My sister Nora lives in Rome. Her birthday is on 4 May.")
    async with serve(engine) as client:
        noted = await text(client, said)
        told = await text(client, said, assistant(noted), user("When is Nora's birthday?"))
        alone = await text(
            client, user("Her birthday is on 4 May."), assistant("Noted."), user("When is her birthday?")
        )
    assert noted.startswith("Noted: your sister Nora lives in Rome. Her birthday is on 4 May.")
    assert told == "You told me that your sister Nora lives in Rome. Her birthday is on 4 May."
    assert alone == "You told me that her birthday is on 4 May."


async def test_two_questions_in_one_sentence_get_both_answers(serve: Serve, engine: HandbookEngine) -> None:
    async with serve(engine) as client:
        both = await text(client, user("What does a bot cost, and what happens when my credit runs out?"))
        first = await text(client, user("What does a bot cost?"))
        second = await text(client, user("What happens when my credit runs out?"))
        one = await text(client, user("When and how can I cancel my subscription?"))
    assert both.startswith(first.partition("\n\n")[0])
    assert second.partition("\n\n")[0] in both
    assert "found nothing" not in one


async def test_it_admits_what_it_does_not_know(serve: Serve, engine: HandbookEngine) -> None:
    async with serve(engine) as client:
        answer = await text(client, user("Explain quantum physics"))
    assert "found nothing" in answer


async def test_the_same_conversation_gets_the_same_words(serve: Serve, engine: HandbookEngine) -> None:
    async with serve(engine) as client:
        first, second = [await text(client, user("How do I start?")) for _ in range(2)]
    assert first == second


async def test_a_stream_has_one_token_a_chunk_and_usage_at_the_end(serve: Serve, engine: HandbookEngine) -> None:
    body = {"messages": [user("What is WOPR?")], "stream": True, "stream_options": {"include_usage": True}}
    async with serve(engine) as client:
        whole = await ask(client, user("What is WOPR?"))
        response = await client.post("/v1/chat/completions", json=body)
    events = [line.removeprefix("data: ") for line in response.text.split("\n\n") if line]
    assert events[-1] == "[DONE]"
    chunks = [json.loads(event) for event in events[:-1]]
    deltas = [c["choices"][0]["delta"].get("content", "") for c in chunks if c["choices"]]
    assert "".join(deltas) == whole["choices"][0]["message"]["content"]
    assert chunks[-1]["choices"] == []
    assert chunks[-1]["usage"] == whole["usage"]
    assert sum(1 for delta in deltas if delta) == whole["usage"]["completion_tokens"]


async def test_max_tokens_stop_and_n_are_honoured(serve: Serve, engine: HandbookEngine) -> None:
    async with serve(engine) as client:
        cut = await ask(client, user("What is WOPR?"), max_tokens=4)
        stopped = await ask(client, user("What is WOPR?"), stop=["hosts"])
        twice = await ask(client, user("What is WOPR?"), n=2, max_completion_tokens=3)
    assert cut["choices"][0]["finish_reason"] == "length"
    assert cut["usage"]["completion_tokens"] == 4
    assert stopped["choices"][0]["message"]["content"].rstrip() == "WOPR"
    assert stopped["choices"][0]["finish_reason"] == "stop"
    assert [choice["index"] for choice in twice["choices"]] == [0, 1]
    assert twice["usage"]["completion_tokens"] == 6


async def test_json_mode_is_valid_json_and_a_schema_is_refused(serve: Serve, engine: HandbookEngine) -> None:
    async with serve(engine) as client:
        answer = await ask(client, user("What is WOPR?"), response_format={"type": "json_object"})
        refused = await client.post(
            "/v1/chat/completions", json={"messages": [user("x")], "response_format": {"type": "json_schema"}}
        )
    assert "WOPR" in json.loads(answer["choices"][0]["message"]["content"])["answer"]
    assert refused.status_code == 400
    assert refused.json()["error"]["param"] == "response_format"


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"messages": []},
        {"messages": "hello"},
        {"messages": [{"role": "nobody", "content": "x"}]},
        {"messages": [{"role": "user"}]},
        {"messages": [{"role": "user", "content": "x"}], "max_tokens": 0},
        {"messages": [{"role": "user", "content": "x"}], "n": 99},
        {"messages": [{"role": "user", "content": "x"}], "stop": [1]},
        {"messages": [{"role": "user", "content": "word " * 40_000}]},
    ],
)
async def test_a_wrong_request_is_the_clients_error(
    serve: Serve, engine: HandbookEngine, body: dict[str, object]
) -> None:
    async with serve(engine) as client:
        response = await client.post("/v1/chat/completions", json=body)
    assert response.status_code == 400
    assert set(response.json()["error"]) == {"message", "type", "param", "code"}


async def test_the_official_library_chats_and_completes(serve: Serve, engine: HandbookEngine) -> None:
    async with (
        serve(engine) as client,
        AsyncOpenAI(base_url=f"{str(client.base_url).rstrip('/')}/v1", api_key="none", max_retries=0) as openai,
    ):
        stream = await openai.chat.completions.create(
            model="handbook", messages=[{"role": "user", "content": "What is WOPR?"}], stream=True
        )
        said = "".join([chunk.choices[0].delta.content or "" async for chunk in stream])
        completion = await openai.completions.create(model="handbook", prompt=["What is WOPR?", "hello"], max_tokens=5)
        models = [model.id async for model in openai.models.list()]
    assert said.startswith("WOPR hosts AI bots")
    assert [choice.index for choice in completion.choices] == [0, 1]
    assert models == ["handbook"]


async def test_a_client_that_leaves_frees_its_slot_at_once(serve: Serve, options: EngineOptions) -> None:
    slow = HandbookEngine(options, token_seconds=30)
    body = {"messages": [user("What is WOPR?")], "stream": True}
    async with serve(slow) as client:
        async with client.stream("POST", "/v1/chat/completions", json=body) as response:
            await anext(response.aiter_bytes())
            assert 'requests_running{service="llama"} 1' in (await client.get("/metrics")).text
        await free_within_a_second(client)
