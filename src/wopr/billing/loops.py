"""What billing does by itself, one line a loop."""

from collections.abc import Mapping
from datetime import timedelta

import structlog

from wopr.billing import inbox
from wopr.billing.apply import apply_due
from wopr.billing.charges import BALANCE_CHANNEL
from wopr.billing.invariants import invariants
from wopr.billing.ledger import EXPIRE_BATCH, expire_due
from wopr.billing.stages import plan_entitlements
from wopr.billing.stripe import connect
from wopr.core.errors import WoprError
from wopr.core.loops import Loop
from wopr.core.platform import Platform

MISSED_DAYS = 3

log = structlog.get_logger(__name__)


class LedgerBroken(WoprError):
    """A promise of the ledger does not hold."""

    default_code = "ledger_broken"


def loops(platform: Platform) -> list[Loop]:
    """The table."""
    return [
        Loop(
            "apply_inbox",
            15,
            "Credits payments and takes back refunds; woken by the webhook.",
            lambda: apply_due(platform),
            (inbox.INBOX_CHANNEL,),
        ),
        Loop("missed_events", 300, "Fetches Stripe's events that never reached us.", lambda: fetch_missed(platform)),
        Loop("expire_holds", 5, "Frees credit lent to processes that are gone.", lambda: expire_holds(platform)),
        Loop(
            "entitlements",
            60,
            "Warns, stops bots and announces their end without credit; takes it all back with credit.",
            lambda: plan_entitlements(platform),
            (BALANCE_CHANNEL,),
        ),
        Loop("invariants", 3600, "Proves that the ledger's sums agree.", lambda: check_ledger(platform)),
    ]


async def expire_holds(platform: Platform) -> Mapping[str, int]:
    """Free every hold whose time is over, a batch a transaction."""
    expired = 0
    while True:
        async with platform.db.begin() as session:
            count = await expire_due(session, platform.clock.now())
        expired += count
        if count < EXPIRE_BATCH:
            return {"expired": expired}


async def check_ledger(platform: Platform) -> Mapping[str, int]:
    """Check every promise; LedgerBroken, which the table of loops shows, when one does not hold."""
    async with platform.db.begin() as session:
        problems = await invariants(session)
    if problems:
        for problem in problems:
            log.error("ledger.problem", check=problem.check, subject=problem.subject, detail=problem.detail)
        first = problems[0]
        raise LedgerBroken(
            f"{len(problems)} problems in the ledger. The first: {first.check}: {first.subject}, {first.detail}",
            remedy="See GET /api/admin/ledger; correct with new transfers, never by editing.",
        )
    return {"problems": 0}


async def fetch_missed(platform: Platform) -> Mapping[str, int]:
    """Store what Stripe says happened in the last days and no webhook told us. Does nothing without a key."""
    if platform.settings.stripe_secret_key is None:
        return {"configured": 0}
    now = platform.clock.now()
    async with connect(platform.settings) as api:
        events = await api.events_since(now - timedelta(days=MISSED_DAYS), list(inbox.HANDLED))
    async with platform.db.begin() as session:
        return {"seen": len(events), "missed": await inbox.store(session, events, now)}
