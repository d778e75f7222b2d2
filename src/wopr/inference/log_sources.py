"""Whose log lines of a node can be read, and how many at once."""

from enum import StrEnum

LINES, LINES_MAX = 100, 10_000


class Source(StrEnum):
    """Whose lines: a service's, or those that were written while the machine was made a node."""

    MAKING = "making"
    LLAMA = "llama"
    CHATTERBOX = "chatterbox"
    WHISPER = "whisper"
    QWEN = "qwen"
