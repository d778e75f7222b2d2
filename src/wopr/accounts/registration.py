"""Sign-up and the proof of an address. Whoever asks learns nothing about who has an account: only the mails differ."""

from dataclasses import dataclass
from datetime import datetime

from sqlalchemy.ext.asyncio import AsyncSession

from wopr.accounts import letters, links, mail, people, sessions
from wopr.accounts.letters import Letter
from wopr.accounts.links import Purpose
from wopr.accounts.models import User
from wopr.accounts.sessions import Browser
from wopr.core.ids import UserId, new_id
from wopr.core.settings import Settings


@dataclass(frozen=True)
class Applicant:
    """Who signs up: a normalised address, a name, and the hash of the password."""

    email: str
    name: str | None
    password_hash: str


async def sign_up(session: AsyncSession, settings: Settings, applicant: Applicant, now: datetime) -> None:
    """Take in a new person, and mail what is next.

    The password of a repeated sign-up takes effect with its own link only, see `LinkToken`.
    """
    user, created = await people.find_or_create(session, applicant.email, applicant.name)
    if user.email_verified_at is not None:
        await _send(session, user, letters.already_registered(*_ways_in(settings)))
        return
    if created:
        user.password_hash = applicant.password_hash
    await _send_verification(session, settings, user, applicant.password_hash, now)


async def resend(session: AsyncSession, settings: Settings, email: str, now: datetime) -> None:
    """Mail another link when the address waits for its proof; otherwise nothing."""
    user = await people.find(session, email)
    if user is not None and user.email_verified_at is None:
        await _send_verification(session, settings, user, None, now)


async def verify(session: AsyncSession, token: str, browser: Browser, now: datetime) -> str:
    """Accept the proof, end what was begun before it, and sign this browser in; the session's token."""
    redeemed = await links.redeem(session, token, Purpose.VERIFY, now)
    user = redeemed.user
    if user.email_verified_at is None and redeemed.password_hash is not None:
        user.password_hash = redeemed.password_hash
    people.mark_verified(user, now)
    await session.flush()
    # Whoever signed in before the proof may be somebody else, who only claimed the address.
    await sessions.end_all(session, UserId(user.id))
    return await sessions.begin(session, UserId(user.id), browser, now)


def _ways_in(settings: Settings) -> tuple[str, str]:
    base = settings.ui_url.rstrip("/")
    return f"{base}/sign-in", f"{base}/reset-request"


async def _send_verification(
    session: AsyncSession, settings: Settings, user: User, password_hash: str | None, now: datetime
) -> None:
    token = await links.issue(session, UserId(user.id), Purpose.VERIFY, now, password_hash)
    await _send(session, user, letters.verification(links.address(settings, Purpose.VERIFY, token)))


async def _send(session: AsyncSession, user: User, letter: Letter) -> None:
    await mail.queue(session, user.email, letter.subject, letter.text, letter.html, f"accounts/{new_id()}")
