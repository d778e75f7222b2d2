"""Carry out what `entitlement` plans: store the stage, suspend or reinstate, and tell the customer by mail.

Each mail has the stage and its date in its key, so it is sent once. Nothing is deleted without the mails of
suspension, archiving and a last reminder before it.
"""

from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncSession

from wopr.accounts import mail
from wopr.accounts.tenants import owner_email, set_suspended
from wopr.billing import codes
from wopr.billing.entitlement import Entitlement, Stored, describe, plan
from wopr.billing.ledger import balance
from wopr.billing.prices import Stages, load_prices
from wopr.core.errors import NotFound
from wopr.core.ids import TenantId
from wopr.core.money import to_usd_string
from wopr.core.platform import Platform

BATCH = 200
CANDIDATES = text(
    "SELECT c.tenant_id FROM ledger_accounts c "
    "LEFT JOIN ledger_accounts d ON d.code = 'debt:' || c.tenant_id::text "
    "LEFT JOIN entitlements e ON e.tenant_id = c.tenant_id "
    "WHERE c.kind = 'customer' AND c.code > :after AND c.credits_posted > 0 "
    "AND (coalesce(e.state, 'active') <> 'active' OR "
    "c.credits_posted - c.debits_posted - coalesce(d.debits_posted - d.credits_posted, 0) < :empty) "
    "ORDER BY c.code LIMIT :batch"
)
WITHOUT_SERVICE = ("suspended", "archived", "deleted")


@dataclass(frozen=True)
class Letter:
    """What a mail says: its subject and its first sentences."""

    subject: str
    opening: str


LETTERS: Mapping[str, Letter] = {
    "warning": Letter("Your WOPR credit is used up", "Your credit is used up. Your bots still run, for a few days."),
    "grace": Letter("Your bots will stop soon", "Your credit is still used up, and your bots will stop soon."),
    "suspended": Letter("Your bots were stopped", "Your bots were stopped, because there is no credit."),
    "archived": Letter("Your bots were archived", "Your bots were archived. Their data is kept for a while."),
    "reminder": Letter("Your bots will be deleted", "This is the last reminder before your bots are deleted for good."),
    "deleted": Letter("Your bots were deleted", "Your bots and their data were deleted, as announced."),
    "active": Letter("Your bots are back", "Thank you: there is credit again, and everything works."),
}


async def plan_entitlements(platform: Platform) -> Mapping[str, int]:
    """One pass over every tenant that has an account in the ledger; a transaction each."""
    sheet = load_prices(platform.settings.wopr_prices)
    counts = {"tenants": 0, "changed": 0, "reminded": 0}
    async for tenant_id in _tenants(platform, max(sheet.stages.empty_below, 1)):
        async with platform.db.begin() as session:
            changed, reminded = await carry_out(session, platform, tenant_id, sheet.stages)
        counts["tenants"] += 1
        counts["changed"] += changed
        counts["reminded"] += reminded
    return counts


async def carry_out(
    session: AsyncSession, platform: Platform, tenant_id: TenantId, stages: Stages
) -> tuple[bool, bool]:
    """Bring one tenant to the planned stage; whether the stage changed, and whether a last reminder was sent."""
    now = platform.clock.now()
    row = (
        await session.execute(
            text("SELECT state, since, warn_since, reminded_at FROM entitlements WHERE tenant_id = :tenant FOR UPDATE"),
            {"tenant": tenant_id},
        )
    ).one_or_none()
    stored = Stored(row.state, row.since, row.warn_since) if row is not None else None
    money = await balance(session, tenant_id)
    planned = plan(money, stored, stages, now)
    view = describe(planned, money, stages)
    if stored == planned:
        due = row is not None and row.reminded_at is None and _reminder_due(view, stages, now)
        if due:
            await _remind(session, platform, tenant_id, view)
        return False, due
    await _store(session, tenant_id, planned)
    before = stored.state if stored is not None else "active"
    if planned.state != before:
        await _act(session, platform, tenant_id, (before, view))
    return planned.state != before, False


async def _act(session: AsyncSession, platform: Platform, tenant_id: TenantId, step: tuple[str, Entitlement]) -> None:
    before, view = step
    try:
        if view.state == "suspended":
            await set_suspended(session, tenant_id, True)
        elif before in WITHOUT_SERVICE and view.state not in WITHOUT_SERVICE:
            await set_suspended(session, tenant_id, False)
        if view.state in LETTERS and (view.state != "active" or before in WITHOUT_SERVICE):
            await _write(session, platform, tenant_id, (view.state, view))
    except NotFound:
        return  # the tenant is gone; what is left is the ledger's history


async def _remind(session: AsyncSession, platform: Platform, tenant_id: TenantId, view: Entitlement) -> None:
    await session.execute(
        text("UPDATE entitlements SET reminded_at = :now WHERE tenant_id = :tenant"),
        {"now": platform.clock.now(), "tenant": tenant_id},
    )
    try:
        await _write(session, platform, tenant_id, ("reminder", view))
    except NotFound:
        return


def _reminder_due(view: Entitlement, stages: Stages, now: datetime) -> bool:
    if view.state != "archived" or view.deletes_at is None:
        return False
    return now >= view.deletes_at - timedelta(days=stages.reminder_days)


async def _store(session: AsyncSession, tenant_id: TenantId, planned: Stored) -> None:
    await session.execute(
        text(
            "INSERT INTO entitlements (tenant_id, state, since, warn_since) VALUES (:tenant, :state, :since, :warn) "
            "ON CONFLICT (tenant_id) DO UPDATE SET state = :state, since = :since, warn_since = :warn, "
            "reminded_at = NULL"
        ),
        {"tenant": tenant_id, "state": planned.state, "since": planned.since, "warn": planned.warn_since},
    )


async def _write(
    session: AsyncSession, platform: Platform, tenant_id: TenantId, letter: tuple[str, Entitlement]
) -> None:
    name, view = letter
    chosen = LETTERS[name]
    lines = [chosen.opening, "", f"Balance: ${to_usd_string(view.available)}"]
    dates = (
        ("Bots stop", view.suspends_at),
        ("Bots are archived", view.archives_at),
        ("Bots are deleted", view.deletes_at),
    )
    now = platform.clock.now()
    lines += [f"{what}: {when:%Y-%m-%d}" for what, when in dates if when is not None and when > now]
    if name != "active":
        lines += ["", f"Add credit and everything comes back by itself: {platform.settings.ui_url.rstrip('/')}/billing"]
    to = await owner_email(session, tenant_id)
    key = f"entitlement:{tenant_id}:{name}:{now:%Y-%m-%dT%H:%M:%S}"
    await mail.queue(session, to, chosen.subject, "\n".join(lines), None, key)


async def _tenants(platform: Platform, empty_below: int) -> AsyncIterator[TenantId]:
    """Those whose stage may have to change: who is well and active is left alone, who never had credit too."""
    after = ""
    while True:
        async with platform.db.begin() as session:
            found = await session.execute(CANDIDATES, {"after": after, "empty": empty_below, "batch": BATCH})
            rows = found.all()
        for row in rows:
            yield TenantId(row.tenant_id)
        if len(rows) < BATCH:
            return
        after = codes.customer(rows[-1].tenant_id)
