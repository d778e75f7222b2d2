"""What the administrators are told of by themselves: a mail to each, and a webhook when there is one.

The mail is in the outbox with the change that it tells of. The webhook is for pagers and chats: it is tried a few
times and given up, because the mail arrives anyway.
"""

import asyncio
from dataclasses import dataclass

import httpx
import structlog
from sqlalchemy.ext.asyncio import AsyncSession

from wopr.accounts import mail
from wopr.accounts.admin import administrators
from wopr.accounts.letters import Action, letter
from wopr.core.platform import Platform

TRIES = 3
AGAIN_SECONDS = 2.0
ANSWER_SECONDS_MAX = 10.0

log = structlog.get_logger(__name__)


@dataclass(frozen=True)
class Alert:
    """What people are told."""

    subject: str
    text: str


async def queue_alert(session: AsyncSession, platform: Platform, alert: Alert, key: str) -> bool:
    """Mail it to every administrator when the transaction commits; False when one was mailed under this key before."""
    page = Action("Look at the nodes", f"{platform.settings.ui_url.rstrip('/')}/admin/nodes")
    because = "You get this because you are an administrator of this installation."
    written = letter(alert.subject, [alert.text], page, [because])
    return all(
        [
            await mail.queue(session, address, alert.subject, written.text, written.html, f"{key}:{address}")
            for address in await administrators(session)
        ]
    )


async def call_webhook(platform: Platform, alert: Alert) -> bool:
    """Post it to ALERT_WEBHOOK_URL as JSON: `text` for chats, `subject` and `detail` for programs. Never raises."""
    url = platform.settings.alert_webhook_url
    if url is None:
        return False
    body = {"text": f"{alert.subject}\n{alert.text}", "subject": alert.subject, "detail": alert.text}
    for attempt in range(TRIES):
        try:
            answer = await platform.http.post(url.get_secret_value(), json=body, timeout=ANSWER_SECONDS_MAX)
            if answer.status_code < httpx.codes.BAD_REQUEST:
                return True
            problem = f"status {answer.status_code}"
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            problem = type(error).__name__  # its words may have the address, which is a secret
        log.warning("alert.webhook_failed", problem=problem, attempt=attempt + 1)
        await asyncio.sleep(AGAIN_SECONDS)
    return False
