"""The migration makes exactly the tables that the code expects."""

from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlalchemy import Connection

from wopr.core.db import Base, Database
from wopr.fleet import models

OURS = {
    model.__tablename__
    for model in (
        models.Bot,
        models.BotObserved,
        models.BotRun,
        models.BotImage,
        models.BotImageFailure,
        models.BotUpdate,
    )
}


async def test_the_migrated_tables_of_the_fleet_equal_the_models(db: Database) -> None:
    def differences(connection: Connection) -> list[object]:
        context = MigrationContext.configure(
            connection,
            opts={
                "include_name": lambda name, kind, _parents: kind != "table" or name in OURS,
                "include_object": lambda _thing, name, kind, _reflected, _other: kind != "table" or name in OURS,
            },
        )
        return list(compare_metadata(context, Base.metadata))

    async with db.begin() as session:
        connection = await session.connection()
        assert await connection.run_sync(differences) == []
