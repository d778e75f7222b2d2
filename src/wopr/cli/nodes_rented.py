"""`wopr nodes provision | destroy | retry | reboot | show | sizes`: machines that are rented and become nodes.

Like `wopr nodes list` they work on the database, which is where the API's loop finds what is wanted. Following how far
it is changes nothing: whoever leaves early leaves it to the loop.
"""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any

import typer

from wopr.cli.nodes_door import LOOK_SECONDS, Door, last_line, run, until_gone, until_settled, why
from wopr.cli.nodes_rows import costs, usd
from wopr.cli.options import shared
from wopr.cli.output import (
    FAILED,
    DryRunOption,
    ExitCodeOption,
    JsonOption,
    ProgressKind,
    ProgressOption,
    YesOption,
    complain,
    confirm,
    json_document,
    nothing_to_do,
    progress,
    result,
    say,
    table,
)

if TYPE_CHECKING:
    from sqlalchemy.ext.asyncio import AsyncSession

    from wopr.cli.progress import Progress
    from wopr.inference.nodes import Node
    from wopr.inference.ordering import Plan


NodeArgument = Annotated[str, typer.Argument(help="The node's id, such as gpu-tor1-3f9a2c.")]
WaitOption = Annotated[bool, typer.Option("--wait/--no-wait", help="Follow it to its end.")]


@dataclass(frozen=True)
class Changer:
    """How a command that changes something asks and tells."""

    yes: YesOption = False
    dry_run: DryRunOption = False
    as_json: JsonOption = False
    progress: ProgressOption = ProgressKind.AUTO

    def say(self, document: dict[str, Any], words: str) -> None:
        """The command's result."""
        if self.as_json:
            json_document(document)
        else:
            result(words)


@shared
def provision(
    how: Changer,
    region: Annotated[str, typer.Option(help="Where; default: GPU_REGION.")] = "",
    size: Annotated[str, typer.Option(help="What, as `wopr nodes sizes` lists it; default: GPU_SIZE.")] = "",
    count: Annotated[int, typer.Option(min=1, help="How many.")] = 1,
    wait: WaitOption = True,
) -> None:
    """Rent machines and make nodes of them. The price is shown first; the API's loop does the work, in any order."""
    plan = run(lambda door: _plan(door, region, size, count))
    offer = f"{count} × {plan.size.slug} in {plan.region} ({_what(plan)})"
    cost = _cost(plan, count)
    document = {"nodes": list(plan.node_ids), "size": plan.size.slug, "region": plan.region, **cost}
    words = f"{offer}: ${cost['hourly_usd']} an hour, at most ${cost['monthly_usd']} a month"
    if how.dry_run:
        how.say({**document, "dry_run": True}, f"would rent {words}")
        return
    confirm(f"Rent {words}?", yes=how.yes)
    stages = progress(how.progress, as_json=how.as_json)
    with _journal("nodes.provision", nodes=", ".join(plan.node_ids), size=plan.size.slug, region=plan.region):
        run(lambda door: _add(door, plan))
    if not wait:
        how.say(document, f"ordered: {', '.join(plan.node_ids)}; how far they are: wopr nodes list")
        return
    _follow_making(plan.node_ids, stages, how, document)


@shared
def retry(node_id: NodeArgument, how: Changer, wait: WaitOption = True) -> None:
    """Make a node again with a new machine; the one before is given back first."""
    from wopr.inference import rented

    node = run(lambda door: _found(door, node_id))
    if how.dry_run:
        how.say({"node": node_id, "dry_run": True}, f"would give back the machine of {node_id} and rent another")
        return
    confirm(
        f"Give back the machine of {node_id} ({node.size}, ${costs(node)['cost_so_far_usd']} so far), rent another?",
        yes=how.yes,
    )
    stages = progress(how.progress, as_json=how.as_json)
    with _journal("nodes.retry", node=node_id):
        run(lambda door: door.write(lambda session: rented.begin_anew(session, node_id, _now())))
    if wait:
        _follow_making([node_id], stages, how, {"nodes": [node_id]})
    else:
        how.say({"nodes": [node_id]}, f"{node_id} is made again; how far it is: wopr nodes show {node_id}")


