"""What a person would tick off, as functions that prove it: a check returns findings with evidence and remedy."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from enum import StrEnum

CHECK_SECONDS_MAX = 15.0


class Verdict(StrEnum):
    """How a check ended, from good to bad."""

    OK = "ok"
    SKIPPED = "skipped"
    WARNING = "warning"
    FAILED = "failed"


@dataclass(frozen=True)
class Finding:
    """What one check saw. `evidence` is what was observed, `remedy` a command or sentence that mends it.

    `mend` does the remedy where a program may do it without asking; it returns what it did.
    """

    verdict: Verdict
    evidence: str
    remedy: str = ""
    mend: Callable[[], str] | None = None


@dataclass(frozen=True)
class Check:
    """One line of the checklist: a stable name, what it proves, and the function that looks."""

    name: str
    proves: str
    look: Callable[[], Awaitable[Finding]]


@dataclass(frozen=True)
class Outcome:
    """A check with what it found."""

    name: str
    proves: str
    finding: Finding


def ok(evidence: str) -> Finding:
    return Finding(Verdict.OK, evidence)


def skipped(evidence: str) -> Finding:
    return Finding(Verdict.SKIPPED, evidence)


def warning(evidence: str, remedy: str) -> Finding:
    return Finding(Verdict.WARNING, evidence, remedy)


def failed(evidence: str, remedy: str, mend: Callable[[], str] | None = None) -> Finding:
    return Finding(Verdict.FAILED, evidence, remedy, mend)


async def run_checks(checks: Sequence[Check]) -> Sequence[Outcome]:
    """Run them side by side, each within its time; one that breaks is a failed check, never a crash of the others."""
    return await asyncio.gather(*(_outcome(check) for check in checks))


async def _outcome(check: Check) -> Outcome:
    try:
        async with asyncio.timeout(CHECK_SECONDS_MAX):
            finding = await check.look()
    except TimeoutError:
        finding = failed(
            f"no answer within {CHECK_SECONDS_MAX:.0f} s", "Is the service that it asks overloaded or away?"
        )
    except Exception as error:  # noqa: BLE001 - the outermost handler of a check: what broke is the evidence
        finding = failed(f"{type(error).__name__}: {error}", "See the evidence; the check itself could not finish.")
    return Outcome(check.name, check.proves, finding)
