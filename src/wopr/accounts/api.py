"""The routes of accounts: thin, each with its limits, its transaction and its cookie."""

from datetime import timedelta
from typing import Annotated
from uuid import UUID

from fastapi import APIRouter, Depends, Request, Response
from sqlalchemy.ext.asyncio import AsyncSession

from wopr.accounts import (
    addresses,
    admin,
    cookies,
    identity,
    keys,
    limits,
    links,
    passwords,
    people,
    registration,
    sessions,
    signin,
    tenants,
)
from wopr.accounts.bodies import (
    AccountChange,
    BrowserAnswer,
    BrowsersAnswer,
    EmailOnly,
    IdentityAnswer,
    KeyAnswer,
    KeysAnswer,
    NewKey,
    NewKeyAnswer,
    PasswordChange,
    Reset,
    SentAnswer,
    SessionAnswer,
    SignIn,
    SignUp,
    TenantAnswer,
    TokenOnly,
    UserAnswer,
)
from wopr.accounts.evenness import even
from wopr.accounts.guard import (
    AddressDep,
    CookieDep,
    Once,
    Person,
    PlatformAdmin,
    Reader,
    TenantAdmin,
    not_foreign,
    refuse_forgery,
)
from wopr.accounts.links import Purpose
from wopr.accounts.principal import Principal
from wopr.accounts.registration import Applicant
from wopr.accounts.sessions import Browser
from wopr.core.errors import Forbidden, Unauthenticated
from wopr.core.money import to_usd_string
from wopr.core.platform import Platform
from wopr.core.routing import PlatformDep

router = APIRouter(tags=["accounts"])
OURS = [Depends(not_foreign)]


def browser_of(request: Request, address: AddressDep) -> Browser:
    """Where a session begins."""
    return Browser(address, request.headers.get("user-agent", ""))


BrowserDep = Annotated[Browser, Depends(browser_of)]


@router.post("/api/auth/sign-up", status_code=202, operation_id="auth_sign_up", dependencies=OURS)
async def sign_up(body: SignUp, platform: PlatformDep, address: AddressDep) -> SentAnswer:
    """Ask for an account; the answer is the same whether or not the address has one."""
    email = addresses.normalise(body.email)
    await _limit(platform, limits.SIGN_UP_BY_ADDRESS, limits.by_address(address))
    passwords.check_strength(body.password, email)
    await _limit(platform, limits.MAIL_BY_ACCOUNT, email)
    async with even(platform.clock):
        applicant = Applicant(email, body.name, await passwords.hash_password(body.password))
        async with platform.db.begin() as session:
            await registration.sign_up(session, platform.settings, applicant, platform.clock.now())
    return SentAnswer(status="verification_sent")


@router.post(
    "/api/auth/resend-verification", status_code=202, operation_id="auth_resend_verification", dependencies=OURS
)
async def resend_verification(body: EmailOnly, platform: PlatformDep, address: AddressDep) -> SentAnswer:
    """Send the confirmation link again, if the address waits for one."""
    email = await _limit_mail(platform, address, body.email)
    async with even(platform.clock), platform.db.begin() as session:
        await registration.resend(session, platform.settings, email, platform.clock.now())
    return SentAnswer(status="verification_sent")


@router.post("/api/auth/verify", operation_id="auth_verify", dependencies=OURS)
async def verify(body: TokenOnly, platform: PlatformDep, browser: BrowserDep, response: Response) -> IdentityAnswer:
    """Confirm an address by its link's token, and sign in."""
    await _limit(platform, limits.LINK_BY_ADDRESS, limits.by_address(browser.ip))
    async with platform.db.begin() as session:
        token = await registration.verify(session, body.token, browser, platform.clock.now())
        answer = await _begun(session, platform, token)
    _set_cookie(platform, response, token)
    return answer


@router.post("/api/auth/sign-in", operation_id="auth_sign_in", dependencies=OURS)
async def sign_in(body: SignIn, platform: PlatformDep, browser: BrowserDep, response: Response) -> IdentityAnswer:
    """Start a session."""
    email, caller = addresses.normalise(body.email), limits.by_address(browser.ip)
    pair = f"{caller} {email}"
    await _limit(platform, limits.SIGN_IN_BY_ADDRESS, caller)
    await _limit(platform, limits.SIGN_IN_BY_PAIR, pair)
    await _limit(platform, limits.SIGN_IN_BY_ACCOUNT, email)
    proven = await signin.prove(platform, email, body.password)
    async with platform.db.begin() as session:
        token = await signin.sign_in(session, proven, browser, platform.clock.now())
        answer = await _begun(session, platform, token)
    await limits.refund(platform.db, limits.SIGN_IN_BY_PAIR, pair)
    _set_cookie(platform, response, token)
    return answer


