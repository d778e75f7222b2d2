"""The rows of nodes whose machines are rented: what people ask of them, and what the loop and the machine write.

Every write is conditional on what was seen, and says whether it happened: another worker, a report or a person may
have been quicker.
"""

import hashlib
import hmac
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from sqlalchemy import ARRAY, CursorResult, Text, cast, delete, func, or_, select, text, update
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.ext.asyncio import AsyncSession

from wopr.accounts.secrets import new_secret
from wopr.cloud.compute import Machine
from wopr.core.errors import Conflict, NotFound, Unauthenticated
from wopr.core.ids import NodeId
from wopr.core.notify import notify
from wopr.inference.models import GpuNode
from wopr.inference.nodes import SERVICES
from wopr.inference.provision import SETTLED, Making, Stage, Wanted, may_report

PROVISION_CHANNEL = "wopr_provision"
PROVIDER = "digitalocean"
TOKEN_SECONDS = 3600
DETAIL_CHARACTERS_MAX = 4000
REASON_CHARACTERS_MAX = 1000
PROVISIONING, ACTIVE, FAILED = "provisioning", "active", "failed"
# Any number that nothing else locks: orders are counted one after the other.
ORDER_LOCK = 0x574F5052


@dataclass(frozen=True)
class Terms:
    """What a machine is to be, and what it costs."""

    region: str
    size: str
    monthly_cents: int
    hourly_nanos: int


@dataclass(frozen=True)
class Opened:
    """A machine that showed its token: which node it is, and the secret for its reports, which is not kept."""

    node_id: NodeId
    machine_id: str | None
    api_key: str = field(repr=False)
    secret: str = field(repr=False)


@dataclass(frozen=True)
class Failure:
    """A node whose making came to nothing, `at` which second since 1970. Its machine, where it has one, costs on."""

    node_id: str
    at: int
    reason: str
    machine_id: str | None


async def add(session: AsyncSession, node_ids: Sequence[str], terms: Terms, nodes_max: int, now: int) -> None:
    """Want these nodes: rows from which the loop makes machines. Conflict when there would be too many, or one is."""
    await session.execute(text("SELECT pg_advisory_xact_lock(:lock)"), {"lock": ORDER_LOCK})
    rented = await session.scalar(select(func.count()).select_from(GpuNode).where(GpuNode.provider.is_not(None))) or 0
    if rented + len(node_ids) > nodes_max:
        raise Conflict(
            f"{rented} nodes are rented already, and {nodes_max} may be.",
            remedy="Destroy one with `wopr nodes destroy`, or raise GPU_NODES_MAX.",
        )
    taken = await session.scalar(select(GpuNode.id).where(GpuNode.id.in_(node_ids)).limit(1))
    if taken is not None:
        raise Conflict(f"There is a node {taken} already.", remedy="Choose another id.")
    for node_id in node_ids:
        session.add(
            GpuNode(
                id=node_id,
                provider=PROVIDER,
                region=terms.region,
                size=terms.size,
                status=PROVISIONING,
                provision_stage=Stage.CREATING,
                service_health=dict.fromkeys(SERVICES, False),
                monthly_cost_cents=terms.monthly_cents,
                hourly_cost_nanos=terms.hourly_nanos,
                api_key=new_secret(),
                stage_at=now,
                provision_log=[_entry(Stage.CREATING, now, "")],
                created_at=now,
                updated_at=now,
            )
        )
    await session.flush()
    await _tell(session, node_ids[0])


async def give_back(session: AsyncSession, node_id: str, now: int) -> bool:
    """Want the node gone, machine and row; False when that is wanted already. NotFound; Conflict for one not rented."""
    row = await _rented(session, node_id)
    done = await _changed(
        session,
        update(GpuNode)
        .where(GpuNode.id == row.id, GpuNode.desired != Wanted.GONE)
        .values(desired=Wanted.GONE, updated_at=now),
    )
    await _tell(session, node_id)
    return done


