"""Apply migrations from Python, or write their SQL: no alembic.ini, the address comes from the caller."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from alembic import command
from alembic.config import Config
from alembic.script import ScriptDirectory
from alembic.util import CommandError
from sqlalchemy.exc import DBAPIError, SQLAlchemyError
from sqlalchemy.ext.asyncio import AsyncConnection, create_async_engine
from sqlalchemy.pool import NullPool

from wopr.core.db import sqlalchemy_url
from wopr.core.errors import NotFound, UpstreamFailed

# Two processes that start at once must not migrate at once: the second waits, then finds nothing to do.
MIGRATION_LOCK = 0x574F5052
STATEMENT_CHARACTERS_MAX = 300


@dataclass(frozen=True)
class RevisionSql:
    """What one migration sends to the server. `error` says why that can't be known without running it."""

    revision: str
    statements: Sequence[str] = ()
    error: str = ""


@dataclass
class _Statements:
    """The text stream that Alembic writes to: one call a statement."""

    texts: list[str] = field(default_factory=list)

    def write(self, text: str) -> None:
        if text.strip():
            self.texts.append(text.strip())

    def flush(self) -> None:
        return None


def known_revisions() -> list[str]:
    """Every revision of this code, the oldest first."""
    chain = ScriptDirectory.from_config(_config()).walk_revisions()
    return [script.revision for script in chain][::-1]


def revisions_sql(after: str | None = None, until: str | None = None) -> list[RevisionSql]:
    """The SQL of every migration after `after` (None: from the first) up to `until` (None: the last), without a server.

    A migration that asks the database before it knows what to do has no such text; it carries the error instead.
    """
    chain = known_revisions()
    first = chain.index(after) + 1 if after else 0
    last = chain.index(until) + 1 if until else len(chain)
    return [_sql_of(chain[place - 1] if place else "base", chain[place]) for place in range(first, last)]


def sql_document(after: str | None = None) -> dict[str, Any]:
    """What `wopr migrate --sql --json` writes, and a release reads: the SQL of every migration after a revision.

    `ahead` is true, and the list empty, for a revision that is newer than this code. NotFound for one that no version
    of this code can have had.
    """
    chain = known_revisions()
    document: dict[str, Any] = {"from": after, "head": chain[-1], "ahead": False, "revisions": []}
    if after is not None and after not in chain:
        if after < chain[-1]:  # revisions are numbered, so a newer one sorts behind
            raise NotFound(f"There is no migration {after}.", remedy="wopr migrate status")
        return document | {"ahead": True}
    return document | {"revisions": [asdict(entry) for entry in revisions_sql(after)]}


def _sql_of(before: str, revision: str) -> RevisionSql:
    config, buffer = _config(), _Statements()
    config.attributes["buffer"] = buffer
    try:
        command.upgrade(config, f"{before}:{revision}", sql=True)
    except (CommandError, SQLAlchemyError, AttributeError, TypeError, ValueError, NotImplementedError) as error:
        return RevisionSql(revision, error=f"{type(error).__name__}: {error}"[:500])
    return RevisionSql(revision, tuple(buffer.texts))


async def upgrade(url: str, target: str = "head") -> None:
    """Bring the database at `url` to `target`, all pending migrations in order, in one transaction each.

    UpstreamFailed with PostgreSQL's own words when one fails: it is rolled back, those before it stay.
    """
    engine = create_async_engine(sqlalchemy_url(url), poolclass=NullPool)
    try:
        async with engine.connect() as connection:
            await connection.exec_driver_sql(f"SELECT pg_advisory_lock({MIGRATION_LOCK})")
            await connection.commit()
            try:
                await _upgrade(connection, target)
            except DBAPIError as error:
                statement = " ".join((error.statement or "").split())
                raise UpstreamFailed(
                    f"PostgreSQL refused a migration: {error.driver_exception}: {statement[:STATEMENT_CHARACTERS_MAX]}",
                    remedy="It was rolled back, those before it stay. Correct it, then: wopr migrate apply",
                ) from error
            finally:
                await connection.rollback()
                await connection.exec_driver_sql(f"SELECT pg_advisory_unlock({MIGRATION_LOCK})")
                await connection.commit()
    finally:
        await engine.dispose()


async def _upgrade(connection: AsyncConnection, target: str) -> None:
    config = _config()

    def run(sync_connection: object) -> None:
        config.attributes["connection"] = sync_connection
        command.upgrade(config, target)

    await connection.run_sync(run)
    await connection.commit()


def _config() -> Config:
    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent))
    config.set_main_option("path_separator", "os")
    return config
