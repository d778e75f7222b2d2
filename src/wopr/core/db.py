"""PostgreSQL through SQLAlchemy: one engine a process, one transaction at the boundary.

Routes and loop passes open `Database.begin`; domain functions take the session and never commit.
"""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import asyncpg
from sqlalchemy import MetaData, text
from sqlalchemy.ext.asyncio import AsyncSession, async_sessionmaker, create_async_engine
from sqlalchemy.orm import DeclarativeBase

CONNECT_TIMEOUT_SECONDS = 5
STATEMENT_TIMEOUT_MILLISECONDS = 30_000
POOL_WAIT_SECONDS_MAX = 5


class Base(DeclarativeBase):
    """The parent of every table; constraint names are fixed, so that migrations can name them."""

    metadata = MetaData(
        naming_convention={
            "ix": "ix_%(table_name)s_%(column_0_N_name)s",
            "uq": "uq_%(table_name)s_%(column_0_N_name)s",
            "ck": "ck_%(table_name)s_%(constraint_name)s",
            "fk": "fk_%(table_name)s_%(column_0_name)s_%(referred_table_name)s",
            "pk": "pk_%(table_name)s",
        }
    )


class Database:
    """A pool of connections to one database. `url` is a plain `postgresql://…`."""

    def __init__(self, url: str, pool_size: int = 10) -> None:
        self.url = url
        self.engine = create_async_engine(
            sqlalchemy_url(url),
            pool_size=pool_size,
            max_overflow=0,
            pool_pre_ping=True,
            pool_timeout=POOL_WAIT_SECONDS_MAX,
            # Parameters are customers' data and secrets; errors end up in logs.
            hide_parameters=True,
            connect_args={
                "timeout": CONNECT_TIMEOUT_SECONDS,
                "server_settings": {
                    "application_name": "wopr",
                    "timezone": "UTC",
                    "statement_timeout": str(STATEMENT_TIMEOUT_MILLISECONDS),
                },
            },
        )
        self._sessions = async_sessionmaker(self.engine, expire_on_commit=False)

    @asynccontextmanager
    async def begin(self) -> AsyncIterator[AsyncSession]:
        """One transaction: committed when the block ends, rolled back when it raises."""
        async with self._sessions.begin() as session:
            yield session

    async def connect_raw(self) -> "asyncpg.Connection[Any]":
        """A connection outside the pool, for LISTEN and session-level advisory locks. The caller closes it."""
        return await asyncpg.connect(self.url, timeout=CONNECT_TIMEOUT_SECONDS)

    async def revision(self) -> str | None:
        """The migration at which the database stands; None when it was never migrated."""
        async with self.begin() as session:
            exists = await session.scalar(text("SELECT to_regclass('alembic_version') IS NOT NULL"))
            if not exists:
                return None
            value: str | None = await session.scalar(text("SELECT version_num FROM alembic_version"))
            return value

    async def dispose(self) -> None:
        """Close every connection."""
        await self.engine.dispose()


def sqlalchemy_url(url: str) -> str:
    """The same address with the driver's name that SQLAlchemy wants."""
    return f"postgresql+asyncpg://{url.partition('://')[2]}"
