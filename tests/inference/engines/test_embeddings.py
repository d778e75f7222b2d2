"""The embedding service: real vectors in OpenAI's forms, and named errors for what it can't do."""

import base64
import math
import struct
from pathlib import Path

import pytest
from openai import AsyncOpenAI
from tests.inference.engines.conftest import Serve

from wopr.core.errors import NotConfigured
from wopr.inference.engines import minilm
from wopr.inference.engines.embeddings import EmbeddingEngine
from wopr.inference.engines.options import EngineOptions


def cosine(a: list[float], b: list[float]) -> float:
    return sum(x * y for x, y in zip(a, b, strict=True)) / math.sqrt(sum(x * x for x in a) * sum(y * y for y in b))


async def test_texts_of_like_meaning_are_near(serve: Serve, options: EngineOptions) -> None:
    texts = ["The cat sleeps on the sofa.", "A kitten naps on the couch.", "Interest rates rose again."]
    async with serve(EmbeddingEngine(options)) as client:
        response = await client.post("/v1/embeddings", json={"model": "minilm", "input": texts})
    body = response.json()
    cat, kitten, rates = (item["embedding"] for item in body["data"])
    assert len(cat) == 384
    assert cosine(cat, kitten) > 0.6 > 0.3 > cosine(cat, rates)
    assert [item["index"] for item in body["data"]] == [0, 1, 2]
    assert body["usage"]["prompt_tokens"] == body["usage"]["total_tokens"] > 15


async def test_base64_carries_the_same_numbers(serve: Serve, options: EngineOptions) -> None:
    async with serve(EmbeddingEngine(options)) as client:
        plain = await client.post("/v1/embeddings", json={"input": "hello"})
        packed = await client.post("/v1/embeddings", json={"input": "hello", "encoding_format": "base64"})
    data = base64.b64decode(packed.json()["data"][0]["embedding"])
    assert struct.unpack("<384f", data) == pytest.approx(plain.json()["data"][0]["embedding"], abs=1e-6)


async def test_the_official_library_embeds(serve: Serve, options: EngineOptions) -> None:
    async with (
        serve(EmbeddingEngine(options)) as client,
        AsyncOpenAI(base_url=f"{str(client.base_url).rstrip('/')}/v1", api_key="none", max_retries=0) as openai,
    ):
        answer = await openai.embeddings.create(model="minilm", input=["one", "two"])
    assert [len(item.embedding) for item in answer.data] == [384, 384]


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({}, "input"),
        ({"input": []}, "input"),
        ({"input": ["ok", ""]}, "input"),
        ({"input": {"a": 1}}, "input"),
        ({"input": "word " * 2000}, "input"),
        ({"input": "x", "dimensions": 12}, "dimensions"),
        ({"input": "x", "encoding_format": "hex"}, "encoding_format"),
    ],
)
async def test_a_wrong_request_names_the_field(
    serve: Serve, options: EngineOptions, body: dict[str, object], param: str
) -> None:
    async with serve(EmbeddingEngine(options)) as client:
        response = await client.post("/v1/embeddings", json=body)
    assert response.status_code == 400
    assert response.json()["error"]["param"] == param


def test_a_package_that_carries_minilm_ready_made_is_served_from_where_it_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = tmp_path / "packages" / "ready_made" / "model"
    model.mkdir(parents=True)
    (model.parent / "__init__.py").write_text("")
    monkeypatch.syspath_prepend(tmp_path / "packages")
    monkeypatch.setattr(minilm, "PACKAGE", "ready_made")
    with pytest.raises(NotConfigured):
        minilm.ensure_minilm(tmp_path / "models")
    (model / "minilm.gguf").write_bytes(b"GGUF")
    assert minilm.ensure_minilm(tmp_path / "models") == model / "minilm.gguf"
    assert not (tmp_path / "models").exists(), "it may be on a root that is read-only"


async def test_another_embedding_model_is_preferred_to_minilm(options: EngineOptions) -> None:
    from wopr.inference.weights import embedding_model

    assert embedding_model(options.models_path) == options.models_path / "minilm.gguf"