@shared
def destroy(node_id: NodeArgument, how: Changer, wait: WaitOption = True, exit_code: ExitCodeOption = False) -> None:
    """Give a rented node back to the cloud, and forget it once its machine is gone. Gone already is fine."""
    from wopr.inference import rented

    node = run(lambda door: door.look(node_id))
    if node is None:
        how.say({"destroyed": None}, f"nothing to do: there is no node {node_id}")
        nothing_to_do(exit_code)
        return
    about = f"{node_id} ({node.size} in {node.region}, ${costs(node)['cost_so_far_usd']} so far)"
    if how.dry_run:
        how.say({"node": node_id, "machine": node.making.machine_id, "dry_run": True}, f"would destroy {about}")
        return
    confirm(f"Destroy the machine of {about}, with everything on it?", yes=how.yes)
    stages = progress(how.progress, as_json=how.as_json)
    with _journal("nodes.destroy", node=node_id):
        run(lambda door: door.write(lambda session: rented.give_back(session, node_id, _now())))
    if wait:
        with stages.stage(node_id, "give back", keep=False):
            run(lambda door: until_gone(door, node_id))
    how.say({"destroyed": node_id, "gone": wait}, f"{node_id} is {'gone' if wait else 'being given back'}")


@shared
def reboot(
    node_id: NodeArgument,
    how: Changer,
    hard: Annotated[bool, typer.Option("--hard", help="Cut its power instead of asking its system.")] = False,
) -> None:
    """Restart the machine of a rented node. What it is answering is cut off."""
    node = run(lambda door: _found(door, node_id))
    way = "power-cycle" if hard else "reboot"
    if how.dry_run:
        how.say({"node": node_id, "action": way, "dry_run": True}, f"would {way} {node_id}")
        return
    confirm(f"{way.capitalize()} {node_id} at {node.host}?", yes=how.yes)
    stages = progress(how.progress, as_json=how.as_json)
    with stages.stage(node_id, way, keep=False):
        went = run(lambda door: _reboot(door, node, hard))
    if not went:
        complain(
            f"The {way} of {node_id} failed at the cloud.",
            remedy=f"wopr nodes reboot {node_id} --hard --yes" if not hard else f"wopr nodes retry {node_id}",
        )
        raise typer.Exit(FAILED)
    how.say({"node": node_id, "action": way}, f"{node_id} was restarted; its services come back by themselves")


def show(node_id: NodeArgument, as_json: JsonOption = False) -> None:
    """Show one node: state, costs so far, and every stage of its making."""
    node = run(lambda door: _found(door, node_id))
    making = node.making
    document = {
        **{name: getattr(node, name) for name in ("id", "host", "region", "size", "status", "desired", "provider")},
        "provision_stage": node.provision_stage,
        "provision_error": making.error,
        "last_error": node.last_error,
        "service_health": dict(node.service_health),
        "machine_id": making.machine_id,
        **costs(node),
        "log": [dict(entry) for entry in making.log],
    }
    if as_json:
        json_document(document)
        return
    facts = {name: value for name, value in document.items() if name != "log" and value not in (None, "", {})}
    facts["service_health"] = " ".join(f"{name}:{'ok' if ok else 'down'}" for name, ok in node.service_health.items())
    for name, value in facts.items():
        result(f"{name.replace('_', ' '):<16} {value}")
    if making.log:
        result("")
        rows = [(_clock(entry["at"]), entry["stage"], last_line(entry["detail"])) for entry in making.log]
        table(("at", "stage", "detail"), rows, "")
    if node.provision_stage == "failed":
        say(f"\nTry again: wopr nodes retry {node_id}   give it back: wopr nodes destroy {node_id}")


