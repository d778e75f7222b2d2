"""A dump is kept only when it restores to what the database held, and a killed one leaves nothing for long.

The commands run for real, on a real server; only the container around them is this machine (`tests/machines` has the
real one).
"""

# ruff: noqa: ASYNC240 - a test looks at its files where it stands
import asyncio
import json
import os
import shutil
import signal
import stat
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from urllib.parse import urlsplit

import asyncpg
import pytest

from wopr.core.errors import Unavailable
from wopr.core.postgres import EmbeddedPostgres, binaries
from wopr.delivery.dump import Dump, dump_verified, expired, recover_dumps
from wopr.delivery.dump_facts import Facts, differences, ending_of
from wopr.delivery.dump_source import revision
from wopr.delivery.errors import HostFailed
from wopr.delivery.hosts import RUN_SECONDS, LocalHost, Output
from wopr.delivery.place import Place
from wopr.migrations.run import upgrade


class InsideOut(LocalHost):
    """This machine, where `docker exec` runs the command here, beside the server, and `docker cp` copies here."""

    def __init__(self, url: str) -> None:
        super().__init__("the test's machine")
        address = urlsplit(url)
        port, password = str(address.port), str(address.password)
        object.__setattr__(self, "connection", ("PGHOST=127.0.0.1", f"PGPORT={port}", f"PGPASSWORD={password}"))
        object.__setattr__(self, "seen", [])
        object.__setattr__(self, "spoil", "")

    async def run(self, argv: Sequence[str], *, input: bytes = b"", timeout: float = RUN_SECONDS) -> Output:
        self.seen.append(tuple(argv))  # type: ignore[attr-defined]
        inside = list(argv)
        if argv[:2] == ("docker", "exec"):
            path = f"PATH={binaries()}:{os.environ['PATH']}"
            command = inside[inside.index("wopr-postgres") + 1 :]
            if self.spoil and command[0] == "pg_restore":  # type: ignore[attr-defined]
                command = ["sh", "-c", '"$@" && ' + self.spoil, "sh", *command]  # type: ignore[attr-defined]
                command = [part.replace("SCRATCH", inside[inside.index("-d") + 1]) for part in command]
            inside = ["env", path, "PGAPPNAME=wopr-dump", *self.connection, *command]  # type: ignore[attr-defined]
        elif argv[:2] == ("docker", "cp"):
            inside = ["cp", inside[2].partition(":")[2], inside[3]]
        return await super().run(inside, input=input, timeout=timeout)


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    folder = Path(tempfile.mkdtemp(prefix="wopr-dump-server-", dir="/dev/shm" if Path("/dev/shm").is_dir() else None))
    postgres = EmbeddedPostgres(folder, {"fsync": "off"})
    postgres.prepare()
    process = postgres.start()
    try:
        url = postgres.wait_ready(process)
        asyncio.run(_filled(url))
        yield url
    finally:
        postgres.stop(process)
        shutil.rmtree(folder, ignore_errors=True)


async def _filled(url: str) -> None:
    await upgrade(url)
    connection = await asyncpg.connect(url)
    await connection.execute(
        "CREATE TABLE counted (id bigserial PRIMARY KEY, note varchar(20) CHECK (note IN ('a','b')))"
    )
    await connection.execute("INSERT INTO counted (note) SELECT 'a' FROM generate_series(1, 500)")
    await connection.execute('CREATE SCHEMA other CREATE TABLE "Odd name" (id int)')
    await connection.close()


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return Place(str(tmp_path))


async def databases(url: str) -> set[str]:
    connection = await asyncpg.connect(url)
    try:
        return {row["datname"] for row in await connection.fetch("SELECT datname FROM pg_database")}
    finally:
        await connection.close()


async def test_a_dump_is_restored_compared_and_kept_for_its_owner_only(server: str, place: Place) -> None:
    host = InsideOut(server)
    dump = await dump_verified(host, place)
    path = Path(dump.path)
    assert dump.revision == await revision(host, place)
    assert path.name.endswith(f"-{dump.revision}.dump")
    assert path.stat().st_size == dump.bytes > 1000
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    assert dump.tables > 20
    assert dump.rows > 500
    assert Dump(**json.loads(path.with_suffix(".json").read_text())) == dump
    assert not list(Path(place.dumps).glob("*.partial"))
    assert not [name for name in await databases(server) if name.startswith("wopr_verify_")]


