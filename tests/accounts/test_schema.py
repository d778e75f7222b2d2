"""The migration makes exactly the tables that the code expects."""

from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlalchemy import Connection

from wopr.accounts import models
from wopr.core.db import Base, Database

OURS = {table.name for table in Base.metadata.tables.values()} & {
    mapper.local_table.name for mapper in models.Base.registry.mappers if mapper.class_.__module__ == models.__name__
}


async def test_the_migrated_tables_of_accounts_equal_the_models(db: Database) -> None:
    def differences(connection: Connection) -> list[object]:
        context = MigrationContext.configure(
            connection,
            opts={
                "include_name": lambda name, kind, _parents: kind != "table" or name in OURS,
                "include_object": lambda thing, name, kind, _reflected, _other: kind != "table" or name in OURS,
            },
        )
        return compare_metadata(context, Base.metadata)

    assert len(OURS) == 9
    async with db.begin() as session:
        connection = await session.connection()
        assert await connection.run_sync(differences) == []
