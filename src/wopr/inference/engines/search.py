"""Find the text that is meant: by the direction of its embedding, and by the rare words shared with the question.

Where llama.cpp is not installed the shared words decide alone: worse, but the engine still answers.
"""

from __future__ import annotations  # arrays can't be subscripted at run time before Python 3.12

import math
import operator
import re
from array import array
from collections import Counter, OrderedDict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Protocol

from wopr.inference.engines.pages import fingerprint
from wopr.inference.engines.vectors import pack, unpack

LEXICAL_SHARE = 0.15
REMEMBERED_MAX = 2000
CHARACTERS_MAX = 600
BATCH = 16
WORD = re.compile(r"[a-z0-9$]+")
STOP_WORDS = frozenset(
    re.findall(
        r"\w+",
        "a an the is are am was were be been do does did i me my mine you your yours it its this that these those of "
        "to in on at for from with and or not no can could will would should shall may might what who where when why "
        "how which there have has had if so as by about much many please tell say s t m re ve d ll",
    )
)


class Embeds(Protocol):
    """What turns texts into vectors of length one."""

    name: str

    def vectors(self, texts: Sequence[str]) -> Sequence[array[float]]:
        """One vector a text, in their order."""
        ...


class Searcher:
    """Scores texts against a question from 0 to 1. Remembers vectors, since a conversation repeats itself each turn."""

    def __init__(self, embeds: Embeds | None) -> None:
        self._embeds = embeds
        self._fixed: Mapping[str, array[float]] = {}
        self._known: OrderedDict[str, array[float]] = OrderedDict()

    def prepare(self, texts: Sequence[str], packaged: bytes, cache: Path) -> None:
        """Know these texts from now on: from the package, else from the cache, else worked out now and kept there.

        Whichever it is, the numbers are the same to the last bit, and so are the answers.
        """
        if self._embeds is None:
            return
        mark = fingerprint(texts, self._embeds.name)
        vectors = unpack(packaged, mark, len(texts)) or unpack(_read(cache), mark, len(texts))
        if vectors is None:
            data = pack(mark, self._vectors(texts))
            _write(cache, data)
            vectors = unpack(data, mark, len(texts)) or []
        self._fixed = dict(zip(texts, vectors, strict=True))

    def scores(self, question: str, texts: Sequence[str], rarity: Mapping[str, float]) -> list[float]:
        """How well each text answers or matches the question."""
        shared = [shared_words(question, text, rarity) for text in texts]
        if self._embeds is None:
            return shared
        asked = self._of([question])[0]
        return [
            (1 - LEXICAL_SHARE) * max(0.0, sum(map(operator.mul, asked, vector))) + LEXICAL_SHARE * common
            for vector, common in zip(self._of(texts), shared, strict=True)
        ]

    def _of(self, texts: Sequence[str]) -> list[array[float]]:
        missing = list(dict.fromkeys(t for t in texts if t not in self._fixed and t not in self._known))
        for text, vector in zip(missing, self._vectors(missing), strict=True):
            self._known[text] = vector
        found = []
        for text in texts:
            if text in self._fixed:
                found.append(self._fixed[text])
            else:
                self._known.move_to_end(text)
                found.append(self._known[text])
        while len(self._known) > REMEMBERED_MAX:
            self._known.popitem(last=False)
        return found

    def _vectors(self, texts: Sequence[str]) -> list[array[float]]:
        if self._embeds is None:
            return []
        found: list[array[float]] = []
        for start in range(0, len(texts), BATCH):
            found.extend(self._embeds.vectors([text[:CHARACTERS_MAX] for text in texts[start : start + BATCH]]))
        return found


def rarity_of(texts: Sequence[str]) -> dict[str, float]:
    """How telling each word is: the logarithm of how few of the texts contain it."""
    counts = Counter(word for text in texts for word in set(words(text)))
    return {word: math.log(1 + len(texts) / count) for word, count in counts.items()}


def shared_words(question: str, text: str, rarity: Mapping[str, float]) -> float:
    """The share of the question's telling words, by weight, that the text contains; 0 to 1."""
    rare = max(rarity.values(), default=1.0)
    asked = set(words(question))
    total = sum(rarity.get(word, rare) for word in asked)
    common = sum(rarity.get(word, rare) for word in asked & set(words(text)))
    return common / total if total else 0.0


def words(text: str) -> list[str]:
    """The telling words in a plain form: lower case, without endings that only bend them."""
    return [_stem(word) for word in WORD.findall(text.lower()) if word not in STOP_WORDS]


def _stem(word: str) -> str:
    for ending in ("ies", "ing", "ed", "es", "s"):
        if word.endswith(ending) and len(word) - len(ending) >= 3:
            return word[: -len(ending)] + ("y" if ending == "ies" else "")
    return word.removesuffix("e") if len(word) > 4 else word


def _read(cache: Path) -> bytes:
    try:
        return cache.read_bytes()
    except OSError:
        return b""


def _write(cache: Path, data: bytes) -> None:
    temporary = cache.with_name(f"{cache.name}.new")
    try:
        cache.parent.mkdir(parents=True, exist_ok=True)
        temporary.write_bytes(data)
        temporary.replace(cache)
    except OSError:
        # A read-only folder costs some seconds at each start and nothing else.
        temporary.unlink(missing_ok=True)
