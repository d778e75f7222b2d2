"""Vectors in a file: 8 bits a number with a scale for each, a quarter of the size and near enough for a search.

The file begins with the fingerprint of the texts and the model that it is of, so that it is never taken for others.
"""

from __future__ import annotations  # arrays can't be subscripted at run time before Python 3.12

import struct
from array import array
from collections.abc import Sequence

STEPS = 127
HEAD = struct.Struct("<32sIf")


def pack(mark: str, vectors: Sequence[array[float]]) -> bytes:
    """The file of these vectors; `mark` is 32 characters. All are of one length."""
    width = len(vectors[0]) if vectors else 0
    top = max((abs(number) for vector in vectors for number in vector), default=1.0) or 1.0
    numbers = array("b", (round(number / top * STEPS) for vector in vectors for number in vector))
    return HEAD.pack(mark.encode(), width, top / STEPS) + numbers.tobytes()


def unpack(data: bytes, mark: str, count: int) -> list[array[float]] | None:
    """The vectors of the file, or None when it is of other texts, or damaged."""
    if len(data) < HEAD.size:
        return None
    found, width, step = HEAD.unpack_from(data)
    if found != mark.encode() or len(data) != HEAD.size + width * count:
        return None
    numbers = array("b", data[HEAD.size :])
    return [array("f", (n * step for n in numbers[i * width : (i + 1) * width])) for i in range(count)]
