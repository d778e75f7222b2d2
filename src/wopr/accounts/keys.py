"""API keys of people and service keys of bots: shown once, kept as SHA-256, refused from the next request on.

`wopr_<scope>_<random>` belongs to people and `wopr_bot_<random>` to one bot. Processes that cache keys listen to
`wopr_keys` (payload: the key's hash in hex) and `wopr_tenants` (payload: the tenant's id).
"""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import NotRequired, TypedDict, Unpack
from uuid import UUID

from sqlalchemy import BigInteger, ColumnElement, DateTime, Select, bindparam, cast, exists, func, or_, select, update
from sqlalchemy.ext.asyncio import AsyncSession

from wopr.accounts.models import ApiKey, KeySpending, Membership, Tenant, User
from wopr.accounts.principal import Role, Scope
from wopr.accounts.secrets import fingerprint, new_secret
from wopr.core.errors import Conflict, NotFound
from wopr.core.ids import BotId, KeyId, TenantId, UserId, new_id
from wopr.core.money import Nanos
from wopr.core.notify import notify

KEYS_CHANNEL = "wopr_keys"
KEYS_PER_TENANT_MAX = 100
SPENDING_DAYS = 30
PREFIX_RANDOM_CHARACTERS = 6


class KeyTerms(TypedDict):
    """What a key is made of. With `bot_id` it is the bot's service key."""

    name: str
    scope: Scope
    expires_at: NotRequired[datetime | None]
    user_id: NotRequired[UserId | None]
    bot_id: NotRequired[BotId | None]


@dataclass(frozen=True)
class IssuedKey:
    """A key just made: `secret` is known now and never again."""

    id: KeyId
    secret: str
    prefix: str


@dataclass(frozen=True)
class KeyRecord:
    """What the gateway must know to decide about a key without another query."""

    key_id: KeyId
    tenant_id: TenantId
    scope: Scope
    bot_id: BotId | None
    expires_at: datetime | None
    revoked: bool
    tenant_suspended: bool
    email_verified: bool


@dataclass(frozen=True)
class KeyView:
    """A key as its owners see it."""

    id: UUID
    name: str
    scope: Scope
    prefix: str
    created_at: datetime
    expires_at: datetime | None
    last_used_at: datetime | None
    revoked_at: datetime | None


@dataclass(frozen=True)
class Spent:
    """What a key's requests cost in the last 30 days and altogether, in nano-dollars."""

    lately: Nanos
    ever: Nanos


NOTHING_SPENT = Spent(Nanos(0), Nanos(0))


async def issue(session: AsyncSession, tenant_id: TenantId, **terms: Unpack[KeyTerms]) -> IssuedKey:
    """Make a key of the tenant; Conflict when people of the tenant hold the most keys that are allowed already."""
    bot_id = terms.get("bot_id")
    if bot_id is None:
        await _refuse_too_many(session, tenant_id)
    scope = Scope(terms["scope"])
    kind = "bot" if bot_id is not None else scope.value
    secret = f"wopr_{kind}_{new_secret()}"
    prefix = secret[: len(f"wopr_{kind}_") + PREFIX_RANDOM_CHARACTERS]
    key = ApiKey(
        id=new_id(),
        tenant_id=tenant_id,
        user_id=terms.get("user_id"),
        bot_id=bot_id,
        name=terms["name"],
        scope=scope.value,
        prefix=prefix,
        key_hash=fingerprint(secret),
        expires_at=terms.get("expires_at"),
    )
    session.add(key)
    await session.flush()
    return IssuedKey(KeyId(key.id), secret, prefix)


async def list_keys(session: AsyncSession, tenant_id: TenantId) -> list[KeyView]:
    """Every key of the tenant's people, newest first, revoked ones included; bots' keys belong to the fleet."""
    rows = await session.scalars(
        select(ApiKey).where(ApiKey.tenant_id == tenant_id, ApiKey.bot_id.is_(None)).order_by(ApiKey.id.desc())
    )
    return [_view(row) for row in rows]


async def spending(session: AsyncSession, tenant_id: TenantId, now: datetime) -> dict[UUID, Spent]:
    """What each of the tenant's keys spent; a key that spent nothing is not among them. Reads a row a key and day."""
    first = now.astimezone(UTC).date() - timedelta(days=SPENDING_DAYS - 1)
    found = await session.execute(
        select(
            KeySpending.key_id,
            cast(func.coalesce(func.sum(KeySpending.cost).filter(KeySpending.day >= first), 0), BigInteger),
            cast(func.sum(KeySpending.cost), BigInteger),
        )
        .where(KeySpending.key_id.in_(select(ApiKey.id).where(ApiKey.tenant_id == tenant_id, ApiKey.bot_id.is_(None))))
        .group_by(KeySpending.key_id)
    )
    return {key_id: Spent(Nanos(lately), Nanos(ever)) for key_id, lately, ever in found}