@router.post("/api/auth/one-time", operation_id="auth_one_time", dependencies=OURS)
async def one_time(body: TokenOnly, platform: PlatformDep, browser: BrowserDep, response: Response) -> IdentityAnswer:
    """Start a session with the administrator's single-use link."""
    await _limit(platform, limits.LINK_BY_ADDRESS, limits.by_address(browser.ip))
    async with platform.db.begin() as session:
        token = await admin.enter(session, body.token, browser, platform.clock.now())
        answer = await _begun(session, platform, token)
    _set_cookie(platform, response, token)
    return answer


@router.post("/api/auth/sign-out", status_code=204, operation_id="auth_sign_out")
async def sign_out(request: Request, platform: PlatformDep, cookie: CookieDep, response: Response) -> None:
    """End this session. Without one there is nothing to do."""
    token = cookies.verify(platform.settings, cookie) if cookie else None
    if token is not None:
        refuse_forgery(request, platform)
        async with platform.db.begin() as session:
            await sessions.end_by_token(session, token)
    _delete_cookie(platform, response)


@router.post("/api/auth/sign-out-everywhere", status_code=204, operation_id="auth_sign_out_everywhere")
async def sign_out_everywhere(platform: PlatformDep, person: Person, response: Response) -> None:
    """End all sessions of the user, this one included."""
    assert person.user_id is not None
    async with platform.db.begin() as session:
        await sessions.end_all(session, person.user_id)
    _delete_cookie(platform, response)


@router.post("/api/auth/reset-request", status_code=202, operation_id="auth_reset_request", dependencies=OURS)
async def reset_request(body: EmailOnly, platform: PlatformDep, address: AddressDep) -> SentAnswer:
    """Send a link for choosing a new password, if the address has an account."""
    email = await _limit_mail(platform, address, body.email)
    async with even(platform.clock), platform.db.begin() as session:
        await signin.request_reset(session, platform.settings, email, platform.clock.now())
    return SentAnswer(status="sent")


@router.post("/api/auth/reset", status_code=204, operation_id="auth_reset", dependencies=OURS)
async def reset(body: Reset, platform: PlatformDep, address: AddressDep, response: Response) -> None:
    """Choose a new password by a link's token; ends all sessions of the user."""
    await _limit(platform, limits.LINK_BY_ADDRESS, limits.by_address(address))
    async with platform.db.begin() as session:
        email = await links.owner_email(session, body.token, Purpose.RESET, platform.clock.now())
    passwords.check_strength(body.password, email)
    password_hash = await passwords.hash_password(body.password)
    async with platform.db.begin() as session:
        await signin.reset(session, platform.settings, body.token, password_hash, platform.clock.now())
    _delete_cookie(platform, response)


@router.get("/api/auth/session", operation_id="auth_session")
async def who(platform: PlatformDep, principal: Reader) -> IdentityAnswer:
    """Who is calling."""
    async with platform.db.begin() as session:
        return await _answer(session, principal)


@router.patch("/api/account", operation_id="account_update")
async def update_account(body: AccountChange, platform: PlatformDep, person: Person) -> IdentityAnswer:
    """Change the user's name."""
    assert person.user_id is not None
    async with platform.db.begin() as session:
        await people.rename(session, person.user_id, body.name)
        return await _answer(session, person)


@router.post("/api/account/password", status_code=204, operation_id="account_change_password")
async def change_password(body: PasswordChange, platform: PlatformDep, person: Person) -> None:
    """Change the password, proving the present one; other sessions end."""
    assert person.session_id is not None
    passwords.check_strength(body.new, person.email)
    await _limit(platform, limits.PASSWORD_BY_ACCOUNT, str(person.user_id))
    try:
        proven = await signin.prove(platform, person.email, body.current)
    except Unauthenticated as error:
        raise signin.wrong_current() from error
    password_hash = await passwords.hash_password(body.new)
    async with platform.db.begin() as session:
        await signin.change_password(session, platform.settings, proven, password_hash, person.session_id)


@router.get("/api/account/sessions", operation_id="account_sessions_list")
async def list_sessions(platform: PlatformDep, person: Person) -> BrowsersAnswer:
    """All signed-in browsers of the user."""
    assert person.user_id is not None
    async with platform.db.begin() as session:
        found = await sessions.list_sessions(session, person.user_id, person.session_id, platform.clock.now())
    return BrowsersAnswer(sessions=[BrowserAnswer.model_validate(view) for view in found])


@router.delete("/api/account/sessions/{session_id}", status_code=204, operation_id="account_sessions_revoke")
async def revoke_session(session_id: UUID, platform: PlatformDep, person: Person) -> None:
    """Sign one browser out; it is refused from its next request on."""
    assert person.user_id is not None
    async with platform.db.begin() as session:
        await sessions.end(session, person.user_id, session_id)


@router.get("/api/keys", operation_id="keys_list")
async def list_keys(platform: PlatformDep, principal: Reader) -> KeysAnswer:
    """All keys of the account, newest first, revoked ones included."""
    async with platform.db.begin() as session:
        found = await keys.list_keys(session, principal.tenant_id)
        spent = await keys.spending(session, principal.tenant_id, platform.clock.now())
    return KeysAnswer(keys=[_key(view, spent.get(view.id, keys.NOTHING_SPENT)) for view in found])


