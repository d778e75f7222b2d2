"""Accounts over HTTP: signing up and in, sessions, keys."""

from __future__ import annotations

from datetime import datetime
from decimal import Decimal

from wopr.client.transport import Answer, Sending, Transport


class User(Answer):
    """A person."""

    id: str
    email: str
    name: str | None = None
    email_verified: bool = False
    platform_admin: bool = False


class Tenant(Answer):
    """The customer a person acts for, with the person's role in it."""

    id: str
    name: str | None = None
    role: str = "owner"
    suspended: bool = False


class SessionInfo(Answer):
    """The browser session in use; absent for API keys."""

    id: str
    created_at: datetime | None = None
    expires_at: datetime | None = None


class Identity(Answer):
    """Who is calling."""

    user: User
    tenant: Tenant
    session: SessionInfo | None = None


class Session(Answer):
    """One signed-in browser of the user."""

    id: str
    created_at: datetime
    last_used_at: datetime | None = None
    ip: str | None = None
    user_agent: str | None = None
    current: bool = False


class Sessions(Answer):
    """All sessions of the user."""

    sessions: list[Session]


class Key(Answer):
    """An API key without its secret."""

    id: str
    name: str
    scope: str
    prefix: str
    created_at: datetime
    expires_at: datetime | None = None
    last_used_at: datetime | None = None
    revoked_at: datetime | None = None
    spend_30d_usd: Decimal = Decimal(0)
    spend_usd: Decimal = Decimal(0)


class Keys(Answer):
    """All keys of the tenant."""

    keys: list[Key]


class NewKey(Answer):
    """A key just made; the secret is shown this once."""

    key: Key
    secret: str


class AccountsApi:
    """Routes under /api/auth, /api/account and /api/keys."""

    def __init__(self, transport: Transport) -> None:
        self._transport = transport

    async def sign_up(self, email: str, password: str, name: str | None = None) -> None:
        """Ask for an account; the answer is the same whether or not the address is known."""
        body = {"email": email, "password": password} | ({"name": name} if name else {})
        await self._transport.request("POST", "/api/auth/sign-up", Sending(json=body))

    async def verify(self, token: str) -> Identity:
        """Confirm the address by the link's token; signs in."""
        return await self._transport.post("/api/auth/verify", Identity, {"token": token})

    async def resend_verification(self, email: str) -> None:
        """Send the confirmation link again."""
        await self._transport.request("POST", "/api/auth/resend-verification", Sending(json={"email": email}))

    async def sign_in(self, email: str, password: str) -> Identity:
        """Start a session; the cookie is in the transport's `set_cookies`."""
        return await self._transport.post("/api/auth/sign-in", Identity, {"email": email, "password": password})

    async def one_time(self, token: str) -> Identity:
        """Start a session with the administrator's single-use link."""
        return await self._transport.post("/api/auth/one-time", Identity, {"token": token})

    async def sign_out(self) -> None:
        """End this session."""
        await self._transport.request("POST", "/api/auth/sign-out", Sending(json={}))

    async def sign_out_everywhere(self) -> None:
        """End all sessions of the user."""
        await self._transport.request("POST", "/api/auth/sign-out-everywhere", Sending(json={}))

    async def reset_request(self, email: str) -> None:
        """Send a link for choosing a new password, if the address is known."""
        await self._transport.request("POST", "/api/auth/reset-request", Sending(json={"email": email}))

    async def reset(self, token: str, password: str) -> None:
        """Choose a new password; ends all sessions."""
        await self._transport.request("POST", "/api/auth/reset", Sending(json={"token": token, "password": password}))

    async def session(self) -> Identity:
        """Who is calling; raises `ApiError` 401 for nobody."""
        return await self._transport.get("/api/auth/session", Identity)

    async def sessions(self) -> list[Session]:
        """All signed-in browsers of the user."""
        return (await self._transport.get("/api/account/sessions", Sessions)).sessions

    async def revoke_session(self, session_id: str) -> None:
        """Sign one browser out."""
        await self._transport.request("DELETE", f"/api/account/sessions/{session_id}")

    async def rename(self, name: str) -> None:
        """Change the user's name."""
        await self._transport.request("PATCH", "/api/account", Sending(json={"name": name}))

    async def change_password(self, current: str, new: str) -> None:
        """Change the password, proving the current one."""
        body = {"current": current, "new": new}
        await self._transport.request("POST", "/api/account/password", Sending(json=body))

    async def keys(self) -> list[Key]:
        """All keys of the tenant, revoked ones included."""
        return (await self._transport.get("/api/keys", Keys)).keys

    async def create_key(
        self, name: str, scope: str, expires_in_days: int | None = None, *, once: str | None = None
    ) -> NewKey:
        """Make a key of scope read, write or admin. Repeated with the same `once` it gives the key made before."""
        body = {"name": name, "scope": scope, "expires_in_days": expires_in_days}
        return await self._transport.post("/api/keys", NewKey, body, once=once)

    async def suspend_tenant(self, tenant_id: str, suspended: bool) -> None:
        """Suspend a customer or take it back, for administrators."""
        action = "suspend" if suspended else "reinstate"
        await self._transport.request("POST", f"/api/admin/tenants/{tenant_id}/{action}", Sending(json={}))

    async def revoke_key(self, key_id: str) -> None:
        """Revoke a key; it is refused from the next request on."""
        await self._transport.request("DELETE", f"/api/keys/{key_id}")
