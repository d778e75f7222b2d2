"""Carry out what `entitlement` plans: store the stage, tell the customer by mail, and tell who follows the stages.

Each mail has the stage and its date in its key, so it is sent once. Nothing is deleted without the mails of
suspension, archiving and a last reminder before it. Who is without credit is not suspended as an account: that is the
operator's word, which no payment takes back. The fleet stops bots, and at the end deletes them, by the stage alone.
"""

from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, replace
from datetime import datetime, timedelta

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncSession

from wopr.accounts import letters, mail
from wopr.accounts.tenants import TENANTS_CHANNEL, get_tenant, owner_email
from wopr.billing import codes
from wopr.billing.entitlement import Entitlement, Stored, describe, plan
from wopr.billing.ledger import balance
from wopr.billing.prices import Stages, load_prices
from wopr.core.errors import NotFound
from wopr.core.ids import TenantId
from wopr.core.money import show, show_cost
from wopr.core.notify import notify
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
REMEDY = "Add credit, and everything comes back by itself."
WITHOUT_SERVICE = ("suspended", "archived", "deleted")


@dataclass(frozen=True)
class Letter:
    """What a mail says: its subject and its first sentences."""

    subject: str
    opening: str


LETTERS: Mapping[str, Letter] = {
    "warning": Letter(
        "Your WOPR credit is used up",
        "Your credit is used up. Your bots run for a few days more, but answer nothing until there is credit.",
    ),
    "grace": Letter(
        "Your bots will stop soon", "Your credit is still used up. Your bots answer nothing, and will stop soon."
    ),
    "suspended": Letter("Your bots were stopped", "Your bots were stopped, because there is no credit."),
    "archived": Letter(
        "Your bots are still stopped",
        "Your bots are still stopped, because there is no credit. Everything they know is kept until they are deleted.",
    ),
    "reminder": Letter("Your bots will be deleted", "This is the last reminder before your bots are deleted for good."),
    "deleted": Letter(
        "Your bots are deleted", "There is still no credit: your bots and their data are deleted now, as announced."
    ),
    "active": Letter("There is credit again", "Thank you: there is credit again, and everything works."),
    "new start": Letter(
        "There is credit again", "Thank you: there is credit again. Your bots were deleted; you can make new ones."
    ),
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
    stored = Stored(*row) if row is not None else None
    money = await balance(session, tenant_id)
    planned = plan(money, stored, stages, now)
    if planned.state != "active" and await _stands_still(session, tenant_id):
        return False, False
    if stored == planned:
        due = _reminder_due(planned, stages, now)
        if due:
            reminded = replace(planned, reminded_at=now)
            await _remind(session, platform, tenant_id, describe(reminded, money, stages))
        return False, due
    view = describe(planned, money, stages)
    await _store(session, tenant_id, planned)
    before = stored.state if stored is not None else "active"
    if planned.state != before:
        await _act(session, platform, tenant_id, (before, view))
    return planned.state != before, False


async def _act(session: AsyncSession, platform: Platform, tenant_id: TenantId, step: tuple[str, Entitlement]) -> None:
    before, view = step
    await notify(session, TENANTS_CHANNEL, str(tenant_id))
    if view.state not in LETTERS or (view.state == "active" and before not in WITHOUT_SERVICE):
        return
    try:
        name = "new start" if (before, view.state) == ("deleted", "active") else view.state
        await _write(session, platform, tenant_id, (name, view))
    except NotFound:
        return  # the tenant is gone; what is left is the ledger's history


async def _stands_still(session: AsyncSession, tenant_id: TenantId) -> bool:
    """While the operator suspends the account nothing goes on toward deletion: its owner is told to ask support."""
    try:
        return (await get_tenant(session, tenant_id)).suspended_at is not None
    except NotFound:
        return False


async def _remind(session: AsyncSession, platform: Platform, tenant_id: TenantId, view: Entitlement) -> None:
    await session.execute(
        text("UPDATE entitlements SET reminded_at = :now WHERE tenant_id = :tenant"),
        {"now": platform.clock.now(), "tenant": tenant_id},
    )
    try:
        await _write(session, platform, tenant_id, ("reminder", view))
    except NotFound:
        return


def _reminder_due(stored: Stored, stages: Stages, now: datetime) -> bool:
    if stored.state != "archived" or stored.reminded_at is not None:
        return False
    return now >= stored.since + timedelta(days=stages.archived_days - stages.reminder_days)


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
    dates = (
        ("Bots stop", view.suspends_at),
        ("Bots are archived", view.archives_at),
        ("Bots and everything they know are deleted", view.deletes_at),
    )
    now = platform.clock.now()
    facts = _sums(view) + [f"{what}: {when.day} {when:%b %Y}" for what, when in dates if when and when > now]
    billing = (
        None
        if view.state == "active"
        else letters.Action("Add credit", f"{platform.settings.ui_url.rstrip('/')}/billing")
    )
    promise = [] if billing is None else ["With credit you can make new bots." if name == "deleted" else REMEDY]
    written = letters.letter(chosen.subject, [chosen.opening, *facts, *promise], billing, [])
    to = await owner_email(session, tenant_id)
    key = f"entitlement:{tenant_id}:{name}:{now:%Y-%m-%dT%H:%M:%S}"
    await mail.queue(session, to, written.subject, written.text, written.html, key)


def _sums(view: Entitlement) -> list[str]:
    """Balance and debt as the billing page has them; there is never both."""
    balance = f"Balance: {show(max(view.available, 0))}"
    return [balance] if view.available >= 0 else [balance, f"Owed: {show_cost(-view.available)}; settled first"]


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
