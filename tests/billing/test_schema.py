"""The migration makes the tables that the models describe."""

from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlalchemy import Connection

from wopr.billing import models
from wopr.core.db import Base, Database


async def test_the_models_and_the_migrated_tables_agree(db: Database) -> None:
    ours = {table for table in Base.metadata.tables if table.startswith(("ledger_", "usage_", "runtime_", "stripe_"))}
    assert len(ours) == 12
    assert models.LedgerAccount.__tablename__ in ours

    def differences(connection: Connection) -> list[object]:
        def include(name: str | None, kind: str, _parents: object) -> bool:
            return kind != "table" or name in ours

        options = {"include_name": include, "compare_type": True}
        found = compare_metadata(MigrationContext.configure(connection, opts=options), Base.metadata)
        return [change for change in found if _table(change) in ours]

    async with db.engine.connect() as connection:
        assert await connection.run_sync(differences) == []


def _table(change: object) -> str:
    first = change[0] if isinstance(change, list) else change
    assert isinstance(first, tuple)
    for part in first[1:]:
        name = getattr(getattr(part, "table", part), "name", part)
        if isinstance(name, str) and name in Base.metadata.tables:
            return name
    return ""
