"""A short list of small open models that are known to work here, each with the address of its publisher.

Checksums are not kept in this list: the publisher's server names the SHA-256 of each large file with the download, and
the file is checked against that. A checksum given by hand takes precedence.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import httpx

from wopr.core.errors import Invalid, NotFound

HUB = "https://huggingface.co"
SUFFIXES = (".gguf", ".onnx")


@dataclass(frozen=True)
class RemoteFile:
    """One file to fetch. `path`: its place under the models folder; `sha256`: only when it was given by hand."""

    url: str
    path: str
    sha256: str | None = None


@dataclass(frozen=True)
class Offer:
    """A model that can be pulled. `megabytes` is roughly what it takes; the file that makes it count comes last."""

    name: str
    kind: str
    megabytes: int
    licence: str
    about: str
    files: Sequence[RemoteFile]


def _hub(repository: str, file: str, path: str = "") -> RemoteFile:
    return RemoteFile(f"{HUB}/{repository}/resolve/main/{file}", path or file.rpartition("/")[2])


def _whisper(size: str) -> tuple[RemoteFile, ...]:
    repository, folder = f"Systran/faster-whisper-{size}", f"faster-whisper-{size}"
    names = ("tokenizer.json", "vocabulary.txt", "config.json", "model.bin")
    return tuple(_hub(repository, name, f"{folder}/{name}") for name in names)


def _piper(language: str, speaker: str, quality: str) -> tuple[RemoteFile, ...]:
    stem = f"{language}-{speaker}-{quality}.onnx"
    folder = f"{language.partition('_')[0]}/{language}/{speaker}/{quality}"
    return tuple(_hub("rhasspy/piper-voices", f"{folder}/{name}") for name in (f"{stem}.json", stem))


CATALOGUE: Sequence[Offer] = (
    Offer(
        "smollm2-360m", "text", 390, "Apache-2.0", "The smallest that converses; quick on any machine.",
        (_hub("HuggingFaceTB/SmolLM2-360M-Instruct-GGUF", "smollm2-360m-instruct-q8_0.gguf"),),
    ),
    Offer(
        "qwen2.5-0.5b", "text", 490, "Apache-2.0", "Small, many languages.",
        (_hub("Qwen/Qwen2.5-0.5B-Instruct-GGUF", "qwen2.5-0.5b-instruct-q4_k_m.gguf"),),
    ),
    Offer(
        "qwen3-0.6b", "text", 640, "Apache-2.0", "Small, reasons before it answers.",
        (_hub("Qwen/Qwen3-0.6B-GGUF", "Qwen3-0.6B-Q8_0.gguf"),),
    ),
    Offer(
        "qwen2.5-1.5b", "text", 1120, "Apache-2.0", "Good answers on four cores and 4 GB of memory.",
        (_hub("Qwen/Qwen2.5-1.5B-Instruct-GGUF", "qwen2.5-1.5b-instruct-q4_k_m.gguf"),),
    ),
    Offer(
        "qwen2-embedding", "embedding", 530, "Apache-2.0", "The runbook's embedding model.",
        (_hub("Qwen/Qwen2-0.5B-Instruct-GGUF", "qwen2-0_5b-instruct-q8_0.gguf"),),
    ),
    Offer(
        "nomic-embed", "embedding", 150, "Apache-2.0", "Embeddings of 768 numbers for texts of up to 2,048 tokens.",
        (_hub("nomic-ai/nomic-embed-text-v1.5-GGUF", "nomic-embed-text-v1.5.Q8_0.gguf"),),
    ),
    Offer("whisper-tiny.en", "transcription", 76, "MIT", "English, quick; needs faster-whisper.", _whisper("tiny.en")),
    Offer("whisper-base", "transcription", 145, "MIT", "Many languages; needs faster-whisper.", _whisper("base")),
    Offer(
        "piper-lessac", "speech", 63, "MIT", "A natural American voice; needs piper-tts.",
        _piper("en_US", "lessac", "medium"),
    ),
)  # fmt: skip


def find_offer(name: str) -> Offer:
    """The offer of that name; NotFound names those that there are."""
    for offer in CATALOGUE:
        if offer.name == name:
            return offer
    names = ", ".join(offer.name for offer in CATALOGUE)
    raise NotFound(
        f"The list has no model {name!r}.", remedy=f"Name one of {names}, or give the address of a GGUF file."
    )


def offer_of_address(url: str, sha256: str | None = None) -> Offer:
    """An offer for the address of a single file; Invalid when it is none, or names no model file."""
    try:
        address = httpx.URL(url)
        is_one = address.scheme in ("http", "https") and bool(address.host)
    except (httpx.InvalidURL, UnicodeError):
        is_one = False
    if not is_one:
        raise Invalid(f"{url} is no address of the web.", remedy="Give it as a browser shows it.")
    file = address.path.rpartition("/")[2]
    stem, _, suffix = file.rpartition(".")
    if not stem.strip(".") or f".{suffix}" not in SUFFIXES:
        raise Invalid(f"{url} does not name a model file.", remedy=f"Its name must end in {' or '.join(SUFFIXES)}.")
    return Offer(stem, "unknown", 0, "unknown", "Given by its address.", (RemoteFile(url, file, sha256),))
