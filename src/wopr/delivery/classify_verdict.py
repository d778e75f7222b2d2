"""What a statement of a migration does to the data, and to the release that still runs while it is applied."""

from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum


class Kind(StrEnum):
    """From harmless to not: what is only added, what is changed and can be changed back, what is gone for good."""

    ADDS = "adds"
    CHANGES = "changes"
    DESTROYS = "destroys"

    @property
    def rank(self) -> int:
        return list(Kind).index(self)


@dataclass(frozen=True)
class Verdict:
    """`breaks`: the release that runs before it fails on the result, so it can't be applied before the cutover."""

    kind: Kind
    reason: str
    breaks: bool = False


@dataclass(frozen=True)
class Finding:
    """One statement with its verdict."""

    statement: str
    kind: Kind
    reason: str
    breaks: bool = False


def adds(reason: str) -> Verdict:
    return Verdict(Kind.ADDS, reason)


def changes(reason: str, *, breaks: bool = False) -> Verdict:
    return Verdict(Kind.CHANGES, reason, breaks)


def destroys(reason: str) -> Verdict:
    return Verdict(Kind.DESTROYS, reason, True)


def worst(verdicts: list[Verdict]) -> Verdict:
    """The gravest of several, which speaks for all; breaking counts before not breaking."""
    return max(verdicts, key=lambda verdict: (verdict.kind.rank, verdict.breaks))


def worst_kind(findings: Iterable[Finding]) -> Kind:
    """The gravest kind among them; of nothing: adds."""
    return max((finding.kind for finding in findings), key=lambda kind: kind.rank, default=Kind.ADDS)
