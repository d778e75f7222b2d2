"""`wopr nodes cordon|drain|uncordon|repair|ssh-key`: what an operator does to a node that is there."""

import time
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated, Any

import typer

from wopr.cli import output
from wopr.cli.nodes_rows import journal as _journal
from wopr.cli.nodes_rows import run as _run
from wopr.cli.nodes_rows import say_result as _say
from wopr.cli.output import (
    DryRunOption,
    ExitCodeOption,
    JsonOption,
    ProgressKind,
    ProgressOption,
    YesOption,
    confirm,
    fail,
    json_document,
    nothing_to_do,
    result,
    say,
)

if TYPE_CHECKING:
    from sqlalchemy.ext.asyncio import AsyncSession

    from wopr.inference.nodes import Node

app = typer.Typer()
NodeArgument = Annotated[str, typer.Argument(help="The node's id, such as gpu-1.")]
DRAIN_SECONDS = 1800
LOOK_SECONDS = 1.0


class Rung(StrEnum):
    """What can be done for a node, the mildest first."""

    RESTART = "restart"
    REBOOT = "reboot"
    POWER_CYCLE = "power-cycle"
    REPLACE = "replace"


@app.command("cordon", epilog="Example: wopr nodes cordon gpu-1")
def cordon(
    node_id: NodeArgument,
    dry_run: DryRunOption = False,
    exit_code: ExitCodeOption = False,
    as_json: JsonOption = False,
) -> None:
    """Send a node no new requests. What runs there may end; it is not repaired by itself."""
    _want(node_id, "cordoned", dry_run=dry_run, exit_code=exit_code, as_json=as_json)


@app.command("uncordon", epilog="Example: wopr nodes uncordon gpu-1")
def uncordon(
    node_id: NodeArgument,
    dry_run: DryRunOption = False,
    exit_code: ExitCodeOption = False,
    as_json: JsonOption = False,
) -> None:
    """Have a node back that was cordoned or drained: it gets requests as soon as its services are well."""
    _want(node_id, "serving", dry_run=dry_run, exit_code=exit_code, as_json=as_json)


@app.command("drain", epilog="Examples: wopr nodes drain gpu-1 | wopr nodes drain gpu-1 --wait 0")
def drain(
    node_id: NodeArgument,
    wait: Annotated[int, typer.Option(min=0, help="Seconds to wait until nothing runs there.")] = DRAIN_SECONDS,
    progress: ProgressOption = ProgressKind.AUTO,
    dry_run: DryRunOption = False,
    exit_code: ExitCodeOption = False,
    as_json: JsonOption = False,
) -> None:
    """Send a node no new requests, and wait until those that run there have ended. Ctrl-C leaves it draining."""
    stages = output.progress(progress, as_json=as_json)
    news = _wanted(node_id, "drained", dry_run=dry_run)
    node = _look(node_id)
    if wait and not dry_run:
        with stages.stage("", f"drain {node_id}", keep=False) as stage:
            end = time.monotonic() + wait
            while not _told(node)["drained"] and time.monotonic() < end:
                stage.update(0, _told(node)["running"] or None)
                time.sleep(LOOK_SECONDS)
                node = _look(node_id)
    told = _told(node)
    if as_json:
        json_document({"node": node_id, "changed": news, "dry_run": dry_run, **told})
    elif dry_run:
        result(f"would drain {node_id}" if news else f"nothing to do: {node_id} is drained or being drained already")
    elif told["drained"]:
        result(f"{node_id} is drained: nothing runs there")
    elif not wait:
        result(f"{node_id} gets no new requests; `wopr nodes list` shows when it is drained")
    else:
        running = "an unknown number of" if told["running"] is None else told["running"]
        fail(
            f"{node_id} is not drained after {wait} s: {running} requests run there.",
            remedy=f"Wait on with `wopr nodes drain {node_id}`. Is an API running? It counts them.",
        )
    if not news:
        nothing_to_do(exit_code)


@app.command("repair", epilog="Examples: wopr nodes repair gpu-1 | wopr nodes repair gpu-1 --rung reboot --yes")
def repair(
    node_id: NodeArgument,
    rung: Annotated[Rung, typer.Option(help="restart (its services), reboot, power-cycle or replace.")] = Rung.RESTART,
    yes: YesOption = False,
    dry_run: DryRunOption = False,
    as_json: JsonOption = False,
) -> None:
    """Repair a node now, whether or not it works. The API does it within seconds; `wopr nodes list` shows how far."""
    from wopr.core.ids import NodeId
    from wopr.inference import care
    from wopr.inference.repair_state import Rung as Meant

    meant = Meant(rung.value.replace("-", "_"))
    if dry_run:
        _look(node_id)
        _say({"node": node_id, "rung": meant.value, "dry_run": True}, f"would {rung} {node_id}", as_json=as_json)
        return
    if rung is not Rung.RESTART:
        confirm(f"{rung.value.capitalize()} {node_id}? Requests that run there get 15 seconds to end.", yes=yes)

    async def ask(session: "AsyncSession") -> "Node":
        return await care.ask_repair(session, NodeId(node_id), meant)

    with _journal("nodes.repair", node=node_id, rung=meant.value):
        _run(ask)
    _say({"node": node_id, "rung": meant.value}, f"{rung} of {node_id} begins within seconds", as_json=as_json)


@app.command("ssh-key", epilog="Example: wopr nodes ssh-key --json")
def ssh_key(as_json: JsonOption = False) -> None:
    """Show the line for root's authorized_keys with which a node that was registered by hand lets itself be repaired.

    It allows restarts and logs of the four services and nothing else. Rented nodes have the key already.
    """
    from wopr.core.settings import load_settings
    from wopr.inference.errands import authorized_key
    from wopr.inference.identity import ensure_identity

    async def key(session: "AsyncSession") -> str:
        return (await ensure_identity(session, load_settings())).public_key

    line = authorized_key(_run(key))
    if as_json:
        json_document({"authorized_key": line})
        return
    result(line)
    say("Append it on the node: /root/.ssh/authorized_keys")


def _want(node_id: str, desired: str, *, dry_run: bool, exit_code: bool, as_json: bool) -> None:
    news = _wanted(node_id, desired, dry_run=dry_run)
    words = {"cordoned": "gets no new requests", "serving": "gets requests as soon as its services are well"}[desired]
    if dry_run:
        text = f"would have {node_id} {desired}" if news else f"nothing to do: {node_id} is {desired} already"
    else:
        text = f"{node_id} {words}" if news else f"nothing to do: {node_id} is {desired} already"
    _say({"node": node_id, "desired": desired, "changed": news, "dry_run": dry_run}, text, as_json=as_json)
    if not news:
        nothing_to_do(exit_code)


def _wanted(node_id: str, desired: str, *, dry_run: bool) -> bool:
    """Want it; whether that is news."""
    from wopr.core.ids import NodeId
    from wopr.inference import care

    before = _look(node_id)
    if dry_run or before.desired == desired:
        return before.desired != desired

    async def want(session: "AsyncSession") -> bool:
        return (await care.want(session, NodeId(node_id), desired))[1]

    with _journal("nodes.want", node=node_id, desired=desired):
        return _run(want)


def _told(node: "Node") -> dict[str, Any]:  # what json can write
    from wopr.inference.repair_state import repair_of

    kept = repair_of(node)
    return {"drained": kept.drained_at is not None, "running": kept.running}


def _look(node_id: str) -> "Node":
    """The node; NotFound."""
    from wopr.core.ids import NodeId
    from wopr.inference import nodes

    return _run(lambda session: nodes.get(session, NodeId(node_id)))
