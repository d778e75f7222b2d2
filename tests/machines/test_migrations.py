"""Guarded migrations on real containers: the image says what it would do, PostgreSQL holds what must not be lost."""

# ruff: noqa: ASYNC110, ASYNC220, ASYNC240 - a test looks, starts and waits where it stands
import asyncio
import json
import os
import secrets
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import pytest
from tests.live import wait_for
from tests.machines.engine import Engine

from wopr.delivery.classify import Kind
from wopr.delivery.dump import dump_verified
from wopr.delivery.dump_source import query, revision
from wopr.delivery.errors import HostFailed, Refused
from wopr.delivery.hosts import LocalHost
from wopr.delivery.lock import hold
from wopr.delivery.migrate import between, guard, pending, run_migrations
from wopr.delivery.place import Place

HEADER = "import sqlalchemy as sa\nfrom alembic import op\n\nrevision = {revision!r}\ndown_revision = {before!r}\n\n\n"
DESTROYING = """
def upgrade() -> None:
    op.drop_table("tenant_customers")
    op.drop_table("stripe_usage_reports")
"""
AGAIN = """
def upgrade() -> None:
    op.create_table("tenant_customers", sa.Column("tenant", sa.Text, primary_key=True))
    op.create_table("stripe_usage_reports", sa.Column("id", sa.Integer, primary_key=True))
"""
ADDING = """
def upgrade() -> None:
    op.add_column("tenant_customers", sa.Column("note", sa.Text, nullable=False, server_default=""))
"""
RENAMING = """
def upgrade() -> None:
    op.alter_column("tenant_customers", "tenant", new_column_name="renter")
"""
WIDENING = """
def upgrade() -> None:
    op.alter_column("stripe_usage_reports", "id", type_=sa.BigInteger())
    op.alter_column("stripe_usage_reports", "label", type_=sa.String(5))
"""
FAILING = """
def upgrade() -> None:
    op.execute("INSERT INTO tenant_customers (tenant) VALUES ('half')")
    op.create_foreign_key("fk_no", "tenant_customers", "nowhere", ["tenant"], ["id"])
"""
ASKING = """
def upgrade() -> None:
    if op.get_bind().scalar(sa.text("SELECT count(*) FROM tenant_customers")):
        op.drop_table("tenant_customers")
"""

Build = Callable[..., str]


@pytest.fixture(scope="module")
def built(engine: Engine, platform_image: str) -> Iterator[Build]:
    """Makes the platform's image with further migrations, each after the one before; its id."""
    own = f"wopr-test/migrations:{secrets.token_hex(4)}"  # a name of its own, or a rebuild would give the image back
    engine.docker("tag", platform_image, own)
    made: dict[tuple[str, ...], str] = {(): own}
    script = "import wopr.migrations as m; print(m.__path__[0])"
    folder = engine.once(own, "-c", script, options=("--entrypoint", "python3")).stdout.strip()
    head = sorted(path.stem for path in (Path(__file__).parents[2] / "src/wopr/migrations/versions").glob("0*.py"))[-1]

    def build(*bodies: str) -> str:
        if bodies not in made:
            steps, before = [], head
            for number, body in enumerate(bodies, int(head[:4]) + 1):
                name = f"{number:04}_test"
                text = HEADER.format(revision=name, before=before) + body
                steps.append(f"echo {text.encode().hex()} | python3 -c '{UNHEX}' > {folder}/versions/{name}.py")
                before = name
            lines = (f"FROM {own}", "USER root", "RUN " + " && ".join(steps), "USER 10001:10001", "")
            built = engine.docker("build", "-q", "--network", "none", "-", input="\n".join(lines), seconds=300)
            made[bodies] = built.stdout.strip()
        return made[bodies]

    yield build
    engine.docker("rmi", "--force", *made.values(), check=False)


UNHEX = "import sys; sys.stdout.write(bytes.fromhex(sys.stdin.read()).decode())"


@pytest.fixture(scope="module")
def server(
    engine: Engine, third_party_images: Mapping[str, str], tmp_path_factory: pytest.TempPathFactory, built: Build
) -> Iterator[str]:
    """PostgreSQL as an installation has it, with a database to copy for each test; the installation's name."""
    name = f"wt{secrets.token_hex(4)}"
    engine.network(f"{name}-platform")
    settings = {"POSTGRES_USER": "wopr", "POSTGRES_PASSWORD": "p@ss/w:rd %", "POSTGRES_DB": "wopr_platform"}
    options = [part for key, value in settings.items() for part in ("--env", f"{key}={value}")]
    options += ["--name", f"{name}-postgres", "--network", f"{name}-platform"]
    container = engine.run(third_party_images["postgres"], options=options)
    ready = ("exec", container, "pg_isready", "-q", "-h", "127.0.0.1", "-U", "wopr")
    wait_for(lambda: engine.docker(*ready, check=False).returncode == 0, "PostgreSQL")
    with pytest.MonkeyPatch.context() as patched:
        patched.setenv("DOCKER_HOST", engine.socket)
        asyncio.run(_fill(Place(str(tmp_path_factory.mktemp("filled")), name), built()))
    yield name
    engine.remove(container)
    engine.docker("network", "rm", f"{name}-platform", check=False)


