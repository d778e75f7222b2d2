"""`wopr incident`: what went wrong, told while it lasts and learnt from afterwards."""

from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Annotated, Any

import typer

from wopr.cli.logbook import DirOption, journal_in
from wopr.cli.options import shared
from wopr.cli.output import (
    DryRunOption,
    ExitCodeOption,
    JsonOption,
    bad,
    fail,
    good,
    json_document,
    nothing_to_do,
    result,
    say,
    table,
    warn,
)

if TYPE_CHECKING:
    from wopr.ops.incidents import Incident

app = typer.Typer(help="Open, tell and resolve incidents.", no_args_is_help=True, rich_markup_mode=None)

NameArgument = Annotated[str, typer.Argument(help="The incident: INC-0007, 7, or the beginning of its id.")]


@dataclass(frozen=True)
class Analysis:
    """What is known of an incident beyond its timeline."""

    root_cause: Annotated[str, typer.Option(help="Why it happened.")] = ""
    impact: Annotated[str, typer.Option(help="Whom it hit, and how.")] = ""
    follow_up: Annotated[
        list[str] | None, typer.Option(help="What is to be done so that it doesn't recur; repeat it for more.")
    ] = None

    def facts(self) -> dict[str, Any]:  # whatever json can write
        given = {"root_cause": self.root_cause, "impact": self.impact, "follow_up": list(self.follow_up or ())}
        return {name: value for name, value in given.items() if value}


@app.command("open", epilog="Example: wopr incident open 'Sign-in answers 500' --severity SEV1 --began 20m")
@shared
def open_command(
    title: Annotated[str, typer.Argument(help="What is wrong, in one line.")],
    analysis: Analysis,
    severity: Annotated[str, typer.Option(help="SEV1 (nobody can use it) to SEV4 (no customer notices).")] = "SEV3",
    began: Annotated[str, typer.Option(help="When it began: 20m, or 2026-11-23T17:30; default: now.")] = "",
    by: Annotated[str, typer.Option("--detected-by", help="Who or what noticed.")] = "operator",
    folder: DirOption = None,
    dry_run: DryRunOption = False,
    as_json: JsonOption = False,
) -> None:
    """Open an incident; its number is the result."""
    from wopr.ops.incidents import check_severity, find_incident, open_incident

    journal = journal_in(folder)
    facts = {**analysis.facts(), **_times("began_at", began, "--began")}
    grade = check_severity(severity)
    if dry_run:
        _told({"title": title, "severity": grade, **facts}, "would open", as_json=as_json, dry_run=True)
        return
    incident = find_incident(journal, open_incident(journal, title, grade, by, facts))
    if as_json:
        json_document({**incident.as_json(), "dry_run": False})
        return
    say(f"{good('opened')} {incident.severity} {incident.title}")
    result(incident.name)


@app.command("note", epilog="Example: wopr incident note 7 'Switched the node off' --mitigated")
@shared
def note(
    name: NameArgument,
    text: Annotated[str, typer.Argument(help="What was seen or done.")],
    analysis: Analysis,
    acknowledged: Annotated[bool, typer.Option("--acknowledged", help="Somebody has taken it up.")] = False,
    mitigated: Annotated[
        bool, typer.Option("--mitigated", help="Customers are well again, the cause remains.")
    ] = False,
    severity: Annotated[str, typer.Option(help="The severity from now on.")] = "",
    at: Annotated[str, typer.Option(help="When it happened: 5m, or a time; default: now.")] = "",
    folder: DirOption = None,
    dry_run: DryRunOption = False,
    as_json: JsonOption = False,
) -> None:
    """Add a line to the timeline; root cause and follow-up may also be added after the end."""
    from wopr.ops.incidents import check_severity, find_incident, note_incident

    if acknowledged and mitigated:
        raise typer.BadParameter("choose --acknowledged or --mitigated")
    kind = "acknowledged" if acknowledged else "mitigated" if mitigated else "severity" if severity else "note"
    facts = {**analysis.facts(), **_times("happened_at", at, "--at")}
    if severity:
        facts["severity"] = check_severity(severity)
    journal = journal_in(folder)
    incident = find_incident(journal, name)
    if not dry_run:
        note_incident(journal, incident.id, text, "analysis" if kind == "note" and analysis.facts() else kind, facts)
    told = {"name": incident.name, "kind": kind, "text": text, **facts}
    _told(told, "would note" if dry_run else "noted", as_json=as_json, dry_run=dry_run)


