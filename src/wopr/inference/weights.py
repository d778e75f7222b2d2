"""Model weights on this machine: which GGUF the text engine serves, which one makes embeddings, what else is there.

The runbook's names come first (`llama.gguf`, `qwen2-0_5b-instruct-q8_0.gguf`); otherwise the file says what it is.
"""

import shutil
from dataclasses import dataclass
from pathlib import Path

from wopr.core.errors import Invalid, NotFound
from wopr.inference.gguf_header import read_header

TEXT_FILE = "llama.gguf"
EMBEDDING_FILE = "qwen2-0_5b-instruct-q8_0.gguf"
MINILM_FILE = "minilm.gguf"
PIPER_SUFFIX = ".onnx"


@dataclass(frozen=True)
class Weights:
    """One model on this machine. `kind` is text, embedding, speech or transcription; `bytes` its size on disk."""

    name: str
    kind: str
    path: Path
    bytes: int


def text_model(models_path: Path, chosen: Path | None = None) -> Path | None:
    """The GGUF that the text engine serves: the chosen one, `llama.gguf`, or the first by name; None without any."""
    if chosen is not None:
        return _existing(chosen)
    texts = [weights.path for weights in installed(models_path) if weights.kind == "text"]
    return next((path for path in texts if path.name == TEXT_FILE), texts[0] if texts else None)


def embedding_model(models_path: Path, chosen: Path | None = None) -> Path | None:
    """The GGUF that makes embeddings, MiniLM only when there is no other; None when there is none."""
    if chosen is not None:
        return _existing(chosen)
    found = [weights.path for weights in installed(models_path) if weights.kind == "embedding"]
    others = [path for path in found if path.name != MINILM_FILE]
    return next(iter(others or found), None)


def piper_voices(models_path: Path) -> dict[str, Path]:
    """Voices of piper by name: an `.onnx` with its `.onnx.json` beside it."""
    return {weights.name: weights.path for weights in installed(models_path) if weights.kind == "speech"}


def whisper_model(models_path: Path, chosen: Path | None = None) -> Path | None:
    """The folder of a faster-whisper model (CTranslate2's `model.bin` and `config.json`); None when there is none."""
    if chosen is not None:
        return _existing(chosen)
    return next((weights.path for weights in installed(models_path) if weights.kind == "transcription"), None)


def installed(models_path: Path) -> list[Weights]:
    """Every model in the folder, by name. Files that are no readable model are left out."""
    if not models_path.is_dir():
        return []
    found = [weights for path in sorted(models_path.iterdir()) if (weights := _weights(path)) is not None]
    return sorted(found, key=lambda weights: weights.name)


def remove_weights(models_path: Path, name: str) -> Weights:
    """Delete a model from the folder; NotFound when there is none of that name."""
    for weights in installed(models_path):
        if weights.name == name:
            if weights.path.is_dir():
                shutil.rmtree(weights.path)
            else:
                weights.path.unlink()
                _json_beside(weights.path).unlink(missing_ok=True)
            return weights
    raise NotFound(
        f"There is no model {name} in {models_path}.", remedy="`wopr models list` shows those that there are."
    )


def _weights(path: Path) -> Weights | None:
    if path.is_dir():
        parts = [path / "model.bin", path / "config.json"]
        if all(part.is_file() for part in parts):
            size = sum(file.stat().st_size for file in path.rglob("*") if file.is_file())
            return Weights(path.name, "transcription", path, size)
        return None
    if path.suffix == PIPER_SUFFIX and _json_beside(path).is_file():
        return Weights(path.stem, "speech", path, path.stat().st_size)
    kind = _gguf_kind(path) if path.suffix == ".gguf" else None
    return Weights(path.stem, kind, path, path.stat().st_size) if kind else None


def _gguf_kind(path: Path) -> str | None:
    try:
        header = read_header(path)
    except Invalid:
        return None
    embeds = header.makes_embeddings or path.name == EMBEDDING_FILE or "embed" in path.stem.lower()
    return "embedding" if embeds else "text"


def _json_beside(path: Path) -> Path:
    return path.with_name(f"{path.name}.json")


def _existing(path: Path) -> Path:
    if not path.exists():
        raise NotFound(
            f"There is no model at {path}.", remedy="Give the path of a file, or pull one with `wopr models pull`."
        )
    return path
