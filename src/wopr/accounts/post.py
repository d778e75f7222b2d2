"""Delivery of the outbox: Resend over HTTP, else SMTP, else the mails are kept and only logged.

A row is claimed before it is sent and marked afterwards; the company is called between the two transactions. A crash in
between sends again, which the idempotency key (Resend) or the constant Message-ID (SMTP) shows to be the same mail.
"""

from collections import Counter
from dataclasses import dataclass
from datetime import datetime, timedelta
from email.message import EmailMessage
from email.utils import format_datetime, parseaddr
from enum import StrEnum
from urllib.parse import unquote, urlsplit
from uuid import UUID

import aiosmtplib
import httpx
import structlog
from sqlalchemy import select, update
from sqlalchemy.ext.asyncio import AsyncSession

from wopr.accounts.models import Mail
from wopr.core.errors import NotConfigured
from wopr.core.loops import Counts
from wopr.core.platform import Platform
from wopr.core.settings import Settings

BATCH_MAILS = 20
BATCHES_PER_PASS_MAX = 10
ATTEMPTS_MAX = 12
CLAIM_SECONDS = 300
RETRY_SECONDS_FIRST = 10
RETRY_SECONDS_MAX = 6 * 3600
SEND_TIMEOUT_SECONDS = 10
ERROR_CHARACTERS_MAX = 500
# Statuses that say nothing about this mail: the operator's key, a limit, a race with our own retry.
LATER_STATUSES = frozenset({401, 403, 408, 409, 425, 429})
SMTP_PORTS = {"smtp": 587, "smtps": 465}
# Replies about our credentials rather than the mail (RFC 4954): the operator can mend them.
SMTP_LATER_CODES = frozenset({530, 534, 535, 538})

log = structlog.get_logger(__name__)


class Verdict(StrEnum):
    """How an attempt ended; the value is also the name of its count."""

    SENT = "sent"
    LATER = "retried"
    NEVER = "failed"
    KEPT = "kept"


@dataclass(frozen=True)
class Attempt:
    """The end of one attempt. `after_seconds` is what the other side asked us to wait."""

    verdict: Verdict
    error: str | None = None
    after_seconds: float | None = None


async def deliver(platform: Platform) -> Counts:
    """Send what is due; counts by verdict."""
    counts: Counter[str] = Counter()
    for _ in range(BATCHES_PER_PASS_MAX):
        async with platform.db.begin() as session:
            mails = await _claim(session, platform.clock.now())
        for mail in mails:
            attempt = await _send(platform, mail)
            if attempt.verdict is Verdict.LATER and mail.attempts >= ATTEMPTS_MAX:
                attempt = Attempt(Verdict.NEVER, attempt.error)
            async with platform.db.begin() as session:
                await _record(session, mail, attempt, platform.clock.now())
            counts[attempt.verdict.value] += 1
            log.info("mail." + attempt.verdict.value, to=mail.to_address, subject=mail.subject, error=attempt.error)
        # When the other side has trouble, the rest would only wait for the same time-out.
        if len(mails) < BATCH_MAILS or counts[Verdict.LATER.value]:
            break
    return counts


async def _claim(session: AsyncSession, now: datetime) -> list[Mail]:
    due = (
        select(Mail.id)
        .where(Mail.state == "waiting", Mail.next_attempt_at <= now)
        .order_by(Mail.next_attempt_at)
        .limit(BATCH_MAILS)
        .with_for_update(skip_locked=True)
    )
    claimed = (
        update(Mail)
        .where(Mail.id.in_(due.scalar_subquery()))
        .values(attempts=Mail.attempts + 1, next_attempt_at=now + timedelta(seconds=CLAIM_SECONDS))
        .returning(Mail)
        .execution_options(synchronize_session=False)
    )
    return list(await session.scalars(claimed))


async def _record(session: AsyncSession, mail: Mail, attempt: Attempt, now: datetime) -> None:
    values: dict[str, object] = {"last_error": attempt.error}
    if attempt.verdict is Verdict.SENT:
        # The texts carry links that sign in: they have no business here any longer.
        values |= {"state": "sent", "sent_at": now, "text": "", "html": None}
    elif attempt.verdict is Verdict.KEPT:
        values |= {"state": "kept"}
    elif attempt.verdict is Verdict.NEVER:
        values |= {"state": "failed", "text": "", "html": None}
    else:
        wait = attempt.after_seconds or min(RETRY_SECONDS_FIRST * 2.0 ** (mail.attempts - 1), RETRY_SECONDS_MAX)
        values |= {"next_attempt_at": now + timedelta(seconds=min(wait, RETRY_SECONDS_MAX))}
    await session.execute(
        update(Mail).where(Mail.id == mail.id).values(values).execution_options(synchronize_session=False)
    )


