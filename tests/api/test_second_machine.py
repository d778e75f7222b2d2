"""A second machine with a real model: registered while everything runs, asked with the official library, then gone.

The model is random and tiny; llama.cpp, the registration, the watchdog and the gateway are what customers use.
"""

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import openai
import pytest
from tests.inference.engines.tiny import write_tiny_model
from tests.live import Person, wait_for
from tests.stack import STOP_SECONDS, Stack, clean_environment, free_ports

pytestmark = pytest.mark.slow

MODEL, NODE = "tiny-nonsense", "second"
HELLO: Any = [{"role": "user", "content": "Hello"}]


@pytest.fixture(scope="module")
def machine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    """The port of a llama engine that serves the tiny model, as on a GPU machine."""
    folder: Path = tmp_path_factory.mktemp("machine")
    model = write_tiny_model(folder / f"{MODEL}.gguf")
    port = free_ports()["llama"]
    command = [sys.executable, "-m", "wopr", "engine", "llama", "--port", str(port), "--model", str(model), "--json"]
    environment = clean_environment() | {"WOPR_HOME": str(folder)}
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, env=environment)
    with process:
        assert process.stdout is not None
        assert json.loads(process.stdout.readline())["model"] == MODEL
        yield port
        process.terminate()
        process.wait(STOP_SECONDS)


@pytest.fixture(scope="module")
def client(live: Stack, customer: Person, administrator: Person, machine: int) -> Iterator[openai.OpenAI]:
    secret = customer.make_key()[1]
    administrator.post("/api/admin/nodes", {"id": NODE, "host": "127.0.0.1", "ports": {"llama": machine}})
    try:
        with openai.OpenAI(base_url=f"{live.api}/v1", api_key=secret, max_retries=0, timeout=60) as made:
            wait_for(lambda: MODEL in {model.id for model in made.models.list()}, "the machine's model to be offered")
            yield made
    finally:
        administrator.http.delete(f"/api/admin/nodes/{NODE}")


def test_its_model_is_offered_with_a_price_and_answers(client: openai.OpenAI, customer: Person) -> None:
    offered = {model["id"]: model for model in customer.get("/api/models")["models"]}
    assert float(offered[MODEL]["completion_per_million_usd"]) > 0
    raw = client.chat.completions.with_raw_response.create(model=MODEL, messages=HELLO, max_tokens=8, temperature=0)
    assert raw.headers["x-wopr-node"] == NODE
    answer = raw.parse()
    assert answer.usage is not None
    assert answer.usage.completion_tokens == 8
    assert answer.choices[0].finish_reason == "length"
    assert float(raw.headers["x-wopr-cost-usd"]) > 0


def test_parameters_that_only_the_model_understands_pass_untouched(client: openai.OpenAI) -> None:
    answer = client.chat.completions.create(
        model=MODEL, messages=HELLO, max_tokens=4, logprobs=True, top_logprobs=2, seed=1, stop=["#"]
    )
    assert answer.choices[0].logprobs is not None
    tokens = answer.choices[0].logprobs.content or []
    assert tokens
    assert all(len(token.top_logprobs) == 2 for token in tokens)


def test_a_stream_of_a_real_model_carries_its_usage(client: openai.OpenAI) -> None:
    stream = client.chat.completions.create(
        model=MODEL, messages=HELLO, max_tokens=16, stream=True, stream_options={"include_usage": True}
    )
    chunks = list(stream)
    assert chunks[-1].usage is not None
    assert chunks[-1].usage.completion_tokens <= 16
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)


def test_a_bot_talks_with_the_model_that_was_chosen_for_it(client: openai.OpenAI, customer: Person) -> None:
    del client  # it is here for the machine, which it registered
    bot = customer.make_bot(model=MODEL)
    turn = customer.ask(bot, "Hello")
    assert turn["state"] == "completed", turn

    def receipt() -> Any:
        lines = customer.get(f"/fleet/bots/{bot}/turns/{turn['turn_id']}/receipt")["lines"]
        return [line for line in lines if line["kind"] == "chat"]

    [line] = wait_for(receipt, "the receipt")
    assert (line["model"], line["node_id"]) == (MODEL, NODE)
    customer.http.delete(f"/fleet/bots/{bot}").raise_for_status()