async def test_rows_are_counted_in_the_snapshot_of_the_dump_while_others_write(server: str, place: Place) -> None:
    writing = asyncio.Event()

    async def write() -> None:
        connection = await asyncpg.connect(server)
        try:
            while True:
                await connection.execute("INSERT INTO counted (note) SELECT 'b' FROM generate_series(1, 20)")
                writing.set()
        finally:
            await connection.close()

    writer = asyncio.create_task(write())
    try:
        await writing.wait()
        dump = await dump_verified(InsideOut(server), place)
        assert dump.rows > 500
    finally:
        writer.cancel()
        await asyncio.gather(writer, return_exceptions=True)


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        ('psql -q -U wopr -d SCRATCH -c "DELETE FROM counted WHERE id = 1"', "counted"),
        ('psql -q -U wopr -d SCRATCH -c "ALTER TABLE counted DROP CONSTRAINT counted_pkey"', "counted_pkey"),
        ('psql -q -U wopr -d SCRATCH -c "DROP TABLE counted"', "public.counted"),
        ("false", "can't be restored"),
    ],
)
async def test_a_dump_that_restores_to_something_else_is_refused_and_leaves_nothing(
    server: str, place: Place, spoil: str, said: str
) -> None:
    host = InsideOut(server)
    object.__setattr__(host, "spoil", spoil)
    with pytest.raises(HostFailed, match=said):
        await dump_verified(host, place)
    assert list(Path(place.dumps).iterdir()) == []
    assert not [name for name in await databases(server) if name.startswith("wopr_verify_")]


async def test_what_a_killed_dump_left_is_removed_by_the_next(server: str, place: Place) -> None:
    Path(place.dumps).mkdir()
    (Path(place.dumps) / "20260101T000000Z-x.dump.partial").write_bytes(b"half")
    inner = Path(tempfile.gettempdir()) / "wopr-dump-left"
    inner.write_bytes(b"half")
    connection = await asyncpg.connect(server)
    await connection.execute("CREATE DATABASE wopr_verify_left")
    await connection.close()
    hanging = await asyncpg.connect(server, server_settings={"application_name": "wopr-dump"})
    await recover_dumps(InsideOut(server), place)
    assert list(Path(place.dumps).iterdir()) == []
    assert not inner.exists()
    assert "wopr_verify_left" not in await databases(server)
    with pytest.raises((asyncpg.PostgresError, asyncpg.InterfaceError, OSError)):
        await hanging.execute("SELECT 1")
    await hanging.close()


async def test_only_the_newest_are_kept(server: str, place: Place) -> None:
    folder = Path(place.dumps)
    folder.mkdir()
    for day in range(1, 4):
        (folder / f"2026010{day}T000000Z-0001_core.dump").write_bytes(b"x")
        (folder / f"2026010{day}T000000Z-0001_core.json").write_text("{}")
    dump = await dump_verified(InsideOut(server), place, keep=2)
    names = sorted(path.name for path in folder.glob("*.dump"))
    assert names == ["20260103T000000Z-0001_core.dump", Path(dump.path).name]
    assert len(list(folder.glob("*.json"))) == 2


def test_the_newest_dump_is_never_removed_and_other_files_are_not_counted() -> None:
    names = ["20260101T000000Z-a.dump", "20260102T000000Z-b.dump", "mine.dump", "20260101T000000Z-a.json"]
    assert expired(names, 1) == ["20260101T000000Z-a.dump"]
    assert expired(names, 0) == ["20260101T000000Z-a.dump"]
    assert expired(names, 5) == []


async def test_a_database_that_is_away_is_said_so(tmp_path: Path) -> None:
    with pytest.raises(Unavailable, match="does not answer"):
        await dump_verified(InsideOut("postgresql://wopr:x@127.0.0.1:1/wopr_platform"), Place(str(tmp_path)))


def test_differences_are_told_in_words_and_the_end_of_pg_dump_too() -> None:
    source = Facts(frozenset({("index", "public.a", "i")}), {"public.a": 3, "public.b": 1})
    copy = Facts(frozenset({("index", "public.a", "j")}), {"public.a": 2})
    assert differences(source, source) == []
    assert differences(source, copy) == [
        "index public.a i is missing",
        "index public.a j is not in the source",
        "public.a has 3 rows and its copy 2",
        "public.b has 1 rows and its copy None",
    ]
    assert ending_of([["ended", "0"]]) == ""
    assert ending_of([["ended", "pg_dump: error: no space left\n1"]]) == "pg_dump: error: no space left"
    assert ending_of([]) == "it was not run"


async def test_a_dump_that_is_killed_midway_is_taken_whole_by_the_next(server: str, place: Place) -> None:
    """The process that dumps is killed at some point of each command; the next run always ends with one whole dump."""
    script = (
        "import asyncio, sys; from tests.delivery.test_dump import InsideOut; from wopr.delivery.place import Place; "
        "from wopr.delivery.dump import dump_verified; "
        "asyncio.run(dump_verified(InsideOut(sys.argv[1]), Place(sys.argv[2])))"
    )
    for delay in (0.7, 0.9, 1.1):
        process = await asyncio.create_subprocess_exec(sys.executable, "-c", script, server, place.dir)
        try:
            await asyncio.wait_for(process.wait(), delay)
        except TimeoutError:
            process.send_signal(signal.SIGKILL)
            await process.wait()
    await dump_verified(InsideOut(server), place)
    assert not list(Path(place.dumps).glob("*.partial"))
    assert not [name for name in await databases(server) if name.startswith("wopr_verify_")]
    for path in Path(place.dumps).glob("*.dump"):
        assert path.with_suffix(".json").exists() or path.stat().st_size > 1000