async def _send(platform: Platform, mail: Mail) -> Attempt:
    if platform.settings.resend_api_key is not None:
        return await _send_by_resend(platform, mail)
    if platform.settings.smtp_url is not None:
        return await _send_by_smtp(platform.settings, mail, platform.clock.now())
    return Attempt(Verdict.KEPT, "neither RESEND_API_KEY nor SMTP_URL is set")


async def _send_by_resend(platform: Platform, mail: Mail) -> Attempt:
    """https://resend.com/docs/api-reference/emails/send-email; keys are remembered for 24 hours."""
    body: dict[str, object] = {
        "from": platform.settings.mail_from,
        "to": [mail.to_address],
        "subject": mail.subject,
        "text": mail.text,
    }
    if mail.html is not None:
        body["html"] = mail.html
    key = platform.settings.require("resend_api_key", "Mail")
    try:
        answer = await platform.http.post(
            platform.settings.resend_api_base.rstrip("/") + "/emails",
            json=body,
            headers={"Authorization": f"Bearer {key}", "Idempotency-Key": f"wopr-mail/{mail.id}"},
            timeout=SEND_TIMEOUT_SECONDS,
        )
    except httpx.HTTPError as error:
        return Attempt(Verdict.LATER, f"Resend: {type(error).__name__}: {error}"[:ERROR_CHARACTERS_MAX])
    if answer.is_success:
        return Attempt(Verdict.SENT)
    message = f"Resend answered {answer.status_code}: {answer.text}"[:ERROR_CHARACTERS_MAX]
    if answer.status_code >= 500 or answer.status_code in LATER_STATUSES:
        return Attempt(Verdict.LATER, message, _seconds(answer.headers.get("retry-after")))
    return Attempt(Verdict.NEVER, message)


async def _send_by_smtp(settings: Settings, mail: Mail, now: datetime) -> Attempt:
    message = _message(settings, mail, now)
    parts = urlsplit(settings.require("smtp_url", "Mail"))
    if parts.scheme not in SMTP_PORTS or not parts.hostname:
        raise NotConfigured("SMTP_URL can't be read.", remedy="Write it like smtp://user:password@host:587.")
    try:
        await aiosmtplib.send(
            message,
            hostname=parts.hostname,
            port=parts.port or SMTP_PORTS[parts.scheme],
            username=unquote(parts.username) if parts.username else None,
            password=unquote(parts.password) if parts.password else None,
            use_tls=parts.scheme == "smtps",
            timeout=SEND_TIMEOUT_SECONDS,
        )
    except aiosmtplib.SMTPRecipientsRefused as error:
        codes = [refused.code for refused in error.recipients]
        return _refused(max(codes, default=0), str(error.recipients))
    except aiosmtplib.SMTPResponseException as error:
        return _refused(error.code, error.message)
    except (aiosmtplib.SMTPException, OSError) as error:
        return Attempt(Verdict.LATER, f"SMTP: {type(error).__name__}: {error}"[:ERROR_CHARACTERS_MAX])
    return Attempt(Verdict.SENT)


def _refused(code: int, message: str) -> Attempt:
    text = f"SMTP answered {code}: {message}"[:ERROR_CHARACTERS_MAX]
    permanent = code >= 500 and code not in SMTP_LATER_CODES
    return Attempt(Verdict.NEVER if permanent else Verdict.LATER, text)


def _message(settings: Settings, mail: Mail, now: datetime) -> EmailMessage:
    message = EmailMessage()
    message["From"] = settings.mail_from
    message["To"] = mail.to_address
    message["Subject"] = mail.subject
    message["Date"] = format_datetime(now)
    message["Message-ID"] = _message_id(settings, mail.id)
    message["Auto-Submitted"] = "auto-generated"
    message.set_content(mail.text)
    if mail.html is not None:
        message.add_alternative(mail.html, subtype="html")
    return message


def _message_id(settings: Settings, mail_id: UUID) -> str:
    domain = parseaddr(settings.mail_from)[1].rpartition("@")[2] or "localhost"
    return f"<{mail_id}@{domain}>"


def _seconds(value: str | None) -> float | None:
    return float(value) if value is not None and value.isdecimal() else None