async def begin_anew(session: AsyncSession, node_id: str, now: int, reason: str = "") -> None:
    """Make the node again with a new machine; the old one is given back first. NotFound; Conflict while it is made."""
    row = await _rented(session, node_id)
    done = await _changed(
        session,
        update(GpuNode)
        .where(GpuNode.id == row.id, GpuNode.desired != Wanted.GONE, GpuNode.provision_stage.in_(SETTLED))
        .values(
            provision_stage=Stage.CREATING,
            status=PROVISIONING,
            service_health=dict.fromkeys(SERVICES, False),
            host=None,
            api_key=new_secret(),
            stage_at=now,
            ordered_at=None,
            provision_error=None,
            provision_log=[_entry(Stage.CREATING, now, reason)],
            token_hash=None,
            secret_hash=None,
            # A repair that is not over ends when the new machine serves; its key is another, and asking is answered.
            repair=GpuNode.repair.op("-")(cast(["host_key", "asked"], ARRAY(Text))),
            updated_at=now,
        ),
    )
    if not done:
        raise Conflict(
            f"{node_id} is being {'given back' if row.desired == Wanted.GONE else 'made'} right now.",
            remedy=f"`wopr nodes show {node_id}` tells how far it is.",
        )
    await _tell(session, node_id)


async def in_motion(session: AsyncSession) -> Sequence[Making]:
    """Every rented node that is being made or given back, the oldest first."""
    moving = or_(GpuNode.desired == Wanted.GONE, GpuNode.provision_stage.not_in(SETTLED))
    rows = await session.scalars(
        select(GpuNode)
        .where(GpuNode.provider.is_not(None), moving)
        .order_by(GpuNode.created_at, GpuNode.id)
        .execution_options(populate_existing=True)
    )
    return [_making(row) for row in rows]


async def failures(session: AsyncSession) -> Sequence[Failure]:
    """Every rented node that could not be made and that nobody has given back since."""
    rows = await session.scalars(
        select(GpuNode)
        .where(GpuNode.provision_stage == Stage.FAILED, GpuNode.desired != Wanted.GONE, GpuNode.provider.is_not(None))
        .order_by(GpuNode.id)
        .execution_options(populate_existing=True)
    )
    return [Failure(row.id, row.stage_at or row.created_at, row.provision_error or "", row.droplet_id) for row in rows]


async def machine_ids(session: AsyncSession) -> frozenset[str]:
    """The ids of all machines that some row knows."""
    return frozenset(id_ for id_ in await session.scalars(select(GpuNode.droplet_id)) if id_ is not None)


async def ordering(session: AsyncSession, row: Making, token: str, now: int) -> Terms | None:
    """Store that a machine is being asked for, and its token; what to ask for, or None when somebody was quicker."""
    same = GpuNode.ordered_at.is_not_distinct_from(row.ordered_at)
    found = await session.scalar(
        update(GpuNode)
        .where(_at(row), GpuNode.droplet_id.is_(None), GpuNode.desired != Wanted.GONE, same)
        .values(ordered_at=now, token_hash=hashed(token), token_expires_at=now + TOKEN_SECONDS, secret_hash=None)
        .returning(GpuNode)
        .execution_options(populate_existing=True)
    )
    return None if found is None else Terms(found.region, found.size, found.monthly_cost_cents, found.hourly_cost_nanos)


async def withdraw_order(session: AsyncSession, row: Making) -> None:
    """The cloud refused: no machine of this order exists."""
    await session.execute(update(GpuNode).where(_at(row), GpuNode.droplet_id.is_(None)).values(ordered_at=None))


async def adopt(session: AsyncSession, row: Making, machine: Machine, now: int) -> bool:
    """Store the id of the row's machine; from now on it is found by it."""
    statement = update(GpuNode).where(GpuNode.id == row.node_id, GpuNode.droplet_id.is_(None))
    values = {"droplet_id": machine.id, "machine_at": now, "ordered_at": None, "last_error": None}
    if row.desired is Wanted.GONE:
        return await _changed(session, statement.values(**values))
    moved = _moved(Stage.WAITING_ACTIVE, now, f"machine {machine.id}")
    return await _changed(session, statement.where(_at(row)).values(**values, **moved))


