"""What of the nodes is down, for the incidents that open by themselves: a service nobody serves, or one node's part."""

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from sqlalchemy.ext.asyncio import AsyncSession

from wopr.inference.nodes import SERVICES, SERVING, SERVING_STATES, Node, list_nodes
from wopr.inference.sights import Memory, memories_of
from wopr.inference.watchdog import FAILED
from wopr.ops.incidents import Severity
from wopr.ops.outages import Watched

# A node in another state is being made, drained or removed on purpose.
LOOKED_AT = (*SERVING_STATES, FAILED)


async def services_down(session: AsyncSession) -> Sequence[Watched]:
    """Every service as the watchdog last wrote it into the nodes' rows, and the nodes whose making came to nothing."""
    nodes = await list_nodes(session)
    return [*watched_services(nodes), *(_making(node) for node in nodes if node.provider is not None)]


async def nodes_seen(session: AsyncSession) -> Sequence[Mapping[str, Any]]:
    """Every node as the logbook shows it: a row with its `name`, its place and which of its services answer."""
    return [
        {
            "name": node.id,
            "status": node.status,
            "host": node.host,
            "region": node.region,
            "size": node.size,
            "monthly_cost_cents": node.monthly_cost_cents,
            "services": {service: bool(node.service_health.get(service)) for service in sorted(node.ports)},
        }
        for node in await list_nodes(session)
    ]


def watched_services(nodes: Sequence[Node]) -> Sequence[Watched]:
    """Each service as a whole and on each node; where nobody serves it, the nodes are covered by the whole. Pure."""
    sights: list[Watched] = []
    for service in SERVICES:
        having = [node for node in nodes if service in node.ports and _is_to_serve(node)]
        if not having:
            continue
        parts = [_part(node, service) for node in having]
        nobody = all(part.down for part in parts)
        known = [part.since for part in parts if part.since is not None]
        sights.append(
            Watched(
                key=f"service:{service}",
                title=f"No node serves {service}",
                severity=Severity.SEV2,
                down=nobody,
                since=max(known) if nobody and len(known) == len(parts) else None,
                detail="; ".join(part.detail for part in parts if part.detail),
            )
        )
        sights += [_covered(part) if nobody else part for part in parts]
    return sights


def _is_to_serve(node: Node) -> bool:
    """What is being made, cordoned, drained or given back is kept from requests on purpose."""
    return node.provision_stage == "done" and node.status in LOOKED_AT and node.desired == SERVING


def _part(node: Node, service: str) -> Watched:
    memory = memories_of(node.probe_state).get(service, Memory())
    down = not (node.service_health.get(service) and node.status in SERVING_STATES)
    since = datetime.fromtimestamp(memory.failing_since, UTC) if down and memory.failing_since else None
    return Watched(
        key=f"node:{node.id}:{service}",
        title=f"{service} on node {node.id} is down",
        severity=Severity.SEV3,
        down=down,
        since=since,
        detail=f"{node.id}: {memory.error}" if memory.error else "",
    )


def _making(node: Node) -> Watched:
    return Watched(
        key=f"making:{node.id}",
        title=f"The node {node.id} could not be made, and its machine costs on",
        severity=Severity.SEV3,
        down=node.provision_stage == "failed" and node.desired != "gone",
        detail=node.making.error or "",
    )


def _covered(part: Watched) -> Watched:
    return Watched(part.key, part.title, part.severity, part.down, part.since, part.detail, covered=True)