async def _fill(place: Place, image: str) -> None:
    """A database at this checkout's head, with two tables of rows that must stay."""
    host = LocalHost()
    await run_migrations(host, place, image)
    await query(
        host,
        place,
        "CREATE TABLE tenant_customers (tenant text PRIMARY KEY);"
        "CREATE TABLE stripe_usage_reports (id int PRIMARY KEY, label varchar(3));"
        "INSERT INTO tenant_customers SELECT 't' || n FROM generate_series(1, 7) n;"
        "INSERT INTO stripe_usage_reports SELECT n, 'abc' FROM generate_series(1, 9) n;",
    )
    await query(host, place, "ALTER DATABASE wopr_platform RENAME TO filled;", database="postgres")


@pytest.fixture
async def place(engine: Engine, server: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Place:
    """An installation's folder and its database, as it was filled."""
    monkeypatch.setenv("DOCKER_HOST", engine.socket)
    place = Place(str(tmp_path), server)
    await query(
        LocalHost(), place,
        "DROP DATABASE IF EXISTS wopr_platform WITH (FORCE);\nCREATE DATABASE wopr_platform TEMPLATE filled;",
        database="postgres",
    )  # fmt: skip
    return place


async def rows(place: Place, table: str) -> int:
    (found,) = await query(LocalHost(), place, f"SELECT count(*) FROM {table}")
    return int(found)


async def test_the_class_of_0031_is_refused_by_name_before_it_runs(place: Place, built: Build) -> None:
    host, image = LocalHost(), built(DESTROYING, AGAIN)
    plan = await pending(host, place, image)
    assert [(one.revision[4:], one.kind) for one in plan.migrations] == [
        ("_test", Kind.DESTROYS),
        ("_test", Kind.ADDS),
    ]
    with pytest.raises(Refused) as refused:
        guard(plan, allow_destructive=False)
    assert "DROP TABLE tenant_customers" in refused.value.message
    assert "DROP TABLE stripe_usage_reports" in refused.value.message
    assert "--allow-destructive" in refused.value.remedy
    # Inside the container the same guard stands once more.
    with pytest.raises(HostFailed, match="DROP TABLE tenant_customers"):
        await run_migrations(host, place, image)
    assert (await rows(place, "tenant_customers"), await rows(place, "stripe_usage_reports")) == (7, 9)
    assert await revision(host, place) == plan.at


async def test_with_the_word_it_runs_after_a_dump_that_brings_everything_back(
    place: Place, built: Build, engine: Engine
) -> None:
    host, image = LocalHost(), built(DESTROYING)
    dump = await dump_verified(host, place)
    reached = await run_migrations(host, place, image, allow_destructive=True)
    assert reached == await revision(host, place) != dump.revision
    (gone,) = await query(host, place, "SELECT to_json(to_regclass('tenant_customers') IS NULL)")
    assert gone is True
    postgres = place.container("postgres")
    engine.docker("cp", dump.path, f"{postgres}:/tmp/back.dump")
    engine.docker("exec", postgres, "dropdb", "-U", "wopr", "--force", "wopr_platform")
    engine.docker("exec", postgres, "createdb", "-U", "wopr", "wopr_platform")
    restore = ("pg_restore", "-U", "wopr", "-d", "wopr_platform", "--exit-on-error", "--no-owner", "/tmp/back.dump")
    engine.docker("exec", postgres, *restore)
    assert (await rows(place, "tenant_customers"), await rows(place, "stripe_usage_reports")) == (7, 9)
    assert await revision(host, place) == dump.revision


async def test_what_adds_runs_and_a_second_run_finds_nothing_to_do(place: Place, built: Build) -> None:
    host, image = LocalHost(), built(ADDING)
    plan = await pending(host, place, image)
    guard(plan, allow_destructive=False)
    assert plan.kind is Kind.ADDS
    assert await run_migrations(host, place, image) == plan.head
    assert await run_migrations(host, place, image) == plan.head
    assert (await pending(host, place, image)).migrations == ()
    assert await rows(place, "tenant_customers WHERE note = ''") == 7


async def test_what_breaks_the_running_release_is_refused_during_a_cutover_only(place: Place, built: Build) -> None:
    plan = await pending(LocalHost(), place, built(RENAMING))
    assert plan.kind is Kind.CHANGES
    with pytest.raises(Refused, match="break the release that is running"):
        guard(plan, allow_destructive=False)
    guard(plan, allow_destructive=False, cutover=False)


async def test_types_are_judged_by_what_the_columns_are_now(place: Place, built: Build) -> None:
    plan = await pending(LocalHost(), place, built(WIDENING))
    findings = [one for one in plan.migrations[0].findings if "TYPE" in one.statement]
    assert [one.kind for one in findings] == [Kind.CHANGES, Kind.CHANGES]
    assert "from integer to BIGINT" in findings[0].reason


async def test_a_migration_that_asks_the_database_first_can_not_be_vouched_for(place: Place, built: Build) -> None:
    plan = await pending(LocalHost(), place, built(ASKING))
    assert plan.kind is Kind.DESTROYS
    with pytest.raises(Refused, match="can't be known before it runs"):
        guard(plan, allow_destructive=False)


async def test_a_failing_migration_leaves_the_database_as_it_was(place: Place, built: Build) -> None:
    host, image = LocalHost(), built(ADDING, FAILING)
    before = await revision(host, place)
    with pytest.raises(HostFailed, match="nowhere"):
        await run_migrations(host, place, image, allow_destructive=True)
    assert await rows(place, "tenant_customers") == 7
    # The one before it is a transaction of its own and stays; running the corrected image goes on from there.
    assert await revision(host, place) != before
    assert await run_migrations(host, place, built(ADDING)) == await revision(host, place)


async def test_an_older_image_is_told_that_the_database_is_ahead_and_what_it_would_stumble_over(
    place: Place, built: Build
) -> None:
    host, older, newer = LocalHost(), built(), built(ADDING, RENAMING)
    head = (await pending(host, place, older)).head
    await run_migrations(host, place, newer, allow_destructive=True)
    plan = await pending(host, place, older)
    assert (plan.ahead, plan.migrations) == (True, ())
    ran = await between(host, place, newer, head)
    assert [one.breaks for one in ran.migrations] == [False, True]


async def test_an_image_that_is_not_ours_is_told_so(
    place: Place, third_party_images: Mapping[str, str], built: Build
) -> None:
    with pytest.raises(HostFailed, match="does not say what its migrations do"):
        await pending(LocalHost(), place, third_party_images["caddy"])


async def test_a_migration_that_is_killed_midway_ends_whole_at_the_next_run(
    place: Place, built: Build, engine: Engine
) -> None:
    """kill -9 of the deploying process while the migration waits for a lock; the next one clears it away."""
    host, image = LocalHost(), built(ADDING)
    holding = subprocess.Popen(
        ["docker", "exec", "-i", place.container("postgres"), "psql", "-q", "-U", "wopr", "-d", "wopr_platform"],
        stdin=subprocess.PIPE, env=engine.environment, text=True,
    )  # fmt: skip
    assert holding.stdin is not None
    holding.stdin.write("BEGIN; LOCK TABLE tenant_customers IN ACCESS EXCLUSIVE MODE;\n")
    holding.stdin.flush()
    script = (
        "import asyncio, sys; from wopr.delivery.hosts import LocalHost; from wopr.delivery.place import Place; "
        "from wopr.delivery.migrate import run_migrations; "
        "asyncio.run(run_migrations(LocalHost(), Place(sys.argv[1], sys.argv[2]), sys.argv[3]))"
    )
    process = subprocess.Popen([sys.executable, "-c", script, place.dir, place.name, image], env=engine.environment)
    waiting = "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND query LIKE 'ALTER TABLE%'"
    try:
        async with asyncio.timeout(60):
            while (await query(host, place, waiting))[0] == 0:
                await asyncio.sleep(0.1)
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
        holding.stdin.close()
        holding.wait(60)
        assert await run_migrations(host, place, image) == await revision(host, place)
        assert await rows(place, "tenant_customers WHERE note = ''") == 7
    finally:
        process.kill()
        holding.kill()
        process.wait()
        holding.wait()


async def test_a_dump_works_under_the_lock_of_a_deployer(place: Place) -> None:
    async with hold(LocalHost(), place, "test") as fence:
        dump = await dump_verified(fence, place)
    assert dump.rows >= 16
    assert Path(dump.path).stat().st_size == dump.bytes
    assert not [path for path in Path(place.dumps).iterdir() if path.suffix not in (".dump", ".json")]


async def test_wopr_migrate_of_an_installation_plans_refuses_and_applies(
    place: Place, built: Build, engine: Engine
) -> None:
    where = ("--dir", place.dir, "--name", place.name)

    def wopr(*words: str) -> "subprocess.CompletedProcess[str]":
        environment = {**engine.environment, "WOPR_HOME": place.dir}
        command = [sys.executable, "-m", "wopr", "migrate", *where, *words]
        return subprocess.run(command, capture_output=True, text=True, env=environment, timeout=300)

    refused = await asyncio.to_thread(wopr, "--image", built(DESTROYING))
    assert refused.returncode == 3
    assert "DROP TABLE tenant_customers" in refused.stderr
    assert "--allow-destructive" in refused.stderr
    image = built(ADDING)
    planned = await asyncio.to_thread(wopr, "--image", image, "--plan", "--json")
    assert json.loads(planned.stdout)["plan"]["kind"] == "adds"
    assert json.loads(planned.stdout)["applied"] is False
    applied = await asyncio.to_thread(wopr, "--image", image, "--json")
    assert applied.returncode == 0, applied.stderr
    document = json.loads(applied.stdout)
    assert document["applied"] is True
    assert Path(document["dump"]["path"]).exists()
    again = await asyncio.to_thread(wopr, "--image", image, "--exit-code")
    assert again.returncode == 4
    assert await rows(place, "tenant_customers WHERE note = ''") == 7
