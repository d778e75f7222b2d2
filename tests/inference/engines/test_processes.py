"""The engines as processes: ready, stopped by a signal, a taken port named, llama.cpp behind its own door."""

import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest
from tests.inference.engines.tiny import write_tiny_model

PROGRAM = "import sys, typer; from wopr.cli.engine import engine; sys.argv[0] = 'wopr engine'; typer.run(engine)"


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextmanager
def engine(models_path: Path, *arguments: str, **environment: str) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """`wopr engine` as a process, and its address once it says that it is ready."""
    command = [sys.executable, "-c", PROGRAM, *arguments, "--json", "--models-dir", str(models_path)]
    process = subprocess.Popen(
        [*command, "--port", str(free_port())],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        env={**os.environ, **environment},
    )
    try:
        assert process.stdout is not None
        yield process, json.loads(process.stdout.readline())["address"]
    finally:
        process.kill()
        process.wait()
        process.stdout.close()


@pytest.mark.parametrize("name", ["llama", "chatterbox", "whisper", "qwen"])
def test_each_engine_is_healthy_and_leaves_when_it_is_told(models_path: Path, name: str) -> None:
    with engine(models_path, name) as (process, address):
        health = httpx.get(f"{address}/health")
        models = httpx.get(f"{address}/v1/models").json()["data"]
        process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=60) == 0
    assert health.status_code == 200
    assert health.content == b'{"status":"ok"}'
    assert models


def test_a_gguf_in_the_folder_is_served_by_llama_cpp(tmp_path: Path) -> None:
    write_tiny_model(tmp_path / "tiny.gguf")
    body = {"messages": [{"role": "user", "content": "hi"}], "max_tokens": 5, "temperature": 0, "ignore_eos": True}
    with engine(tmp_path, "llama", ENGINE_API_KEY="secret") as (process, address):
        refused = httpx.post(f"{address}/v1/chat/completions", json=body)
        headers = {"authorization": "Bearer secret"}
        answer = httpx.post(f"{address}/v1/chat/completions", json=body, headers=headers, timeout=30).json()
        slots = httpx.get(f"{address}/slots", headers=headers).json()
        metrics = httpx.get(f"{address}/metrics", headers=headers)
        assert httpx.get(f"{address}/health").content == b'{"status":"ok"}'
        process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=60) == 0
    assert refused.status_code == 401
    assert answer["model"] == "tiny"
    assert answer["usage"]["completion_tokens"] == 5
    assert [slot["is_processing"] for slot in slots] == [False, False]
    assert "requests_processing" in metrics.text


@pytest.mark.parametrize("with_model", [False, True])
def test_a_taken_port_is_named_with_the_remedy(models_path: Path, tmp_path: Path, *, with_model: bool) -> None:
    if with_model:
        write_tiny_model(tmp_path / "tiny.gguf")
    from wopr.core.errors import Unavailable
    from wopr.inference.engines import EngineOptions, run

    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(Unavailable, match=str(port)) as raised:
            run("llama", EngineOptions("127.0.0.1", port, tmp_path if with_model else models_path))
    assert "--port" in raised.value.remedy