async def move(session: AsyncSession, row: Making, stage: Stage, now: int, **values: object) -> bool:
    """Go on to a stage, unless the row is no longer where it was seen."""
    return await _changed(session, update(GpuNode).where(_at(row)).values(**_moved(stage, now, ""), **values))


async def located(session: AsyncSession, row: Making, address: str, now: int) -> bool:
    """The machine runs at this address. A quick one has reported more than that already."""
    if row.stage is Stage.WAITING_ACTIVE:
        return await move(session, row, Stage.WAITING_AGENT, now, host=address, last_error=None)
    return await _changed(session, update(GpuNode).where(_at(row)).values(host=address))


async def serve(session: AsyncSession, row: Making, now: int) -> bool:
    """The node is done: the watchdog looks at it, and what it finds well is asked."""
    return await move(session, row, Stage.DONE, now, status=ACTIVE, last_error=None, provision_error=None)


async def fail(session: AsyncSession, row: Making, reason: str, now: int) -> bool:
    """The making came to nothing. The machine, if there is one, stays for a look and costs."""
    words = reason[:REASON_CHARACTERS_MAX]
    values = {**_moved(Stage.FAILED, now, f"{row.stage}: {words}"), "status": FAILED, "provision_error": words}
    return await _changed(session, update(GpuNode).where(_at(row)).values(**values, token_hash=None))


async def complain(session: AsyncSession, row: Making, complaint: str) -> None:
    """Keep what its services did wrong: the reason, should the stage's time end with it."""
    words = complaint[:REASON_CHARACTERS_MAX]
    if words != row.complaint:
        await session.execute(update(GpuNode).where(_at(row)).values(provision_error=words))


async def note(session: AsyncSession, row: Making, error: str, now: int) -> None:
    """Keep what went wrong, for who wonders why it takes so long."""
    words = error[:REASON_CHARACTERS_MAX]
    await session.execute(update(GpuNode).where(GpuNode.id == row.node_id).values(last_error=words, updated_at=now))


async def renew(session: AsyncSession, row: Making, now: int) -> bool:
    """The machine before is gone: the row knows none, and the next pass, which this wakes, orders one."""
    values = {"droplet_id": None, "machine_at": None, "ordered_at": None, "host": None, "stage_at": now}
    renewed = await _changed(session, update(GpuNode).where(_at(row)).values(**values))
    await _tell(session, row.node_id)
    return renewed


async def forget(session: AsyncSession, row: Making) -> bool:
    """Delete the row of a node that is given back; its machine is gone."""
    return await _changed(session, delete(GpuNode).where(GpuNode.id == row.node_id, GpuNode.desired == Wanted.GONE))


async def open_with(session: AsyncSession, token: str, now: int) -> Opened:
    """The node whose machine showed its token, with the node's own secret. Unauthenticated for any other token.

    An answer may be lost, so until the first report with that secret the token opens again, to the same.
    """
    row = await session.scalar(
        select(GpuNode)
        .where(GpuNode.token_hash == hashed(token), GpuNode.token_expires_at > now, GpuNode.desired != Wanted.GONE)
        .with_for_update()
        .execution_options(populate_existing=True)
    )
    if row is None or row.api_key is None:
        raise Unauthenticated(
            "This token was used already, is older than an hour, or is none of ours.",
            remedy="Make the node again: wopr nodes retry NODE",
        )
    # Any process on the machine can read the token in the user data for ever: it takes the node's key as well.
    secret = hmac.new(row.api_key.encode(), token.encode(), hashlib.sha256).hexdigest()
    row.secret_hash, row.updated_at = hashed(secret), now
    return Opened(NodeId(row.id), row.droplet_id, row.api_key, secret)


