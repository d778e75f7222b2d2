"""The database of an installation as seen from its host: commands run inside the container that it lives in.

Nothing of PostgreSQL needs to be installed on the host, its port is not published, and its password never appears on a
command line: inside the container the local socket is trusted, as in the official image.
"""

import json
from collections.abc import Sequence
from typing import Any, Protocol

from wopr.core.errors import Unavailable
from wopr.delivery.errors import HostFailed, refuse_away
from wopr.delivery.hosts import RUN_SECONDS, Output
from wopr.delivery.place import Place

USER = "wopr"
DATABASE = "wopr_platform"
SERVICE = "postgres"
PORT = 5432
# By this name the connections of a dump are found again when their deployer was killed.
APPLICATION = "wopr-dump"
QUERY_SECONDS = 60.0

REVISION_SQL = """\
SELECT to_regclass('alembic_version') IS NOT NULL AS kept \\gset
\\if :kept
SELECT json_build_object('revision', version_num) FROM alembic_version;
\\endif
"""
TYPES_SQL = """\
SELECT json_build_array(
  CASE WHEN n.nspname = 'public' THEN c.relname ELSE n.nspname || '.' || c.relname END,
  a.attname, format_type(a.atttypid, a.atttypmod))
FROM pg_attribute a JOIN pg_class c ON c.oid = a.attrelid JOIN pg_namespace n ON n.oid = c.relnamespace
WHERE c.relkind IN ('r', 'p') AND a.attnum > 0 AND NOT a.attisdropped
  AND n.nspname <> 'information_schema' AND n.nspname NOT LIKE 'pg\\_%'
"""


def exec_command(place: Place, *argv: str) -> tuple[str, ...]:
    """A command inside the database's container, with standard input."""
    container = place.container(SERVICE)
    return ("docker", "exec", "-i", "-e", f"PGAPPNAME={APPLICATION}", container, *argv)


def psql_command(place: Place, database: str = DATABASE) -> tuple[str, ...]:
    """psql that reads a script from standard input, stops at the first error and writes bare values."""
    options = ("--no-psqlrc", "--quiet", "--no-align", "--tuples-only", "--set=ON_ERROR_STOP=1")
    return exec_command(place, "psql", *options, "-U", USER, "-d", database, "-f", "-")


def password_command(place: Place) -> tuple[str, ...]:
    return ("docker", "exec", place.container(SERVICE), "printenv", "POSTGRES_PASSWORD")


class Runner(Protocol):
    """What runs commands and writes files on a host: the host itself, or a fence around it."""

    async def run(self, argv: Sequence[str], *, input: bytes = b"", timeout: float = RUN_SECONDS) -> Output: ...

    async def write(self, path: str, data: bytes, mode: int = 0o600) -> None: ...


async def query(
    host: Runner, place: Place, sql: str, *, database: str = DATABASE, timeout: float = QUERY_SECONDS
) -> list[Any]:
    """The rows of a script whose rows are JSON, one a line. Unavailable when the database does not answer."""
    done = await host.run(psql_command(place, database), input=sql.encode(), timeout=timeout)
    if not done.ok:
        raise away(place, done)
    return [json.loads(line) for line in done.out.decode().splitlines() if line.strip()]


async def revision(host: Runner, place: Place) -> str | None:
    """The migration at which the database stands; None when it was never migrated."""
    rows = await query(host, place, REVISION_SQL)
    return str(rows[0]["revision"]) if rows else None


async def column_types(host: Runner, place: Place) -> dict[tuple[str, str], str]:
    """(table, column) → its type as PostgreSQL writes it, of every table that is there."""
    rows = await query(host, place, TYPES_SQL)
    return {(table, column): kind for table, column, kind in rows}


async def expect(host: Runner, argv: Sequence[str], what: str, *, timeout: float = QUERY_SECONDS) -> Output:
    """Run a command that must succeed; HostFailed says what failed and why, HostAway that the engine is away."""
    done = await host.run(argv, timeout=timeout)
    if not done.ok:
        refuse_away(done.complaint, "the host")
        raise HostFailed(f"{what}: {done.complaint}")
    return done


def away(place: Place, done: Output) -> Unavailable:
    """The error for a database that did not do as it was told."""
    return Unavailable(
        f"The database in {place.container(SERVICE)} does not answer: {done.complaint}",
        remedy=f"Look at it with: docker logs --tail 50 {place.container(SERVICE)}",
    )
