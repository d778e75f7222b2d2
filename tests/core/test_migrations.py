"""The chain of migrations is linear, ends where the code says, and makes exactly the tables of the models."""

from pathlib import Path

from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection

import wopr.accounts.models
import wopr.billing.models
import wopr.core.idempotency
import wopr.core.loops
import wopr.fleet.models
import wopr.inference.models
import wopr.migrations
from wopr.core.db import Base, Database
from wopr.migrations.head import head_revision


def scripts() -> ScriptDirectory:
    config = Config()
    config.set_main_option("script_location", str(Path(wopr.migrations.__file__).parent))
    config.set_main_option("path_separator", "os")
    return ScriptDirectory.from_config(config)


def test_there_is_one_head_and_it_is_the_one_that_servers_wait_for() -> None:
    assert scripts().get_heads() == [head_revision()]


def test_files_are_named_by_their_revision_and_follow_their_number() -> None:
    chain = [revision.revision for revision in scripts().walk_revisions()][::-1]
    assert chain == sorted(chain)
    files = sorted(file.stem for file in (Path(wopr.migrations.__file__).parent / "versions").glob("[0-9]*.py"))
    assert files == chain


async def test_the_migrated_database_is_what_the_models_say(db: Database) -> None:
    def differences(connection: Connection) -> list[object]:
        return list(
            compare_metadata(MigrationContext.configure(connection, opts={"compare_type": True}), Base.metadata)
        )

    async with db.engine.connect() as connection:
        assert await connection.run_sync(differences) == []
