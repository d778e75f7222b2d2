"""One PostgreSQL for the whole run, one fresh migrated database for each test that asks.

WOPR_TEST_DATABASE_URL uses a server that runs already (its user must be able to create databases); otherwise the
embedded one is started in a temporary folder and stopped at the end.
"""

import asyncio
import os
import shutil
import signal
import tempfile
import uuid
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import asyncpg
import pytest
from hypothesis import HealthCheck, settings
from tests.live import administrator, customer, live  # noqa: F401 (fixtures for all)
from tests.scheduling import LongestFirst

from wopr.core import db as databases
from wopr.core.db import Database
from wopr.core.postgres import EmbeddedPostgres
from wopr.migrations.run import upgrade

# No test depends on how quick the machine is.
databases.POOL_WAIT_SECONDS_MAX = 100
settings.register_profile("wopr", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("wopr")

TEMPLATE = "wopr_template"
MEMORY_BYTES_MIN = 2 * 1024**3


def pytest_configure() -> None:
    """A shell that starts us in the background has us ignore Ctrl-C, and every command that a test interrupts, too."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> LongestFirst | None:
    """What `--dist loadgroup` means here: with pytest 9.2, pytest-xdist 3.8 sees no groups and splits every file."""
    return LongestFirst(config, log) if config.getoption("dist") == "loadgroup" else None


def _memory_folder() -> Path | None:
    """A file system in memory where there is one with room: copying a database then takes 60 ms, not 800."""
    memory = Path("/dev/shm")
    roomy = memory.is_dir() and os.access(memory, os.W_OK) and shutil.disk_usage(memory).free > MEMORY_BYTES_MIN
    return memory if roomy else None


def _sibling(url: str, name: str) -> str:
    return url.rpartition("/")[0] + "/" + name


async def _execute(url: str, *statements: str) -> None:
    connection = await asyncpg.connect(url)
    try:
        for statement in statements:
            await connection.execute(statement)
    finally:
        await connection.close()


@pytest.fixture(scope="session")
def postgres_url() -> Iterator[str]:
    """The address of a PostgreSQL server that this run may fill with databases."""
    if given := os.environ.get("WOPR_TEST_DATABASE_URL"):
        yield given
        return
    folder = Path(tempfile.mkdtemp(prefix="wopr-test-", dir=_memory_folder()))
    # Nothing here must survive a power cut, and waiting for the disk is most of a test's time.
    server = EmbeddedPostgres(folder, {"fsync": "off", "synchronous_commit": "off", "full_page_writes": "off"})
    server.prepare()
    process = server.start()
    try:
        yield server.wait_ready(process)
    finally:
        server.stop(process)
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="session")
def template_database(postgres_url: str) -> str:
    """A migrated database that is copied for each test: 30 ms instead of every migration again."""
    name = f"{TEMPLATE}_{uuid.uuid4().hex[:8]}"
    asyncio.run(_execute(postgres_url, f"CREATE DATABASE {name}"))
    asyncio.run(upgrade(_sibling(postgres_url, name)))
    return name


@pytest.fixture
def database_address(postgres_url: str, template_database: str) -> Iterator[str]:
    """The address of a fresh migrated database, dropped afterwards."""
    name = f"t_{uuid.uuid4().hex[:12]}"
    asyncio.run(_execute(postgres_url, f"CREATE DATABASE {name} TEMPLATE {template_database} STRATEGY FILE_COPY"))
    yield _sibling(postgres_url, name)
    asyncio.run(_execute(postgres_url, f"DROP DATABASE IF EXISTS {name} WITH (FORCE)"))


@pytest.fixture
async def db(database_address: str) -> AsyncIterator[Database]:
    """A `Database` on a fresh migrated database."""
    database = Database(database_address, pool_size=10)
    yield database
    await database.dispose()
