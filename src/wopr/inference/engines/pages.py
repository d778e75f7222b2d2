"""The customer handbook as passages: a question, other ways to ask it, and the answer.

A page is markdown: `## Question`, optionally a line `also: other, wordings`, then the answer's paragraphs. The pages
are part of the package, so that the engine has them wherever it runs.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import resources
from importlib.resources.abc import Traversable

PAGES_FOLDER = "handbook_pages"
VECTORS_FILE = "vectors.bin"
ALSO = "also:"


@dataclass(frozen=True)
class Passage:
    """One section: `question` and `also` are what people ask, `answer` is what is said to it."""

    question: str
    also: tuple[str, ...]
    answer: str

    @property
    def wordings(self) -> tuple[str, ...]:
        """Every text by which the passage may be found; of the answer its first sentence, which says the most."""
        return (self.question, *self.also, self.answer.partition(". ")[0])


def read_handbook() -> list[Passage]:
    """Every passage of the packaged pages, in the order of their file names."""
    return [passage for page in _files() for passage in parse_page(page.read_text(encoding="utf-8"))]


def parse_page(markdown: str) -> list[Passage]:
    """The passages of one page; text before the first `## ` is the page's title and is left out."""
    passages = []
    for section in markdown.split("\n## ")[1:]:
        question, _, body = section.partition("\n")
        lines = body.strip().splitlines()
        also: tuple[str, ...] = ()
        if lines and lines[0].startswith(ALSO):
            also = tuple(word.strip() for word in lines[0].removeprefix(ALSO).split(",") if word.strip())
            lines = lines[1:]
        passages.append(Passage(question.strip(), also, "\n".join(lines).strip()))
    return passages


def wordings_of(passages: Sequence[Passage]) -> list[str]:
    """Every text by which some passage may be found, each once, in a fixed order."""
    return list(dict.fromkeys(text for passage in passages for text in passage.wordings))


def packaged_vectors() -> bytes:
    """The file of the wordings' vectors that comes with the pages; empty when there is none."""
    file = resources.files("wopr.inference.engines") / PAGES_FOLDER / VECTORS_FILE
    return file.read_bytes() if file.is_file() else b""


def fingerprint(texts: Sequence[str], model: str) -> str:
    """Names a set of texts under one model, so that kept vectors are never taken for those of other texts."""
    return hashlib.sha256("\0".join([model, *texts]).encode()).hexdigest()[:32]


def _files() -> list[Traversable]:
    folder = resources.files("wopr.inference.engines") / PAGES_FOLDER
    return sorted((file for file in folder.iterdir() if file.name.endswith(".md")), key=lambda file: file.name)
