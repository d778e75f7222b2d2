"""`wopr trigger`: makes the stand-ins act as customers, banks, the passing of time and broken machines do."""

import contextlib
import signal
from collections.abc import Iterator, Sequence
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated, Any

import typer

from wopr.cli import output
from wopr.cli.output import (
    USAGE,
    DryRunOption,
    JsonOption,
    ProgressKind,
    ProgressOption,
    fail,
    json_document,
    result,
    say,
)

if TYPE_CHECKING:
    import psutil

_TIMEOUT_SECONDS = 30.0


class Service(StrEnum):
    """An inference service of this machine's node."""

    LLAMA = "llama"
    CHATTERBOX = "chatterbox"
    WHISPER = "whisper"
    QWEN = "qwen"


class Fault(StrEnum):
    """What can befall a service of the node, and how it gets over it."""

    HANG = "hang"
    KILL = "kill"
    RECOVER = "recover"


# What each does, as a signal to the service's process group, and how that is told.
_FAULTS = {
    Fault.HANG: (signal.SIGSTOP, "hangs: it takes connections and answers nothing", "wopr trigger node recover"),
    Fault.KILL: (signal.SIGKILL, "was killed; `wopr up` starts it again", ""),
    Fault.RECOVER: (signal.SIGCONT, "goes on", ""),
}

app = typer.Typer(
    no_args_is_help=True,
    rich_markup_mode=None,
    help="Make a stand-in act: a customer pays, a month passes, an engine hangs. Never touches the real companies.",
    epilog="Examples: wopr trigger stripe checkout.session.completed | wopr trigger clock --days 31 | "
    "wopr trigger node hang",
)

UrlOption = Annotated[str, typer.Option(help="Address of the Stripe stand-in; empty: STRIPE_API_BASE or port 4101.")]


@app.command("stripe", epilog="Example: wopr trigger stripe charge.refunded --amount 500")
def stripe_command(
    event: Annotated[str, typer.Argument(help="The event that shall happen; leave out to list them.")] = "",
    target: Annotated[str, typer.Option(help="Id of the object; empty: the newest that fits.")] = "",
    amount: Annotated[int, typer.Option(help="Cents, where an amount matters; 0: all of it.", min=0)] = 0,
    outcome: Annotated[str, typer.Option(help="won or lost, for charge.dispute.closed.")] = "lost",
    url: UrlOption = "",
    dry_run: DryRunOption = False,
    progress: ProgressOption = ProgressKind.AUTO,
    as_json: JsonOption = False,
) -> None:
    """Make the Stripe stand-in cause an event, with everything that belongs to it."""
    if not event:
        known = _ask(url, "GET", "/_emulator/triggers", None)
        if as_json:
            json_document(known)
        else:
            for name in known["triggers"]:
                result(name)
        return
    if outcome not in ("won", "lost"):
        fail(f"--outcome is won or lost, not {outcome}.", code=USAGE)
    wish = {"event": event, "target": target or None, "amount": amount or None, "outcome": outcome, "dry_run": dry_run}
    stages = output.progress(progress, as_json=as_json)
    with stages.stage("", event, keep=False), _journal("trigger.stripe", dry_run=dry_run, event=event, target=target):
        done = _ask(url, "POST", "/_emulator/trigger", wish)
    if as_json:
        json_document(done)
        return
    if dry_run:
        say("Nothing was changed; these events would happen. Ids are examples: what is made then gets others.")
    for caused in done["events"]:
        about = caused["object"] or ""
        result(f"{caused['type']}  {f'for example {about}' if dry_run and about else about}".rstrip())


@app.command("clock", epilog="Example: wopr trigger clock --days 31")
def clock_command(
    days: Annotated[int, typer.Option(help="Days by which the stand-in's clock moves on.", min=0)] = 0,
    seconds: Annotated[int, typer.Option(help="Seconds by which it moves on.", min=0)] = 0,
    url: UrlOption = "",
    dry_run: DryRunOption = False,
    progress: ProgressOption = ProgressKind.AUTO,
    as_json: JsonOption = False,
) -> None:
    """Move the Stripe stand-in's clock on; renewals, retries and expiries in between happen."""
    if not days and not seconds:
        fail("Say by how much: --days or --seconds.", code=USAGE)
    stages = output.progress(progress, as_json=as_json)
    with (
        stages.stage("", "move the clock", keep=False),
        _journal("trigger.clock", dry_run=dry_run, days=days, seconds=seconds),
    ):
        moved = _ask(url, "POST", "/_emulator/advance", {"days": days, "seconds": seconds, "dry_run": dry_run})
    if as_json:
        json_document(moved)
        return
    if dry_run:
        say(f"Nothing was changed; {moved['steps']} things would happen on the way.")
    else:
        say(f"The clock is {moved['offset_seconds']} s ahead now; {moved['steps']} things happened on the way.")


