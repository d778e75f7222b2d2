"""What runs by itself in accounts."""

import functools
from datetime import timedelta

from sqlalchemy import delete

from wopr.accounts import limits, post
from wopr.accounts.mail import MAIL_CHANNEL
from wopr.accounts.models import BrowserSession, LinkToken, Mail
from wopr.core import idempotency
from wopr.core.loops import Counts, Loop
from wopr.core.platform import Platform

MAIL_PERIOD_SECONDS = 15
PURGE_PERIOD_SECONDS = 3600
MAILS_KEPT_DAYS = 30


def loops(platform: Platform) -> list[Loop]:
    """The table of this slice's loops."""
    return [
        Loop(
            "deliver_mail",
            MAIL_PERIOD_SECONDS,
            "Sends queued mails, and tries those again that failed for the moment.",
            functools.partial(post.deliver, platform),
            wake=(MAIL_CHANNEL,),
        ),
        Loop(
            "purge_accounts",
            PURGE_PERIOD_SECONDS,
            "Forgets expired links and sessions, full rate limits, old mails and answers kept under Idempotency-Keys.",
            functools.partial(purge, platform),
        ),
    ]


async def purge(platform: Platform) -> Counts:
    """Delete what has run out; how many rows of each."""
    now = platform.clock.now()
    old_mail = (Mail.state != "waiting") & (Mail.created_at <= now - timedelta(days=MAILS_KEPT_DAYS))
    async with platform.db.begin() as session:
        sessions = await session.execute(
            delete(BrowserSession).where(BrowserSession.expires_at <= now).returning(BrowserSession.id)
        )
        links = await session.execute(
            delete(LinkToken).where(LinkToken.expires_at <= now).returning(LinkToken.token_hash)
        )
        mails = await session.execute(delete(Mail).where(old_mail).returning(Mail.id))
        counts = {"sessions": len(sessions.all()), "links": len(links.all()), "mails": len(mails.all())}
    forgotten = {
        "limits": await limits.purge(platform.db, now),
        "answers": await idempotency.purge(platform.db, now),
    }
    return counts | forgotten
