"""Signing in and changing passwords. Hashing happens between transactions, so that no connection waits for it."""

from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import delete
from sqlalchemy.ext.asyncio import AsyncSession

from wopr.accounts import letters, links, mail, passwords, people, sessions
from wopr.accounts.links import Purpose
from wopr.accounts.models import LinkToken, User
from wopr.accounts.sessions import Browser
from wopr.core.errors import Forbidden, Unauthenticated
from wopr.core.ids import SessionId, UserId, new_id
from wopr.core.platform import Platform
from wopr.core.settings import Settings


@dataclass(frozen=True)
class Proven:
    """A person who knew the password, and the hash against which that was checked."""

    user_id: UserId
    checked_hash: str
    better_hash: str | None


async def prove(platform: Platform, email: str, password: str) -> Proven:
    """Compare the password, in the same time whether or not there is an account; Unauthenticated when it is wrong."""
    async with platform.db.begin() as session:
        user = await people.find(session, email)
        user_id, kept = (user.id, user.password_hash) if user is not None else (None, None)
    matches = await passwords.verify_password(kept, password)
    if user_id is None or kept is None or not matches:
        raise _wrong()
    better = await passwords.hash_password(password) if passwords.is_outdated(kept) else None
    return Proven(UserId(user_id), kept, better)


async def sign_in(session: AsyncSession, proven: Proven, browser: Browser, now: datetime) -> str:
    """Begin a session, unless the password was changed meanwhile; its token."""
    user = await people.lock(session, proven.user_id)
    if user is None or user.password_hash != proven.checked_hash:
        raise _wrong()
    if proven.better_hash is not None:
        user.password_hash = proven.better_hash
        await session.flush()
    return await sessions.begin(session, proven.user_id, browser, now)


async def request_reset(session: AsyncSession, settings: Settings, email: str, now: datetime) -> None:
    """Mail a link for a new password when there is such an account; otherwise nothing."""
    user = await people.find(session, email)
    if user is None:
        return
    token = await links.issue(session, UserId(user.id), Purpose.RESET, now)
    letter = letters.reset(links.address(settings, Purpose.RESET, token))
    await mail.queue(session, user.email, letter.subject, letter.text, letter.html, f"accounts/{new_id()}")


async def reset(session: AsyncSession, settings: Settings, token: str, password_hash: str, now: datetime) -> None:
    """Put a new password into effect, end every session and every open link. The link proves the address, too."""
    user = (await links.redeem(session, token, Purpose.RESET, now)).user
    people.mark_verified(user, now)
    await _change(session, settings, user, password_hash)
    await sessions.end_all(session, UserId(user.id))


async def change_password(
    session: AsyncSession, settings: Settings, proven: Proven, password_hash: str, keep: SessionId
) -> None:
    """Put a new password into effect; every session but `keep` ends."""
    user = await people.lock(session, proven.user_id)
    if user is None or user.password_hash != proven.checked_hash:
        raise wrong_current()
    await _change(session, settings, user, password_hash)
    await sessions.end_all(session, proven.user_id, keep)


def wrong_current() -> Forbidden:
    """The present password, asked for before a change, was not right."""
    return Forbidden(
        "The present password is not right.",
        code="wrong_password",
        remedy="Try again, or sign out and ask for a new one by mail.",
    )


async def _change(session: AsyncSession, settings: Settings, user: User, password_hash: str) -> None:
    user.password_hash = password_hash
    await session.flush()
    # A link that was mailed for the old state must not undo the change.
    await session.execute(
        delete(LinkToken).where(LinkToken.user_id == user.id).execution_options(synchronize_session=False)
    )
    letter = letters.password_changed(f"{settings.ui_url.rstrip('/')}/reset-request")
    await mail.queue(session, user.email, letter.subject, letter.text, letter.html, f"accounts/{new_id()}")


def _wrong() -> Unauthenticated:
    return Unauthenticated(
        "The address or the password is not right.",
        code="wrong_credentials",
        remedy="Try again, or ask for a new password by mail.",
    )
