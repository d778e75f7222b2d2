"""The verdict against a real server: whatever is not called destroying leaves every row that was there."""

import json
import random
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

import asyncpg
import pytest

from wopr.delivery.classify import Classifier, Kind
from wopr.delivery.dump_source import TYPES_SQL

ROUNDS = 250
STATEMENTS = """
CREATE TABLE {new} (id int PRIMARY KEY, note text)
CREATE TABLE IF NOT EXISTS {any} (id int PRIMARY KEY, note text)
CREATE TABLE {new} AS SELECT * FROM {old}
INSERT INTO {any} (id, note) VALUES (900, 'DROP TABLE kept') ON CONFLICT DO NOTHING
INSERT INTO {any} (id, note) VALUES (1, 'other') ON CONFLICT (id) DO UPDATE SET note = 'gone'
ALTER TABLE {any} ADD COLUMN {column} int
ALTER TABLE {any} ADD COLUMN IF NOT EXISTS {column} int NOT NULL DEFAULT 1
ALTER TABLE {any} ADD COLUMN {column} int DEFAULT 900 REFERENCES {new} (id) ON DELETE CASCADE
ALTER TABLE {any} DROP COLUMN {column}
ALTER TABLE {any} DROP COLUMN note
ALTER TABLE {any} RENAME TO {any}
ALTER TABLE {any} RENAME COLUMN note TO {column}
ALTER TABLE {any} RENAME COLUMN {column} TO note
ALTER TABLE {any} ALTER COLUMN note TYPE varchar(3)
ALTER TABLE {any} ALTER COLUMN id TYPE bigint
ALTER TABLE {any} ALTER COLUMN id TYPE smallint
ALTER TABLE {any} ADD CONSTRAINT c{number} CHECK (id > 0)
UPDATE {any} SET {column} = 7
UPDATE {any} SET {column} = 7, note = 'x'
UPDATE {any} SET note = upper(note)
DELETE FROM {any}
TRUNCATE {any}
TRUNCATE {any} CASCADE
DROP TABLE {any}
DROP TABLE IF EXISTS {any}
DROP TABLE {any} CASCADE
CREATE INDEX i{number} ON {any} (note)
DROP INDEX IF EXISTS i{number}
WITH gone AS (DELETE FROM {any} RETURNING *) SELECT count(*) FROM gone
CREATE VIEW v{number} AS SELECT id FROM {any}
CREATE FUNCTION f{number}() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN DELETE FROM kept; RETURN NEW; END $$
CREATE TRIGGER t{number} AFTER INSERT OR UPDATE ON {any} FOR EACH ROW EXECUTE FUNCTION f{number}()
DO $$ BEGIN DELETE FROM kept; END $$
/* DROP TABLE kept */ SELECT 1
SELECT 'x' AS "; DROP TABLE kept;"
COMMENT ON TABLE {any} IS E'it\\'s; DROP TABLE kept'
""".strip().splitlines()
NAMES = ("kept", "bought", "fresh", "other")


@pytest.fixture
async def connection(database_address: str) -> AsyncIterator[Any]:
    made = await asyncpg.connect(database_address, statement_cache_size=0)
    for table in ("kept", "bought"):
        await made.execute(f"CREATE TABLE {table} (id int PRIMARY KEY, note text)")
        await made.execute(f"INSERT INTO {table} SELECT n, 'a note of some length' FROM generate_series(1, 5) n")
    yield made
    await made.close()


def sequence(rng: random.Random) -> list[str]:
    return [
        rng.choice(STATEMENTS)
        .replace("{new}", rng.choice(NAMES[2:]))
        .replace("{old}", rng.choice(NAMES[:2]))
        .replace("{any}", rng.choice(NAMES), 1)
        .replace("{any}", rng.choice(NAMES))
        .replace("{column}", rng.choice(("extra", "more")))
        .replace("{number}", str(rng.randint(1, 2)))
        for _ in range(rng.randint(1, 7))
    ]


async def kept(connection: Any, table: str) -> list[tuple[int, str]]:
    rows = await connection.fetch(f"SELECT id, note FROM {table} WHERE id < 900 ORDER BY id")
    return [(row["id"], row["note"]) for row in rows]


async def test_nothing_that_is_not_called_destroying_loses_a_row_or_a_value(connection: Any) -> None:
    types = {}
    for (row,) in await connection.fetch(TYPES_SQL):
        table, column, kind = json.loads(row)
        types[table, column] = kind
    before = {table: await kept(connection, table) for table in NAMES[:2]}
    rng, harmless, lossy = random.Random(7), 0, 0
    for _ in range(ROUNDS):
        transaction = connection.transaction()
        await transaction.start()
        try:
            done = await applied(connection, sequence(rng), types)
            if done is None:
                continue  # the migration would have been rolled back as a whole
            harmless += bool(done.statements)
            lossy += done.refused
            for table, rows in before.items():
                assert await kept(connection, table) == rows, done
        finally:
            await transaction.rollback()
    assert harmless > ROUNDS / 5
    assert lossy > ROUNDS / 5


@dataclass
class Applied:
    statements: list[str]
    refused: bool = False


async def applied(connection: Any, statements: list[str], types: dict[tuple[str, str], str]) -> Applied | None:
    """Run what is not called destroying, up to the first that is; None when the server refuses one."""
    classifier, done = Classifier(types), Applied([])
    for sql in statements:
        if any(finding.kind is Kind.DESTROYS or finding.breaks for finding in classifier.classify(sql)):
            done.refused = True
            return done
        try:
            await connection.execute(sql)
        except asyncpg.PostgresError:
            return None
        done.statements.append(sql)
    return done
