"""Apply migrations from Python: no alembic.ini, the address comes from the caller."""

from pathlib import Path

from alembic import command
from alembic.config import Config
from sqlalchemy.ext.asyncio import AsyncConnection, create_async_engine
from sqlalchemy.pool import NullPool

from wopr.core.db import sqlalchemy_url

# Two processes that start at once must not migrate at once: the second waits, then finds nothing to do.
MIGRATION_LOCK = 0x574F5052


async def upgrade(url: str, target: str = "head") -> None:
    """Bring the database at `url` to `target`, all pending migrations in order, in one transaction each."""
    engine = create_async_engine(sqlalchemy_url(url), poolclass=NullPool)
    try:
        async with engine.connect() as connection:
            await connection.exec_driver_sql(f"SELECT pg_advisory_lock({MIGRATION_LOCK})")
            await connection.commit()
            try:
                await _upgrade(connection, target)
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