@app.command(
    "node",
    epilog="Examples: wopr trigger node hang | wopr trigger node kill --service llama | wopr trigger node recover",
)
def node_command(
    fault: Annotated[Fault, typer.Argument(help="hang, kill, or recover from a hang.")],
    service: Annotated[
        list[Service] | None, typer.Option(help="Which service; may be repeated. Default: all four.")
    ] = None,
    dry_run: DryRunOption = False,
    progress: ProgressOption = ProgressKind.AUTO,
    as_json: JsonOption = False,
) -> None:
    """Make inference services of this machine hang or die as on a broken node, or go on; needs a running `wopr up`."""
    from wopr.cli.supervisor import signal_group

    number, told, way_back = _FAULTS[fault]
    output.progress(progress, as_json=as_json)
    wanted = [each.value for each in service or Service]
    hit = _living(wanted)
    with _journal(f"trigger.node.{fault}", dry_run=dry_run, services=wanted):
        for process in () if dry_run else hit.values():
            signal_group(process.pid, number)
    if as_json:
        services = [{"name": name, "pid": process.pid} for name, process in hit.items()]
        json_document({"fault": fault.value, "services": services, "dry_run": dry_run})
        return
    if dry_run:
        say("Nothing was changed; this would happen.")
    for name, process in hit.items():
        result(f"{name} (pid {process.pid}) {told}")
    if way_back and not dry_run:
        say(f"To end it: {way_back}")


def _living(wanted: Sequence[str]) -> "dict[str, psutil.Process]":
    """The wanted services as `wopr up` runs them now; fails when one does not run."""
    from wopr.cli.supervisor import RunFile
    from wopr.core.settings import load_settings

    record = RunFile(load_settings().wopr_home)
    if record.running() is None:
        fail(f"`wopr up` does not run on {record.home}; only its services can be made to fail.", remedy="wopr up")
    found = {name: record.child(name) for name in wanted}
    if gone := [name for name, process in found.items() if process is None]:
        fail(f"Not running at this moment: {', '.join(gone)}.", remedy="wopr status  shows when it is back")
    return {name: process for name, process in found.items() if process is not None}


@contextlib.contextmanager
def _journal(name: str, *, dry_run: bool, **data: str | int | Sequence[str]) -> Iterator[None]:
    """Record what is changed; a rehearsal changes nothing."""
    if dry_run:
        yield
        return
    from wopr.core.settings import load_settings
    from wopr.ops.journal import Journal

    with Journal(load_settings().wopr_home).operation(name, **data):
        yield


def _ask(url: str, method: str, path: str, body: dict[str, Any] | None) -> dict[str, Any]:  # JSON of the stand-in
    import httpx

    address = url or _address()
    try:
        answer = httpx.request(
            method, f"{address.rstrip('/')}{path}", json=body, timeout=_TIMEOUT_SECONDS, trust_env=False
        )
    except httpx.HTTPError as error:
        fail(f"The Stripe stand-in does not answer at {address}: {error}.", remedy="wopr up")
    parsed: dict[str, Any] = answer.json() if "json" in answer.headers.get("content-type", "") else {}
    if answer.status_code >= 400:
        words = parsed.get("error", {}).get("message") or f"HTTP {answer.status_code}"
        fail(f"The Stripe stand-in refused: {words}", remedy="wopr trigger stripe  lists what it can do")
    return parsed


def _address() -> str:
    """The stand-in's address from the settings; the real Stripe is never asked."""
    from wopr.core.settings import load_settings

    base = load_settings().stripe_api_base
    return base if "stripe.com" not in base else "http://127.0.0.1:4101"