def sizes(
    gpu: Annotated[bool, typer.Option("--gpu", help="Only what has a GPU.")] = False,
    region: Annotated[str, typer.Option(help="Only what is to be had there.")] = "",
    as_json: JsonOption = False,
) -> None:
    """List what can be rented, the cheapest first, with prices and regions."""
    from wopr.core.money import from_cents
    from wopr.inference.ordering import rentable

    found = run(lambda door: rentable(door.cloud(), gpu_only=gpu))
    rows: list[dict[str, Any]] = [  # whatever json can write
        {
            "size": size.slug,
            "gpu": size.gpu,
            "vcpus": size.vcpus,
            "memory_gib": size.memory_mib // 1024,
            "hourly_usd": usd(size.hourly_nanos),
            "monthly_usd": usd(from_cents(size.monthly_cents)),
            "regions": sorted(size.regions),
        }
        for size in found
        if not region or region in size.regions
    ]
    if as_json:
        json_document({"sizes": rows})
        return
    lines = [(*list(row.values())[:-1], " ".join(row["regions"])) for row in rows]
    headers = ("size", "gpu", "vcpus", "GiB", "$ an hour", "$ a month", "regions")
    table(headers, lines, "Nothing like that can be rented at present.")


def add_to(app: typer.Typer) -> None:
    """Put the commands into `wopr nodes`."""
    for name, command, example in (
        ("provision", provision, "wopr nodes provision --size gpu-4000adax1-20gb --region tor1"),
        ("retry", retry, "wopr nodes retry gpu-tor1-3f9a2c --yes"),
        ("destroy", destroy, "wopr nodes destroy gpu-tor1-3f9a2c --yes"),
        ("reboot", reboot, "wopr nodes reboot gpu-tor1-3f9a2c --hard --yes"),
        ("show", show, "wopr nodes show gpu-tor1-3f9a2c --json"),
        ("sizes", sizes, "wopr nodes sizes --gpu"),
    ):
        app.command(name, epilog=f"Example: {example}")(command)


def _follow_making(node_ids: Sequence[str], stages: "Progress", how: Changer, document: dict[str, Any]) -> None:
    """Tell each stage of each node until all are done or failed; exit 1 when one failed."""
    nodes = run(lambda door: until_settled(door, node_ids, stages))
    failed = {node_id: why(node) for node_id, node in nodes.items() if node is None or node.provision_stage != "done"}
    ready = [node_id for node_id in node_ids if node_id not in failed]
    for node_id, reason in failed.items():
        remedy = f"wopr nodes retry {node_id}  or  wopr nodes destroy {node_id}"
        complain(f"{node_id} failed: {reason}", remedy=remedy)
    if how.as_json:
        json_document({**document, "ready": ready, "failed": failed})
    elif ready:
        result(f"ready: {', '.join(ready)}")
    if failed:
        raise typer.Exit(FAILED)


async def _plan(door: Door, region: str, size: str, count: int) -> "Plan":
    from wopr.inference import ordering

    return await ordering.plan(door.cloud(), door.settings, region=region, size=size, count=count)


async def _add(door: Door, plan: "Plan") -> None:
    from wopr.inference import rented

    async def add(session: "AsyncSession") -> None:
        await rented.add(session, plan.node_ids, plan.terms, door.settings.gpu_nodes_max, _now())

    await door.write(add)


async def _found(door: Door, node_id: str) -> "Node":
    from wopr.core.ids import NodeId
    from wopr.inference import nodes

    return await door.write(lambda session: nodes.get(session, NodeId(node_id)))


async def _reboot(door: Door, node: "Node", hard: bool) -> bool:
    from wopr.inference.rebooting import Desk, reboot
    from wopr.ops.journal import Journal

    desk = Desk(door.db, door.cloud(), Journal(door.settings.wopr_home))
    action = await reboot(desk, node.id, _now(), hard=hard)
    while True:
        went = await door.cloud().acted(str(node.making.machine_id), action)
        if went is not None:
            return went
        await asyncio.sleep(LOOK_SECONDS)


def _journal(name: str, **data: str) -> Any:  # a context manager of the journal's own type
    from wopr.cli.caller import journaled

    return journaled(name, **data)


def _cost(plan: "Plan", count: int) -> dict[str, str]:
    from wopr.core.money import from_cents

    hourly, monthly = count * plan.size.hourly_nanos, from_cents(count * plan.size.monthly_cents)
    return {"hourly_usd": usd(hourly), "monthly_usd": usd(monthly)}


def _what(plan: "Plan") -> str:
    return plan.size.gpu or f"no GPU, {plan.size.vcpus} vCPUs"


def _now() -> int:
    import time

    return int(time.time())


def _clock(seconds: int) -> str:
    from datetime import UTC, datetime

    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%d %H:%M:%S")
