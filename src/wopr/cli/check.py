"""`wopr check`: the preflight checks, each with evidence and remedy."""

import asyncio
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated

import typer

from wopr.cli import output
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
    from wopr.ops.journal import Journal

EXAMPLES = "Examples: wopr check | wopr check --only settings | wopr check --go-live --host root@api.example.com"


def check(
    only: Annotated[str, typer.Option(help="Only checks whose name begins so.")] = "",
    go_live: Annotated[bool, typer.Option("--go-live", help="Also tell whether the platform may go live.")] = False,
    folder: Annotated[
        str, typer.Option("--dir", help="Folder of an installation; default: the one of this machine.")
    ] = "",
    host: Annotated[str, typer.Option("--host", help="Its machine, user@name[:port], by SSH; empty: this one.")] = "",
    name: Annotated[str, typer.Option("--name", help="Its name on a shared engine; default: wopr.")] = "",
    progress: ProgressOption = ProgressKind.AUTO,
    as_json: JsonOption = False,
) -> None:
    """Prove that this installation is sound. Exit code 3 when a check fails."""
    from wopr.cli.checking import journal_of, look, meant
    from wopr.ops.checks import Verdict

    where = meant(folder, host, name)

    if go_live and only:
        raise typer.BadParameter("looks at everything; leave --only out.", param_hint="--go-live")
    with output.progress(progress, as_json=as_json).stage(host, "checks", keep=False):
        outcomes = asyncio.run(look(only, where))
    if not outcomes:
        output.fail(f"No check is named {only!r}.", remedy="wopr check --json lists every name.", code=output.USAGE)
    if not only:
        observe_checks(journal_of(where), [_as_json(outcome) for outcome in outcomes])
    if go_live:
        raise typer.Exit(write_go_live(journal_of(where), outcomes, as_json=as_json))
    write(outcomes, as_json=as_json)
    if any(o.finding.verdict is Verdict.FAILED for o in outcomes):
        raise typer.Exit(REFUSED)


def write_go_live(journal: "Journal", outcomes: "Sequence[Outcome]", *, as_json: bool) -> int:
    """The checks, then the go-live list and what stands against it; the exit code: 0 when nothing does."""
    from wopr.ops.logbook.checklist import blockers, checklist, known_from, with_checks

    entries = journal.read() if journal.path.exists() else []
    seen = with_checks(known_from(entries), [_as_json(outcome) for outcome in outcomes])
    items, standing = checklist(seen), blockers(seen)
    ready = all(item.done for item in items) and not standing
    if as_json:
        listed = {"go_live": ready, "checklist": items, "blockers": standing}
        write(outcomes, as_json=True, **{name: _plain(value) for name, value in listed.items()})
        return 0 if ready else REFUSED
    write(outcomes, as_json=False)
    say()
    for item in items:
        mark = good("✓") if item.done else bad("✗")
        say(f"  {mark} {item.says}{dim(f' — {item.evidence}') if item.evidence else ''}")
    for one in standing:
        write_error(f"  {bad(one.severity)} {one.name}: {one.says}")
    say()
    left = sum(not item.done for item in items)
    result("ready to go live" if ready else f"not ready to go live: {left} of the list open, {len(standing)} blockers")
    return 0 if ready else REFUSED


def _plain(value: object) -> object:
    from dataclasses import asdict

    return [asdict(one) for one in value] if isinstance(value, list) else value


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
