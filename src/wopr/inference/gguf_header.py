"""Read the few facts of a GGUF file that decide how it is served, without loading it and without a library.

The layout is that of the GGUF specification, version 2 and 3: magic, version, counts, then typed key-value pairs.
"""

import struct
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from wopr.core.errors import Invalid

MAGIC = b"GGUF"
VERSIONS = (2, 3)
PAIRS_MAX = 4096
STRING_BYTES_MAX = 64 * 1024 * 1024
ARRAY_DEPTH_MAX = 4
# Value types of the specification: number → struct format.
SCALARS: Mapping[int, str] = {
    0: "<B", 1: "<b", 2: "<H", 3: "<h", 4: "<I", 5: "<i", 6: "<f", 7: "<?", 10: "<Q", 11: "<q", 12: "<d",
}  # fmt: skip
STRING, ARRAY = 8, 9
# Architectures that make embeddings and no text.
ENCODERS = (
    "bert",
    "nomic-bert",
    "nomic-bert-moe",
    "jina-bert-v2",
    "jina-bert-v3",
    "neo-bert",
    "modern-bert",
    "gemma-embedding",
    "t5encoder",
)

Value = int | float | bool | str


@dataclass(frozen=True)
class GgufHeader:
    """What one file is. Lengths are None where the file does not say."""

    architecture: str
    name: str
    context_tokens: int | None
    embedding_length: int | None
    has_pooling: bool

    @property
    def makes_embeddings(self) -> bool:
        return self.architecture in ENCODERS


def read_header(path: Path) -> GgufHeader:
    """The facts of the file; Invalid when it is no GGUF, or one that is cut off."""
    try:
        with path.open("rb") as file:
            pairs = _pairs(file)
    except (OSError, struct.error, ValueError) as error:
        raise Invalid(
            f"{path.name} is not a readable GGUF file: {error}.", remedy="Pull it again with `wopr models pull`."
        ) from error
    architecture = str(pairs.get("general.architecture", ""))
    return GgufHeader(
        architecture=architecture,
        name=str(pairs.get("general.name", path.stem)),
        context_tokens=_whole(pairs.get(f"{architecture}.context_length")),
        embedding_length=_whole(pairs.get(f"{architecture}.embedding_length")),
        has_pooling=f"{architecture}.pooling_type" in pairs,
    )


def _pairs(file: BinaryIO) -> dict[str, Value]:
    if file.read(4) != MAGIC:
        raise ValueError("it does not begin with GGUF")
    version = int(_scalar(file, "<I"))
    if version not in VERSIONS:
        raise ValueError(f"its version is {version}")
    _tensors, count = _scalar(file, "<Q"), int(_scalar(file, "<Q"))
    if count > PAIRS_MAX:
        raise ValueError(f"it claims {count} keys")
    pairs: dict[str, Value] = {}
    for _ in range(count):
        key = _string(file)
        # The vocabulary is by far the largest part and says nothing that we need, and it follows the facts.
        if key.startswith("tokenizer.") and "general.architecture" in pairs:
            kind = int(_scalar(file, "<I"))
            _skip(file, kind, 0)
            continue
        kind = int(_scalar(file, "<I"))
        if kind == ARRAY:
            _skip(file, kind, 0)
        elif kind == STRING:
            pairs[key] = _string(file)
        else:
            pairs[key] = _scalar(file, _format(kind))
    return pairs


def _skip(file: BinaryIO, kind: int, depth: int) -> None:
    if depth > ARRAY_DEPTH_MAX:
        raise ValueError("its arrays are nested too deeply")
    if kind == STRING:
        file.seek(_length(file), 1)
    elif kind == ARRAY:
        inner, count = int(_scalar(file, "<I")), int(_scalar(file, "<Q"))
        if inner in SCALARS:
            file.seek(struct.calcsize(SCALARS[inner]) * count, 1)
            return
        for _ in range(count):
            _skip(file, inner, depth + 1)
    else:
        file.seek(struct.calcsize(_format(kind)), 1)


def _format(kind: int) -> str:
    if kind not in SCALARS:
        raise ValueError(f"it uses the unknown type {kind}")
    return SCALARS[kind]


def _scalar(file: BinaryIO, form: str) -> int | float | bool:
    value: int | float | bool = struct.unpack(form, file.read(struct.calcsize(form)))[0]
    return value


def _length(file: BinaryIO) -> int:
    length = int(_scalar(file, "<Q"))
    if length > STRING_BYTES_MAX:
        raise ValueError("a string is longer than the file can hold")
    return length


def _string(file: BinaryIO) -> str:
    length = _length(file)
    data = file.read(length)
    if len(data) < length:
        raise ValueError("it is cut off")
    return data.decode("utf-8", "replace")


def _whole(value: Value | None) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) and value > 0 else None
