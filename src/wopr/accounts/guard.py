"""Who may pass: the dependencies with which every route of the platform says what it asks of its caller.

A browser shows the session cookie, a program `Authorization: Bearer wopr_…`, another service of ours the platform's
secret. A header wins over a cookie. Requests with a cookie that change something must come from a page of ours.
"""

import hmac
import json
from typing import Annotated

from fastapi import Depends, Header, Request, Response, Security
from fastapi.security import APIKeyCookie, HTTPAuthorizationCredentials, HTTPBearer

from wopr.accounts import cookies, identity, origins
from wopr.accounts.principal import Principal, Role, Scope
from wopr.core.errors import Forbidden, Unauthenticated
from wopr.core.idempotency import Asked, Idempotency
from wopr.core.net import client_address
from wopr.core.routing import PlatformDep

_bearer = HTTPBearer(auto_error=False, scheme_name="key", description="An API key: wopr_<scope>_<random>.")
_cookie = APIKeyCookie(name=cookies.COOKIE_NAME, auto_error=False, scheme_name="session")
_service = HTTPBearer(auto_error=False, scheme_name="service", description="PLATFORM_SECRET, between our services.")
BearerDep = Annotated[HTTPAuthorizationCredentials | None, Security(_bearer)]
CookieDep = Annotated[str | None, Security(_cookie)]
ServiceDep = Annotated[HTTPAuthorizationCredentials | None, Security(_service)]
KeyHeader = Annotated[
    str | None,
    Header(
        alias="Idempotency-Key",
        min_length=1,
        max_length=255,
        description="Any word of your own for this request, a UUID for instance. Within a day the same request with "
        "the same key is done once and answered the same again (with `Idempotent-Replayed: true`); another request "
        "with it is refused as `idempotency_key_reused`. Failures are not kept: repeat them with the same key.",
    ),
]


async def authenticate(request: Request, platform: PlatformDep, bearer: BearerDep, cookie: CookieDep) -> Principal:
    """The caller: Unauthenticated when nobody, Forbidden for a forged request or a bot away from /v1."""
    if request.headers.get("authorization") is not None:
        secret = bearer.credentials if bearer is not None else ""
        if not secret.startswith(identity.KEY_START):
            raise Unauthenticated(
                "The Authorization header holds no key of ours.",
                code="bad_key",
                remedy="Send `Authorization: Bearer wopr_…`.",
            )
        async with platform.db.begin() as session:
            principal = await identity.by_key(session, secret, platform.clock.now())
        _refuse_bots(principal)
        return principal
    token = cookies.verify(platform.settings, cookie) if cookie else None
    if token is None:
        raise _nobody()
    refuse_forgery(request, platform)
    async with platform.db.begin() as session:
        person = await identity.by_session(session, token, platform.clock.now())
    if person is None:
        raise _nobody()
    return person


Caller = Annotated[Principal, Depends(authenticate)]


async def reader(principal: Caller) -> Principal:
    """May look."""
    return _with_scope(principal, Scope.READ)


async def writer(principal: Caller) -> Principal:
    """May use and change the tenant's objects."""
    return _with_scope(principal, Scope.WRITE)


async def tenant_admin(principal: Caller) -> Principal:
    """May administer the tenant: its keys, its payments."""
    return _with_scope(principal, Scope.ADMIN)


async def platform_admin(principal: Caller) -> Principal:
    """May administer the platform: an administrator's session, or an admin key that an administrator made."""
    if not principal.platform_admin:
        raise Forbidden(
            "This is for administrators of the platform.",
            code="administrators_only",
            remedy="Use the session of an administrator, or a key with the scope admin that one made.",
        )
    return principal


async def person(principal: Caller) -> Principal:
    """A person in a browser: nothing about somebody's own sign-in is done with a key."""
    if principal.session_id is None:
        raise Forbidden(
            "This needs a signed-in person; an API key is not enough.",
            code="session_required",
            remedy="Sign in to the web pages.",
        )
    return principal


