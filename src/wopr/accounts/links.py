"""Secrets of links in mails and on the operator's terminal: single use, short-lived, kept as a hash."""

from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum
from uuid import UUID

from sqlalchemy import ScalarSelect, delete, select
from sqlalchemy.ext.asyncio import AsyncSession

from wopr.accounts.models import LinkToken, User
from wopr.accounts.secrets import fingerprint, new_secret
from wopr.core.errors import BadRequest
from wopr.core.ids import UserId
from wopr.core.settings import Settings


class Purpose(StrEnum):
    """What the link does."""

    VERIFY = "verify"
    RESET = "reset"
    ONE_TIME = "one_time"


VALID_FOR = {
    Purpose.VERIFY: timedelta(hours=24),
    Purpose.RESET: timedelta(hours=1),
    Purpose.ONE_TIME: timedelta(hours=1),
}
PAGES = {Purpose.VERIFY: "verify", Purpose.RESET: "reset", Purpose.ONE_TIME: "welcome"}
REMEDIES = {
    Purpose.VERIFY: "Sign in and ask for another confirmation mail.",
    Purpose.RESET: "Ask for another mail on the page for forgotten passwords.",
    Purpose.ONE_TIME: "Run `wopr admin link` for another one.",
}


@dataclass(frozen=True)
class Redeemed:
    """Whose link it was, and the password that it puts into effect, if any."""

    user: User
    password_hash: str | None


async def issue(
    session: AsyncSession, user_id: UserId, purpose: Purpose, now: datetime, password_hash: str | None = None
) -> str:
    """Make a link's token. Earlier ones stay valid until one of them is used."""
    token = new_secret()
    session.add(
        LinkToken(
            token_hash=fingerprint(token),
            user_id=user_id,
            purpose=purpose.value,
            password_hash=password_hash,
            created_at=now,
            expires_at=now + VALID_FOR[purpose],
        )
    )
    await session.flush()
    return token


async def owner_email(session: AsyncSession, token: str, purpose: Purpose, now: datetime) -> str:
    """Whose link it is, without using it; BadRequest when it is not valid."""
    email = await session.scalar(select(User.email).where(User.id == _owner(token, purpose, now)))
    if email is None:
        raise _invalid(purpose)
    return email


async def redeem(session: AsyncSession, token: str, purpose: Purpose, now: datetime) -> Redeemed:
    """Use a link once: its user's links of this purpose are all gone afterwards. BadRequest when it is not valid.

    The user's row is locked first, so that of several who come at once exactly one succeeds, whichever links they use.
    """
    user = await session.scalar(
        select(User)
        .where(User.id == _owner(token, purpose, now))
        .with_for_update()
        .execution_options(populate_existing=True)
    )
    if user is None:
        raise _invalid(purpose)
    used = (
        await session.execute(
            delete(LinkToken)
            .where(LinkToken.token_hash == fingerprint(token))
            .returning(LinkToken.password_hash)
            .execution_options(synchronize_session=False)
        )
    ).one_or_none()
    if used is None:
        raise _invalid(purpose)
    await session.execute(
        delete(LinkToken)
        .where(LinkToken.user_id == user.id, LinkToken.purpose == purpose.value)
        .execution_options(synchronize_session=False)
    )
    return Redeemed(user, used[0])


def address(settings: Settings, purpose: Purpose, token: str) -> str:
    """Where the link points: a page of the UI, which posts the token, so that a mail scanner's GET uses nothing up."""
    return f"{settings.ui_url.rstrip('/')}/{PAGES[purpose]}?token={token}"


def _owner(token: str, purpose: Purpose, now: datetime) -> ScalarSelect[UUID]:
    return (
        select(LinkToken.user_id)
        .where(
            LinkToken.token_hash == fingerprint(token),
            LinkToken.purpose == purpose.value,
            LinkToken.expires_at > now,
        )
        .scalar_subquery()
    )


def _invalid(purpose: Purpose) -> BadRequest:
    return BadRequest(
        "This link was used already, has expired or is incomplete.", code="bad_link", remedy=REMEDIES[purpose]
    )
