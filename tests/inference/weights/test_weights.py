"""Which file is served: the file says what it is, and broken ones are left out."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.inference.engines.tiny import write_tiny_model

from wopr.core.errors import Invalid, NotFound
from wopr.inference.gguf_header import read_header
from wopr.inference.weights import embedding_model, installed, piper_voices, text_model, whisper_model


def test_the_first_text_model_is_served_and_llama_gguf_before_it(tmp_path: Path) -> None:
    assert text_model(tmp_path / "nowhere") is None
    write_tiny_model(tmp_path / "beta.gguf")
    write_tiny_model(tmp_path / "alpha.gguf")
    assert text_model(tmp_path) == tmp_path / "alpha.gguf"
    write_tiny_model(tmp_path / "llama.gguf")
    assert text_model(tmp_path) == tmp_path / "llama.gguf"
    assert text_model(tmp_path, tmp_path / "beta.gguf") == tmp_path / "beta.gguf"
    with pytest.raises(NotFound):
        text_model(tmp_path, tmp_path / "gone.gguf")


def test_the_runbooks_embedding_file_makes_embeddings(tmp_path: Path) -> None:
    write_tiny_model(tmp_path / "qwen2-0_5b-instruct-q8_0.gguf")
    assert text_model(tmp_path) is None
    assert embedding_model(tmp_path) == tmp_path / "qwen2-0_5b-instruct-q8_0.gguf"


def test_voices_and_transcription_models_need_all_their_files(tmp_path: Path) -> None:
    (tmp_path / "lessac.onnx").write_bytes(b"x")
    (tmp_path / "whisper").mkdir()
    (tmp_path / "whisper" / "model.bin").write_bytes(b"x")
    assert (piper_voices(tmp_path), whisper_model(tmp_path)) == ({}, None)
    (tmp_path / "lessac.onnx.json").write_text("{}")
    (tmp_path / "whisper" / "config.json").write_text("{}")
    assert piper_voices(tmp_path) == {"lessac": tmp_path / "lessac.onnx"}
    assert whisper_model(tmp_path) == tmp_path / "whisper"


def test_a_header_says_what_the_file_is(tmp_path: Path) -> None:
    header = read_header(write_tiny_model(tmp_path / "tiny.gguf"))
    assert (header.architecture, header.name, header.context_tokens, header.embedding_length) == (
        "llama",
        "tiny",
        2048,
        64,
    )
    assert not header.makes_embeddings


@given(st.binary(max_size=300))
def test_no_bytes_break_the_reader(tmp_path_factory: pytest.TempPathFactory, data: bytes) -> None:
    folder = tmp_path_factory.mktemp("broken")
    for number, content in enumerate(
        (data, b"GGUF\x03\0\0\0" + data, b"GGUF\x03\0\0\0" + bytes(8) + b"\x01" + bytes(7) + data)
    ):
        path = folder / f"{number}.gguf"
        path.write_bytes(content)
        try:
            read_header(path)
        except Invalid:
            assert installed(folder) == []
        path.unlink()
