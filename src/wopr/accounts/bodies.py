"""The bodies of the routes: what they take, and what they answer."""

from datetime import datetime
from typing import Annotated, Literal
from uuid import UUID

from pydantic import AfterValidator, Field, StringConstraints

from wopr.accounts.passwords import CHARACTERS_MAX
from wopr.accounts.principal import Role, Scope
from wopr.core.routing import ApiModel

KEY_DAYS_MAX = 3650


def _printable(name: str) -> str:
    if not name.isprintable():
        raise ValueError("a name has no control characters")
    return name


Name = Annotated[
    str, StringConstraints(strip_whitespace=True, min_length=1, max_length=100), AfterValidator(_printable)
]
Email = Annotated[str, StringConstraints(min_length=3, max_length=320)]
Token = Annotated[str, StringConstraints(min_length=1, max_length=200)]
# The length of a new password is judged with a sentence of its own, hence the room here.
Password = Annotated[str, StringConstraints(min_length=1, max_length=CHARACTERS_MAX * 4)]


class SignUp(ApiModel):
    email: Email
    password: Password
    name: Name | None = None


class SignIn(ApiModel):
    email: Email
    password: Password


class EmailOnly(ApiModel):
    email: Email


class TokenOnly(ApiModel):
    token: Token


class Reset(ApiModel):
    token: Token
    password: Password


class AccountChange(ApiModel):
    name: Name


class PasswordChange(ApiModel):
    current: Password
    new: Password


class NewKey(ApiModel):
    name: Name
    scope: Scope
    expires_in_days: Annotated[int, Field(ge=1, le=KEY_DAYS_MAX)] | None = None


class SentAnswer(ApiModel):
    status: Literal["verification_sent", "sent"]


class UserAnswer(ApiModel):
    id: UUID
    email: str
    name: str | None
    email_verified: bool
    platform_admin: bool


class TenantAnswer(ApiModel):
    id: UUID
    name: str
    role: Role
    suspended: bool


class SessionAnswer(ApiModel):
    id: UUID
    created_at: datetime
    expires_at: datetime


class IdentityAnswer(ApiModel):
    """Who is calling; `session` is null for keys."""

    user: UserAnswer
    tenant: TenantAnswer
    session: SessionAnswer | None


class BrowserAnswer(ApiModel):
    id: UUID
    created_at: datetime
    last_used_at: datetime
    ip: str | None
    user_agent: str | None
    current: bool


class BrowsersAnswer(ApiModel):
    sessions: list[BrowserAnswer]


class KeyAnswer(ApiModel):
    id: UUID
    name: str
    scope: Scope
    prefix: str
    created_at: datetime
    expires_at: datetime | None
    last_used_at: datetime | None
    revoked_at: datetime | None
    spend_30d_usd: str
    spend_usd: str


class KeysAnswer(ApiModel):
    keys: list[KeyAnswer]


class NewKeyAnswer(ApiModel):
    """`secret` is shown this once."""

    key: KeyAnswer
    secret: str