async def service(platform: PlatformDep, credentials: ServiceDep) -> None:
    """Another service of ours, by PLATFORM_SECRET (one or a list); NotConfigured when that is not set."""
    secrets = platform.settings.require("platform_secret", "Service-to-service authentication")
    shown = credentials.credentials if credentials is not None else ""
    known = [part.strip().encode() for part in secrets.split(",") if part.strip()]
    if not any(hmac.compare_digest(shown.encode(), secret) for secret in known):
        raise Unauthenticated("The platform's secret is missing or wrong.", remedy="Send PLATFORM_SECRET as bearer.")


async def once(
    request: Request, response: Response, platform: PlatformDep, principal: Caller, key: KeyHeader = None
) -> Idempotency:
    """What does this request's work once, when it came with an Idempotency-Key; keys are the tenant's, by route."""

    def replayed() -> None:
        response.headers["idempotent-replayed"] = "true"

    if key is None:
        return Idempotency(platform, None, replayed)
    route = f"{request.method} {request.scope['route'].path}"
    content = request.url.path.encode() + b"\n" + _canonical(await request.body())
    return Idempotency(platform, Asked(principal.tenant_id, route, key, content), replayed)


def refuse_forgery(request: Request, platform: PlatformDep) -> None:
    """Refuse a state-changing request with a cookie that does not come from a page of ours."""
    if request.method in origins.SAFE_METHODS:
        return
    if not origins.is_allowed(request.headers, origins.allowed_origins(platform.settings)):
        raise _foreign()


async def not_foreign(request: Request, platform: PlatformDep) -> None:
    """For routes that set a cookie without needing one: no foreign page may call them from a browser."""
    if origins.is_foreign(request.headers, origins.allowed_origins(platform.settings)):
        raise _foreign()


def address_of(request: Request, platform: PlatformDep) -> str:
    """The caller's address; forwarded headers count from trusted proxies only."""
    peer = request.client.host if request.client is not None else ""
    return client_address(peer, request.headers.get("x-forwarded-for"), platform.settings.trusted_proxies)


Reader = Annotated[Principal, Depends(reader)]
Writer = Annotated[Principal, Depends(writer)]
TenantAdmin = Annotated[Principal, Depends(tenant_admin)]
PlatformAdmin = Annotated[Principal, Depends(platform_admin)]
Person = Annotated[Principal, Depends(person)]
Service = Annotated[None, Depends(service)]
AddressDep = Annotated[str, Depends(address_of)]
Once = Annotated[Idempotency, Depends(once)]


def _with_scope(principal: Principal, scope: Scope) -> Principal:
    if scope in principal.scopes:
        return principal
    if principal.key_id is not None:
        raise Forbidden(
            f"This needs a key with the scope {scope}.", code="scope", remedy="Create such a key on the keys page."
        )
    raise Forbidden(
        f"As {Role.MEMBER} of this account you may not do this.", code="role", remedy="Ask an owner or an admin."
    )


def _canonical(body: bytes) -> bytes:
    """The same for bodies that say the same: neither spaces nor the order of fields make another request."""
    try:
        return json.dumps(json.loads(body), sort_keys=True).encode()
    except ValueError:
        return body


def _refuse_bots(principal: Principal) -> None:
    if principal.bot_id is not None:
        raise Forbidden(
            "The service key of a bot is good for the gateway under /v1 only.",
            code="bot_key",
            remedy="Use an API key of your own.",
        )


def _nobody() -> Unauthenticated:
    return Unauthenticated("You are not signed in.", remedy="Sign in, or send `Authorization: Bearer wopr_…`.")


def _foreign() -> Forbidden:
    return Forbidden(
        "This request does not come from a page of ours.",
        code="origin",
        remedy="Use the web pages; for another address, the operator adds it to ALLOWED_ORIGINS.",
    )
