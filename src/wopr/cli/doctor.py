"""`wopr doctor`: the checks of `wopr check`, and mending what a program may mend without asking."""

import asyncio
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated

import typer

from wopr.cli import output
from wopr.cli.output import (
    REFUSED,
    DryRunOption,
    ExitCodeOption,
    JsonOption,
    ProgressKind,
    ProgressOption,
    good,
    nothing_to_do,
    say,
)

if TYPE_CHECKING:
    from wopr.ops.checks import Outcome

EXAMPLES = "Examples: wopr doctor | wopr doctor --fix | wopr doctor --lint"


def doctor(
    fix: Annotated[
        bool, typer.Option("--fix", help="Mend what can be mended; files are kept as they were first.")
    ] = False,
    lint: Annotated[bool, typer.Option("--lint", help="Exit code 3 for warnings too: for CI.")] = False,
    dry_run: DryRunOption = False,
    progress: ProgressOption = ProgressKind.AUTO,
    exit_code: ExitCodeOption = False,
    as_json: JsonOption = False,
) -> None:
    """Find what is wrong with this installation, and with --fix mend it. Exit code 3 when something is left."""
    from wopr.cli.check import write
    from wopr.cli.checking import look, meant
    from wopr.ops.checks import Verdict

    stages, where = output.progress(progress, as_json=as_json), meant("", "", "")
    with stages.stage("", "checks", keep=False):
        outcomes = asyncio.run(look("", where))
    mendable = [o for o in outcomes if o.finding.mend is not None]
    mended: list[dict[str, str]] = []
    if fix and mendable and not dry_run:
        with stages.stage("", "mend", keep=False):
            mended = _mend(mendable)
        with stages.stage("", "checks again", keep=False):
            outcomes = asyncio.run(look("", where))
    would = [o.name for o in mendable] if dry_run else []
    write(outcomes, as_json=as_json, mended=mended, would_mend=would)
    if not as_json:
        for done in mended:
            say(f"{good('mended')} {done['check']}: {done['did']}")
        for name in would:
            say(f"would mend {name}")
        if mendable and not fix and not dry_run:
            say(f"{len(mendable)} of these can be mended: wopr doctor --fix")
    bad = {Verdict.FAILED, Verdict.WARNING} if lint else {Verdict.FAILED}
    if any(o.finding.verdict in bad for o in outcomes):
        raise typer.Exit(REFUSED)
    if not mendable:
        nothing_to_do(exit_code)


def _mend(mendable: "Sequence[Outcome]") -> list[dict[str, str]]:
    from wopr.core.settings import load_settings
    from wopr.ops.journal import Journal

    journal = Journal(load_settings().wopr_home)
    mended = []
    for outcome in mendable:
        with journal.operation("doctor.fix", check=outcome.name, found=outcome.finding.evidence) as operation:
            assert outcome.finding.mend is not None
            did = outcome.finding.mend()
            operation.outcome["did"] = did
        mended.append({"check": outcome.name, "did": did})
    return mended
