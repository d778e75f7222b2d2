"""Who is calling, as every other slice sees it: parsed once by the guard, then only a value that is handed on."""

from dataclasses import dataclass
from enum import StrEnum

from wopr.core.ids import BotId, KeyId, SessionId, TenantId, UserId


class Scope(StrEnum):
    """What an API key may do; each scope contains the ones before it."""

    READ = "read"
    WRITE = "write"
    ADMIN = "admin"


class Role(StrEnum):
    """What a person is in a tenant."""

    OWNER = "owner"
    ADMIN = "admin"
    MEMBER = "member"


ALL_SCOPES = frozenset(Scope)


@dataclass(frozen=True)
class Principal:
    """The caller of one request. A key's `role` and `email` are those of the person who made it, or of the owner."""

    tenant_id: TenantId
    user_id: UserId | None
    email: str
    role: Role
    scopes: frozenset[Scope]
    platform_admin: bool
    email_verified: bool
    session_id: SessionId | None
    key_id: KeyId | None
    bot_id: BotId | None


def scopes_of_key(scope: Scope) -> frozenset[Scope]:
    """The scope itself and everything that it contains."""
    ordered = list(Scope)
    return frozenset(ordered[: ordered.index(scope) + 1])


def scopes_of_role(role: Role) -> frozenset[Scope]:
    """What a person's browser session may do: members use the tenant, owners and admins also administer it."""
    return scopes_of_key(Scope.WRITE) if role is Role.MEMBER else ALL_SCOPES
