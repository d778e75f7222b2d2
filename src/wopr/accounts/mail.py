"""The outbox of mails: queued in the transaction of whatever they tell about, delivered by the loop `deliver_mail`."""

from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncSession

from wopr.accounts.models import Mail
from wopr.core.ids import new_id
from wopr.core.notify import notify

MAIL_CHANNEL = "wopr_mail"


async def queue(session: AsyncSession, to: str, subject: str, text: str, html: str | None, key: str) -> bool:
    """Put a mail into the outbox; it leaves when and only when the transaction commits.

    `key` names the occasion: a second mail with the same key is not queued, and False is returned.
    """
    statement = (
        insert(Mail)
        .values(id=new_id(), key=key, to_address=to, subject=subject, text=text, html=html)
        .on_conflict_do_nothing(index_elements=[Mail.key])
        .returning(Mail.id)
    )
    queued = await session.scalar(statement) is not None
    if queued:
        await notify(session, MAIL_CHANNEL, "")
    return queued