def add_spending_sql(source: str) -> str:
    """SQL that adds what the rows of `source` (key_id, started_at, cost) cost to the spending of their keys.

    For the statement that charges them: one round trip less where thousands a second are settled.
    """
    return (
        "INSERT INTO key_spending (key_id, day, cost) "  # noqa: S608 - `source` is a name in the caller's own statement
        f"SELECT key_id, (started_at AT TIME ZONE 'UTC')::date, sum(cost)::bigint FROM {source} "
        "WHERE key_id IS NOT NULL AND cost > 0 GROUP BY 1, 2 ORDER BY 1, 2 "
        "ON CONFLICT (key_id, day) DO UPDATE SET cost = key_spending.cost + excluded.cost"
    )


async def get_key(session: AsyncSession, tenant_id: TenantId, key_id: UUID) -> KeyView:
    """One key of the tenant's people; NotFound otherwise."""
    row = await session.scalar(_of_people(tenant_id, key_id))
    if row is None:
        raise _missing()
    return _view(row)


async def revoke(session: AsyncSession, tenant_id: TenantId, key_id: UUID) -> None:
    """Refuse the key from now on, in every process. A second call changes nothing; another tenant's key is NotFound."""
    row = await session.scalar(_of_people(tenant_id, key_id).with_for_update())
    if row is None:
        raise _missing()
    if row.revoked_at is None:
        await _revoke_where(session, ApiKey.id == key_id)


async def revoke_for_bot(session: AsyncSession, bot_id: BotId) -> int:
    """Refuse every service key of a bot; how many there were."""
    return await _revoke_where(session, ApiKey.bot_id == bot_id)


async def find_by_hash(session: AsyncSession, key_hash: bytes) -> KeyRecord | None:
    """The key with this SHA-256, revoked and expired ones included: the caller decides, so that it can cache."""
    owner_verified = exists().where(
        Membership.tenant_id == ApiKey.tenant_id,
        Membership.role == Role.OWNER.value,
        User.id == Membership.user_id,
        User.email_verified_at.is_not(None),
    )
    query = (
        select(ApiKey, Tenant.suspended_at, owner_verified.label("verified"))
        .join(Tenant, Tenant.id == ApiKey.tenant_id)
        .where(ApiKey.key_hash == key_hash)
    )
    row = (await session.execute(query)).one_or_none()
    if row is None:
        return None
    key, suspended_at, verified = row
    return KeyRecord(
        key_id=KeyId(key.id),
        tenant_id=TenantId(key.tenant_id),
        scope=Scope(key.scope),
        bot_id=None if key.bot_id is None else BotId(key.bot_id),
        expires_at=key.expires_at,
        revoked=key.revoked_at is not None,
        tenant_suspended=suspended_at is not None,
        email_verified=bool(verified),
    )


async def touch(session: AsyncSession, last_used: Mapping[KeyId, datetime]) -> None:
    """Record when keys were last used, many at once; an older time never replaces a newer one."""
    if not last_used:
        return
    statement = (
        update(ApiKey.__table__)  # type: ignore[arg-type]  # a mapped class' table is a Table
        .where(ApiKey.__table__.c.id == bindparam("key"))
        .values(
            last_used_at=func.greatest(
                ApiKey.__table__.c.last_used_at, bindparam("used", type_=DateTime(timezone=True))
            )
        )
    )
    rows = [{"key": key, "used": used} for key, used in sorted(last_used.items())]
    connection = await session.connection()
    await connection.execute(statement, rows)


async def _refuse_too_many(session: AsyncSession, tenant_id: TenantId) -> None:
    await session.execute(select(Tenant.id).where(Tenant.id == tenant_id).with_for_update())
    living = await session.scalar(
        select(func.count()).where(
            ApiKey.tenant_id == tenant_id,
            ApiKey.bot_id.is_(None),
            ApiKey.revoked_at.is_(None),
            or_(ApiKey.expires_at.is_(None), ApiKey.expires_at > func.now()),
        )
    )
    if (living or 0) >= KEYS_PER_TENANT_MAX:
        raise Conflict(
            f"There are {KEYS_PER_TENANT_MAX} keys already, which is the most an account may have.",
            code="too_many_keys",
            remedy="Revoke one that is no longer used.",
        )


async def _revoke_where(session: AsyncSession, condition: ColumnElement[bool]) -> int:
    hashes = (
        await session.scalars(
            update(ApiKey)
            .where(condition, ApiKey.revoked_at.is_(None))
            .values(revoked_at=func.now())
            .returning(ApiKey.key_hash)
            .execution_options(synchronize_session=False)
        )
    ).all()
    for key_hash in hashes:
        await notify(session, KEYS_CHANNEL, key_hash.hex())
    return len(hashes)


def _of_people(tenant_id: TenantId, key_id: UUID) -> Select[ApiKey]:
    return select(ApiKey).where(ApiKey.id == key_id, ApiKey.tenant_id == tenant_id, ApiKey.bot_id.is_(None))


def _missing() -> NotFound:
    return NotFound("There is no such key.", remedy="List the keys of your account to see their ids.")


def _view(row: ApiKey) -> KeyView:
    return KeyView(
        id=row.id,
        name=row.name,
        scope=Scope(row.scope),
        prefix=row.prefix,
        created_at=row.created_at,
        expires_at=row.expires_at,
        last_used_at=row.last_used_at,
        revoked_at=row.revoked_at,
    )