async def node_of_secret(session: AsyncSession, secret: str) -> NodeId | None:
    """The node whose own secret this is. Who shows it has what the token opens, which is spent with that."""
    found = await session.scalar(select(GpuNode).where(GpuNode.secret_hash == hashed(secret)).with_for_update())
    if found is None:
        return None
    found.token_hash = found.token_expires_at = None
    return NodeId(found.id)


async def report(session: AsyncSession, node_id: NodeId, stage: Stage, detail: str, now: int) -> bool:
    """What a machine says of itself; False when it changes nothing. NotFound when there is no such node.

    A rented machine never says itself that it is done: it is once its services were reached from here.
    """
    row = await session.get(GpuNode, node_id, with_for_update=True, populate_existing=True)
    if row is None:
        raise NotFound(f"There is no node {node_id}.", remedy="Register it first: wopr nodes register NODE --host HOST")
    words = _clean(detail)
    if row.provider is None:
        if row.provision_stage == stage:
            return False
        status = {Stage.DONE: ACTIVE, Stage.FAILED: FAILED}.get(stage, PROVISIONING)
        row.status, row.provision_error = status, words if stage is Stage.FAILED else None
        for name, value in _moved(stage, now, words).items():
            setattr(row, name, value)
        return True
    making = _making(row)
    if stage is Stage.FAILED:
        reason = words[-REASON_CHARACTERS_MAX:]  # the machine's last lines: its last word is why
        return making.stage not in (*SETTLED, Stage.CREATING) and await fail(session, making, reason, now)
    wanted = Stage.REGISTERING if stage is Stage.DONE else stage
    if not may_report(making.stage, wanted):
        return False
    moved = await _changed(session, update(GpuNode).where(_at(making)).values(**_moved(wanted, now, words)))
    await _tell(session, node_id)
    return moved


def hashed(secret: str) -> str:
    """What is kept of a token or secret, and what it is found by: how long that takes says nothing of the secret."""
    return hashlib.sha256(secret.encode()).hexdigest()


async def _rented(session: AsyncSession, node_id: str) -> GpuNode:
    row = await session.get(GpuNode, node_id, populate_existing=True)
    if row is None:
        raise NotFound(f"There is no node {node_id}.", remedy="`wopr nodes list` shows those that there are.")
    if row.provider is None:
        raise Conflict(
            f"{node_id} was registered by hand: its machine is not ours to touch.",
            remedy=f"To stop using it: wopr nodes remove {node_id}",
        )
    return row


async def _tell(session: AsyncSession, node_id: str) -> None:
    await notify(session, PROVISION_CHANNEL, node_id)


async def _changed(session: AsyncSession, statement: Any) -> bool:  # an UPDATE or a DELETE
    done = await session.execute(statement.execution_options(synchronize_session=False))
    assert isinstance(done, CursorResult)
    return done.rowcount > 0


def _at(row: Making) -> Any:  # a condition of SQLAlchemy's
    """The row is where it was seen."""
    return (GpuNode.id == row.node_id) & (GpuNode.provision_stage == row.stage)


def _moved(stage: Stage, now: int, detail: str) -> dict[str, Any]:
    entry = cast([_entry(stage, now, detail)], JSONB)
    log = GpuNode.provision_log.op("||")(entry)
    return {"provision_stage": stage.value, "stage_at": now, "updated_at": now, "provision_log": log}


def _entry(stage: Stage, now: int, detail: str) -> Mapping[str, Any]:
    return {"stage": stage.value, "at": now, "detail": detail}


def _clean(words: str) -> str:
    """What a machine wrote, without what can't be stored or would paint a terminal; its end, where the reason is."""
    kept = "".join(c for c in words if c.isprintable() or c == "\n")
    return kept[-DETAIL_CHARACTERS_MAX:].strip()


def _making(row: GpuNode) -> Making:
    return Making(
        node_id=row.id,
        desired=Wanted(row.desired),
        stage=Stage(row.provision_stage),
        machine_id=row.droplet_id,
        stage_at=row.stage_at or row.created_at,
        ordered_at=row.ordered_at,
        address=row.host,
        complaint=row.provision_error,
    )
