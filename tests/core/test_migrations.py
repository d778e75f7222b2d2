"""The chain of migrations is linear, ends where the code says, and makes exactly the tables of the models."""

import json
import uuid
from pathlib import Path
from typing import Any

import asyncpg
import pytest
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
from wopr.cli.root import run
from wopr.core.db import Base, Database
from wopr.core.errors import NotFound
from wopr.migrations.head import head_revision
from wopr.migrations.run import known_revisions, revisions_sql, sql_document


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


def test_the_sql_of_every_migration_is_known_without_a_database() -> None:
    written = revisions_sql()
    assert [entry.revision for entry in written] == known_revisions()
    assert not [entry for entry in written if entry.error or not entry.statements]
    document = sql_document("0004_inference")
    assert [entry["revision"] for entry in document["revisions"]] == known_revisions()[4:]
    assert sql_document(head_revision())["revisions"] == []


def test_a_release_that_has_nothing_to_migrate_is_answered_as_by_alembic(capsys: pytest.CaptureFixture[str]) -> None:
    """The command knows it without loading Alembic."""
    assert run(["migrate", "--sql", "--json", "--from", head_revision()]) == 0
    assert json.loads(capsys.readouterr().out) == sql_document(head_revision())


def test_a_database_ahead_of_the_code_has_nothing_pending_and_an_unknown_revision_is_an_error() -> None:
    assert sql_document("9999_later")["ahead"] is True
    with pytest.raises(NotFound, match="0002_elsewhere"):
        sql_document("0002_elsewhere")


async def test_the_written_sql_makes_the_same_database_as_the_migrations(postgres_url: str, db: Database) -> None:
    name = f"t_sql_{uuid.uuid4().hex[:8]}"
    server = await asyncpg.connect(postgres_url)
    try:
        await server.execute(f"CREATE DATABASE {name}")
        written = await asyncpg.connect(postgres_url.rpartition("/")[0] + "/" + name)
        for entry in revisions_sql():
            await written.execute("\n".join(entry.statements))
        migrated = await db.connect_raw()
        try:
            assert await described(written) == await described(migrated)
        finally:
            await written.close()
            await migrated.close()
    finally:
        await server.execute(f"DROP DATABASE IF EXISTS {name} WITH (FORCE)")
        await server.close()


async def described(connection: Any) -> list[tuple[Any, ...]]:
    columns = await connection.fetch(
        "SELECT table_name, column_name, data_type, is_nullable, column_default FROM information_schema.columns "
        "WHERE table_schema = 'public' ORDER BY 1, 2"
    )
    constraints = await connection.fetch(
        "SELECT conrelid::regclass::text, conname, pg_get_constraintdef(oid) FROM pg_constraint "
        "WHERE connamespace = 'public'::regnamespace ORDER BY 1, 2"
    )
    revision = await connection.fetch("SELECT version_num FROM alembic_version")
    return [tuple(row) for row in (*columns, *constraints, *revision)]