@app.command("resolve", epilog="Example: wopr incident resolve 7 --root-cause 'Disk full' --follow-up 'Alert at 80 %'")
@shared
def resolve(
    name: NameArgument,
    analysis: Analysis,
    text: Annotated[str, typer.Option("--text", help="How it ended.")] = "",
    at: Annotated[str, typer.Option(help="When it was over: 5m, or a time; default: now.")] = "",
    folder: DirOption = None,
    dry_run: DryRunOption = False,
    exit_code: ExitCodeOption = False,
    as_json: JsonOption = False,
) -> None:
    """End an incident. One that is over stays as it is."""
    from wopr.ops.incidents import find_incident, resolve_incident

    facts = {**analysis.facts(), **_times("happened_at", at, "--at")}
    journal = journal_in(folder)
    incident = find_incident(journal, name)
    ended = incident.open if dry_run else resolve_incident(journal, incident.id, text, facts)
    verb = ("would resolve" if dry_run else "resolved") if ended else "nothing to do: it was over already,"
    _told({"name": incident.name, "title": incident.title, **facts}, verb, as_json=as_json, dry_run=dry_run)
    if not ended:
        nothing_to_do(exit_code)


@app.command("list", epilog="Example: wopr incident list --open")
def list_command(
    only_open: Annotated[bool, typer.Option("--open", help="Only those that are not over.")] = False,
    folder: DirOption = None,
    as_json: JsonOption = False,
) -> None:
    """List incidents, newest last, with the mean times."""
    from wopr.ops.incidents import all_incidents
    from wopr.ops.logbook.incidents import mean_times, time_to_resolve
    from wopr.ops.logbook.text import span, when

    every = all_incidents(journal_in(folder))
    rows = [incident for incident in every if incident.open or not only_open]
    means = mean_times(every)
    if as_json:
        json_document({"incidents": [row.as_json() for row in rows], "mean_seconds": means})
        return
    cells = [
        (r.name, r.severity, _state(r), when(r.opened_at), span(time_to_resolve(r)), r.title) for r in rows
    ]  # fmt: skip
    table(("incident", "severity", "state", "opened", "lasted", "what"), cells, "No incident was recorded.")
    if every:
        say("mean: " + ", ".join(f"{name.upper()} {span(seconds)}" for name, seconds in means.items()))


app.command("ls", hidden=True, epilog="Example: wopr incident ls --open")(list_command)


@app.command("show", epilog="Example: wopr incident show 7")
def show(name: NameArgument, folder: DirOption = None, as_json: JsonOption = False) -> None:
    """Show one incident with its timeline."""
    from wopr.ops.incidents import find_incident
    from wopr.ops.logbook.text import facts, when

    incident = find_incident(journal_in(folder), name)
    if as_json:
        json_document(incident.as_json())
        return
    say(f"{incident.name} {incident.severity} {_state(incident)}: {incident.title}")
    for label, told in (("impact", incident.impact), ("root cause", incident.root_cause)):
        say(f"  {label}: {told or 'not written yet'}")
    for each in incident.follow_up:
        say(f"  follow-up: {each}")
    say(facts(incident.facts, ("impact", "root_cause")).replace("- ", "  ").rstrip())
    table(("time", "kind", "what", "by"), [(when(m.at), m.kind, m.text, m.actor) for m in incident.timeline], "")


def _state(incident: "Incident") -> str:
    return bad("open") if incident.open and incident.severity in ("SEV1", "SEV2") else (
        warn("open") if incident.open else "resolved"
    )  # fmt: skip


def _times(field: str, text: str, option: str) -> dict[str, str]:
    """A moment given by a person, as the journal writes it; nothing when none was given."""
    if not text:
        return {}
    from datetime import UTC

    from wopr.cli.moments import moment

    when: datetime = moment(text, option)
    if when > datetime.now(UTC):
        fail(f"{text!r} is in the future.", remedy=f"Give {option} a moment that is past.", code=2)
    return {field: when.astimezone(UTC).isoformat(timespec="milliseconds")}


def _told(document: dict[str, Any], verb: str, *, as_json: bool, dry_run: bool) -> None:
    if as_json:
        json_document({**document, "dry_run": dry_run})
        return
    say(f"{good(verb)} {', '.join(str(value) for name, value in document.items() if name != 'follow_up')}")
