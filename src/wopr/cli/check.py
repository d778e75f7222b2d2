"""`wopr check`: the preflight checks, each with evidence and remedy."""

import asyncio
import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from wopr.cli import output
from wopr.cli.installation import DIR
from wopr.cli.observing import observe_checks
from wopr.cli.output import (
    REFUSED,
    JsonOption,
    ProgressKind,
    ProgressOption,
    bad,
    dim,
    good,
    json_document,
    result,
    say,
    warn,
    write_error,
)

if TYPE_CHECKING:
    from wopr.ops.checks import Outcome

EXAMPLES = "Examples: wopr check | wopr check --only settings | wopr check --only env --dir /root/wopr-platform"


def check(
    only: Annotated[str, typer.Option(help="Only checks whose name begins so.")] = "",
    folder: Annotated[
        str,
        typer.Option("--dir", help="Installation whose .env is checked; default: the one of this machine."),
    ] = "",
    progress: ProgressOption = ProgressKind.AUTO,
    as_json: JsonOption = False,
) -> None:
    """Prove that this installation is sound. Exit code 3 when a check fails."""
    from wopr.ops.checks import Verdict

    with output.progress(progress, as_json=as_json).stage("", "checks", keep=False):
        outcomes = asyncio.run(run_all(only, folder))
    if not outcomes:
        output.fail(f"No check is named {only!r}.", remedy="wopr check --json lists every name.", code=output.USAGE)
    write(outcomes, as_json=as_json)
    if not only:
        observe_checks([_as_json(outcome) for outcome in outcomes])
    if any(o.finding.verdict is Verdict.FAILED for o in outcomes):
        raise typer.Exit(REFUSED)


def write(outcomes: "Sequence[Outcome]", *, as_json: bool, **more: object) -> None:
    """The outcomes as lines with their remedies and a summary, or as one document with `more` beside them."""
    from wopr.ops.checks import Verdict

    if as_json:
        sound = all(o.finding.verdict is not Verdict.FAILED for o in outcomes)
        json_document({"ok": sound, "checks": [_as_json(o) for o in outcomes], **more})
        return
    _write_lines(outcomes)
    counts = {v: sum(o.finding.verdict is v for o in outcomes) for v in Verdict}
    say()
    result(", ".join(f"{count} {verdict}" for verdict, count in counts.items() if count))


async def run_all(only: str, folder: str = "") -> "Sequence[Outcome]":
    """Every check whose name begins with `only`: of the settings, of an installation's `.env`, of what runs."""
    from wopr.cli.livechecks import LiveChecks
    from wopr.core.settings import load_settings
    from wopr.delivery.checks import checks as environment
    from wopr.delivery.hosts import LocalHost
    from wopr.delivery.place import Place
    from wopr.ops.checks import run_checks
    from wopr.ops.preflight import checks as preflight

    settings = load_settings()
    wanted = [c for c in preflight(settings) if c.name.startswith(only)]
    if installation := _installation(folder, settings.wopr_home):
        wanted += [c for c in environment(LocalHost(), Place(installation)) if c.name.startswith(only)]
    live = LiveChecks(settings)
    try:
        return await run_checks([*wanted, *(c for c in live.checks() if c.name.startswith(only))])
    finally:
        await live.close()


def _installation(given: str, home: Path) -> str:
    """The folder on this machine whose `.env` is meant: the one that was given, else the first that has one."""
    if given:
        return str(Path(given).expanduser().resolve())
    return next((str(folder) for folder in (home, Path(DIR)) if os.access(folder / ".env", os.R_OK)), "")


def _as_json(outcome: "Outcome") -> dict[str, str]:
    finding = outcome.finding
    return {
        "name": outcome.name,
        "proves": outcome.proves,
        "verdict": finding.verdict.value,
        "evidence": finding.evidence,
        "remedy": finding.remedy,
    }


def _write_lines(outcomes: "Sequence[Outcome]") -> None:
    marks = {"ok": good("✓"), "skipped": dim("–"), "warning": warn("!"), "failed": bad("✗")}
    for outcome in outcomes:
        finding = outcome.finding
        # --progress quiet leaves out what is well, never what failed.
        if finding.verdict.value == "failed" and output.tells_json():
            output.complain(f"{outcome.name}: {finding.evidence}", remedy=finding.remedy)
            continue
        write = write_error if finding.verdict.value == "failed" else say
        write(f"  {marks[finding.verdict.value]} {outcome.name:<26} {finding.evidence}")
        if finding.remedy:
            write(f"      fix: {finding.remedy}")
