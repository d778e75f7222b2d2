"""A short-lived child of `wopr up`: migrates the database, registers this machine's services, makes the sign-in link.

It is a process of its own so that the supervisor, which lives for weeks, never loads what only this needs; and it loads
that while the database is still starting. It writes one JSON line for each thing done.
"""

import wopr.core.lean  # isort: skip  # noqa: F401

import asyncio
import json
import sys
import time

import asyncpg

from wopr.accounts.admin import one_time_link
from wopr.core.database_url import database_url
from wopr.core.db import Database
from wopr.core.errors import Unavailable, WoprError
from wopr.core.ids import NodeId
from wopr.core.settings import Settings, load_settings
from wopr.inference.nodes import Node, register
from wopr.migrations.head import head_revision
from wopr.ops.journal import Journal

FAILED = "failed"
ADMINISTRATOR = "admin@localhost.test"
POLL_SECONDS = 0.05
DATABASE_SECONDS_MAX = 60.0
THEIR_DATABASE_SECONDS_MAX = 15.0
REFUSALS = (
    Unavailable,
    asyncpg.InterfaceError,
    asyncpg.InvalidAuthorizationSpecificationError,
    asyncpg.InvalidCatalogNameError,
)
REMEDY = "Start PostgreSQL, or correct DATABASE_URL; without it `wopr up` brings its own."


async def prepare(settings: Settings) -> None:
    """Do all of it; each part is safe to do again."""
    url = await _database(settings)
    db = Database(url, pool_size=2)
    try:
        at, head = await db.revision(), head_revision()
        if at is None or at < head:
            from wopr.migrations.run import upgrade  # loads Alembic, which an up-to-date database does not need

            if at is not None:
                await _guard(url, at)
            with Journal(settings.wopr_home).operation("migrate.apply", database_at=at, code_at=head):
                await upgrade(url)
        _tell({"done": "migrated"})
        async with db.begin() as session:
            names = ("llama", "chatterbox", "whisper", "qwen")
            ports = {name: int(getattr(settings, f"{name}_port")) for name in names}
            key = settings.engine_api_key.get_secret_value() if settings.engine_api_key else None
            await register(session, Node(NodeId(settings.gpu_node_id), settings.engine_host, ports=ports, api_key=key))
            link = await one_time_link(session, settings, ADMINISTRATOR)
        _tell({"done": "registered", "link": link})
    finally:
        await db.dispose()


async def _guard(url: str, at: str) -> None:
    """Refuse what would lose data; a database that is new has none."""
    from wopr.cli.migrate_local import judged
    from wopr.delivery.migrate import guard

    guard(await judged(url, at), allow_destructive=False, cutover=False)


async def _database(settings: Settings) -> str:
    """The address once the database answers."""
    theirs = settings.database_url is not None
    deadline = time.monotonic() + (THEIR_DATABASE_SECONDS_MAX if theirs else DATABASE_SECONDS_MAX)
    while True:
        try:
            url = database_url(settings)
            await (await asyncpg.connect(url, timeout=2)).close()
        except (Unavailable, OSError, TimeoutError, asyncpg.PostgresError, asyncpg.InterfaceError) as error:
            # Our own is still being made; one of the operator's that lets nobody in will not do so later.
            if (theirs and isinstance(error, REFUSALS)) or time.monotonic() > deadline:
                raise Unavailable(
                    f"The database can't be used: {error or 'no answer in time'}", remedy=REMEDY
                ) from error
            await asyncio.sleep(POLL_SECONDS)
        else:
            return url


def _tell(what: dict[str, str]) -> None:
    sys.stdout.write(json.dumps(what) + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    try:
        asyncio.run(prepare(load_settings()))
    except WoprError as error:
        _tell({"done": FAILED, "message": error.message, "remedy": error.remedy})
        sys.exit(1)