@router.post("/api/keys", status_code=201, operation_id="keys_create")
async def create_key(body: NewKey, platform: PlatformDep, principal: TenantAdmin, once: Once) -> NewKeyAnswer:
    """Make a key. Its secret is in this answer and nowhere else."""
    if not principal.email_verified:
        raise Forbidden(
            "Your address is not confirmed yet.",
            code="email_unverified",
            remedy="Open the link in the confirmation mail, or ask for another one.",
        )
    await _limit(platform, limits.KEYS_BY_ACCOUNT, str(principal.tenant_id))
    days = body.expires_in_days

    async def make(session: AsyncSession) -> NewKeyAnswer:
        issued = await keys.issue(
            session,
            principal.tenant_id,
            name=body.name,
            scope=body.scope,
            expires_at=None if days is None else platform.clock.now() + timedelta(days=days),
            user_id=principal.user_id,
        )
        view = await keys.get_key(session, principal.tenant_id, issued.id)
        return NewKeyAnswer(key=_key(view, keys.NOTHING_SPENT), secret=issued.secret)

    return await once.in_transaction(NewKeyAnswer, make)


@router.delete("/api/keys/{key_id}", status_code=204, operation_id="keys_revoke")
async def revoke_key(key_id: UUID, platform: PlatformDep, principal: TenantAdmin) -> None:
    """Revoke a key; it is refused from its next request on."""
    async with platform.db.begin() as session:
        await keys.revoke(session, principal.tenant_id, key_id)


@router.post("/api/admin/tenants/{tenant_id}/suspend", status_code=204, operation_id="admin_tenants_suspend")
async def suspend_tenant(tenant_id: UUID, platform: PlatformDep, _admin: PlatformAdmin) -> None:
    """Refuse a customer's keys and stop its bots; its people can still sign in."""
    async with platform.db.begin() as session:
        await tenants.set_suspended(session, tenant_id, True)


@router.post("/api/admin/tenants/{tenant_id}/reinstate", status_code=204, operation_id="admin_tenants_reinstate")
async def reinstate_tenant(tenant_id: UUID, platform: PlatformDep, _admin: PlatformAdmin) -> None:
    """Take a suspension back."""
    async with platform.db.begin() as session:
        await tenants.set_suspended(session, tenant_id, False)


def _key(view: keys.KeyView, spent: keys.Spent) -> KeyAnswer:
    return KeyAnswer(**vars(view), spend_30d_usd=to_usd_string(spent.lately), spend_usd=to_usd_string(spent.ever))


async def _limit(platform: Platform, rule: limits.Rule, subject: str) -> None:
    await limits.take(platform.db, rule, subject, platform.clock.now())


async def _limit_mail(platform: Platform, address: str, written: str) -> str:
    email = addresses.normalise(written)
    await _limit(platform, limits.MAIL_BY_ADDRESS, limits.by_address(address))
    await _limit(platform, limits.MAIL_BY_ACCOUNT, email)
    return email


async def _begun(session: AsyncSession, platform: Platform, token: str) -> IdentityAnswer:
    principal = await identity.by_session(session, token, platform.clock.now())
    assert principal is not None, "the session was begun in this transaction"
    return await _answer(session, principal)


async def _answer(session: AsyncSession, principal: Principal) -> IdentityAnswer:
    words = await identity.describe(session, principal)
    assert principal.user_id is not None, "bots are refused by the guard"
    living = None
    if principal.session_id is not None and words.session_created_at and words.session_expires_at:
        living = SessionAnswer(
            id=principal.session_id, created_at=words.session_created_at, expires_at=words.session_expires_at
        )
    return IdentityAnswer(
        user=UserAnswer(
            id=principal.user_id,
            email=principal.email,
            name=words.user_name,
            email_verified=principal.email_verified,
            platform_admin=principal.platform_admin,
        ),
        tenant=TenantAnswer(
            id=principal.tenant_id, name=words.tenant_name, role=principal.role, suspended=words.suspended
        ),
        session=living,
    )


def _set_cookie(platform: Platform, response: Response, token: str) -> None:
    how = cookies.cookie_attributes(platform.settings)
    response.set_cookie(
        cookies.COOKIE_NAME,
        cookies.sign(platform.settings, token),
        max_age=sessions.SESSION_SECONDS,
        path=how.path,
        domain=how.domain,
        secure=how.secure,
        httponly=how.httponly,
        samesite=how.samesite,
    )


def _delete_cookie(platform: Platform, response: Response) -> None:
    how = cookies.cookie_attributes(platform.settings)
    response.delete_cookie(
        cookies.COOKIE_NAME,
        path=how.path,
        domain=how.domain,
        secure=how.secure,
        httponly=how.httponly,
        samesite=how.samesite,
    )
