"""`wopr nodes`: the machines that serve models. Works on the database, so it also works while the API is down."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Any

import typer

from wopr.cli import nodes_care, nodes_logs, nodes_rented
from wopr.cli.nodes_rows import costs as _costs
from wopr.cli.nodes_rows import journal as _journal
from wopr.cli.nodes_rows import run as _run
from wopr.cli.nodes_rows import say_result as _say_result
from wopr.cli.output import (
    USAGE,
    DryRunOption,
    ExitCodeOption,
    JsonOption,
    YesOption,
    confirm,
    fail,
    json_document,
    nothing_to_do,
    say,
    table,
)

if TYPE_CHECKING:
    from sqlalchemy.ext.asyncio import AsyncSession

    from wopr.inference.nodes import Node

app = typer.Typer(help="Machines that serve models.", no_args_is_help=True, rich_markup_mode=None)

NodeArgument = Annotated[str, typer.Argument(help="The node's id, such as gpu-1.")]


@app.command("list", epilog="Example: wopr nodes list --json")
def list_(as_json: JsonOption = False) -> None:
    """List the nodes with the health of their services, as the watchdog last saw them, and what they cost."""
    from wopr.inference.nodes import list_nodes

    found = _run(list_nodes)
    if as_json:
        json_document({"nodes": [_document(node) for node in found]})
        return
    rows = [
        (node.id, node.host, node.region, node.size, *_prices(node), _state(node), _health(node), _seen(node))
        for node in found
    ]
    headers = ("node", "host", "region", "size", "$ an hour", "$ so far", "status", "services", "last answer")
    table(headers, rows, "There are no nodes yet: wopr nodes provision, or wopr nodes register NODE --host HOST")


app.command("ls", hidden=True, epilog="Example: wopr nodes ls")(list_)


@app.command("register", epilog="Example: wopr nodes register gpu-1 --host 10.0.0.5 --region fra1 --size rtx-4090")
def register(
    node_id: NodeArgument,
    host: Annotated[str, typer.Option(help="Name or address at which the platform reaches it.")],
    region: Annotated[str, typer.Option(help="Where it stands.")] = "local",
    size: Annotated[str, typer.Option(help="What it is.")] = "cpu",
    port: Annotated[
        list[str] | None,
        typer.Option(help="SERVICE=PORT, repeatable; without it llama, chatterbox, whisper, qwen on 8080-8083."),
    ] = None,
    monthly_cost_cents: Annotated[int, typer.Option(min=0, help="What it costs in a month, in cents.")] = 0,
    dry_run: DryRunOption = False,
    exit_code: ExitCodeOption = False,
    as_json: JsonOption = False,
) -> None:
    """Register a machine whose services run already. A second time is fine: it brings the row up to date."""
    from wopr.core.ids import NodeId
    from wopr.inference import nodes

    ports = _ports(port) if port else dict(nodes.SERVICES)
    node = nodes.Node(NodeId(node_id), host, region, size, ports=ports, monthly_cost_cents=monthly_cost_cents)
    nodes.check(node)
    found = _run(lambda session: _look(session, node_id))
    if found is not None and _is_as_wanted(found, node):
        _say_result({"node": _document(found), "changed": False}, f"{node_id} is registered already", as_json=as_json)
        nothing_to_do(exit_code)
        return
    if dry_run:
        _say_result({"node": _document(node), "dry_run": True}, f"would register {node_id} at {host}", as_json=as_json)
        return

    async def write(session: "AsyncSession") -> "Node":
        return await nodes.register(session, node)

    with _journal("nodes.register", node=node_id, host=host):
        written = _run(write)
    _say_result({"node": _document(written), "changed": True}, f"{node_id} at {host} is registered", as_json=as_json)
    if not as_json:
        say("The watchdog looks at it within seconds; `wopr nodes list` shows what it found.")


@app.command("remove", epilog="Example: wopr nodes remove gpu-1 --yes")
def remove(
    node_id: NodeArgument,
    yes: YesOption = False,
    dry_run: DryRunOption = False,
    exit_code: ExitCodeOption = False,
    as_json: JsonOption = False,
) -> None:
    """Forget a node that was registered by hand; its machine is left alone. One that is gone already is fine."""
    from wopr.core.ids import NodeId
    from wopr.inference import nodes

    node = _run(lambda session: _look(session, node_id))
    if node is None:
        words = f"nothing to do: there is no node {node_id}; wopr nodes list shows those that there are"
        _say_result({"removed": None}, words, as_json=as_json)
        nothing_to_do(exit_code)
        return
    if dry_run:
        _say_result(
            {"node": _document(node), "dry_run": True}, f"would remove {node_id} at {node.host}", as_json=as_json
        )
        return
    confirm(f"Remove the node {node_id} at {node.host} from routing?", yes=yes)
    with _journal("nodes.remove", node=node_id, host=node.host):
        _run(lambda session: nodes.remove(session, NodeId(node_id)))
    _say_result({"removed": node_id}, f"{node_id} is removed", as_json=as_json)


for alias in ("rm", "delete"):
    app.command(alias, hidden=True, epilog=f"Example: wopr nodes {alias} gpu-1 --yes")(remove)
nodes_rented.add_to(app)


async def _look(session: "AsyncSession", node_id: str) -> "Node | None":
    """The node of that id, if there is one."""
    from wopr.core.errors import NotFound
    from wopr.core.ids import NodeId
    from wopr.inference import nodes

    try:
        return await nodes.get(session, NodeId(node_id))
    except NotFound:
        return None


def _is_as_wanted(found: "Node", wanted: "Node") -> bool:
    """Whether registering it would change nothing."""
    names = ("host", "region", "size", "monthly_cost_cents", "provision_stage")
    same = all(getattr(found, name) == getattr(wanted, name) for name in names)
    return same and dict(found.ports) == dict(wanted.ports)


def _ports(pairs: list[str]) -> dict[str, int]:
    ports = {}
    for pair in pairs:
        service, _, number = pair.partition("=")
        if not number.isdigit():
            fail(f"{pair!r} is not SERVICE=PORT.", remedy="Write it like --port llama=8080.", code=USAGE)
        ports[service] = int(number)
    return ports


def _state(node: "Node") -> str:
    """How far its making is, or what was seen of it, what people want of it, and what is done to bring it back."""
    from wopr.inference.repair_state import repair_of, told

    if node.desired == "gone":
        return "given back"
    if node.provision_stage not in ("done", "failed"):
        return node.provision_stage
    repair = repair_of(node)
    wanted = "" if node.desired == "serving" else node.desired
    if node.desired == "drained" and repair.drained_at is None:
        wanted = "draining" + (f" ({repair.running} running)" if repair.running else "")
    return ", ".join(filter(None, (node.status, wanted, told(node))))


def _prices(node: "Node") -> Sequence[str]:
    """What a rented machine costs; of one's own nobody here knows."""
    return ("–", "–") if node.provider is None else tuple(_costs(node).values())


def _health(node: "Node") -> str:
    return " ".join(f"{name}:{'ok' if node.service_health.get(name) else 'down'}" for name in sorted(node.ports))


def _seen(node: "Node") -> str:
    from datetime import UTC, datetime

    if node.last_health_at is None:
        return "never"
    return datetime.fromtimestamp(node.last_health_at, UTC).strftime("%Y-%m-%d %H:%M:%S")


def _document(node: "Node") -> dict[str, Any]:  # whatever json can write
    from wopr.inference.repair_state import told

    return {
        "id": node.id,
        "host": node.host,
        "region": node.region,
        "size": node.size,
        "status": node.status,
        "provision_stage": node.provision_stage,
        "desired": node.desired,
        "repair": told(node),
        "service_health": dict(node.service_health),
        "ports": dict(node.ports),
        "monthly_cost_cents": node.monthly_cost_cents,
        **_costs(node),
        "rented": node.provider is not None,
        "last_health_at": node.last_health_at,
        "last_error": node.last_error,
    }


app.add_typer(nodes_care.app)
app.command("logs", epilog="Examples: wopr nodes logs gpu-1 | wopr nodes logs gpu-1 llama -n 20")(nodes_logs.logs)
