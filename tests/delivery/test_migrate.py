"""What a release decides from an image's answer, and the commands by which it asks and migrates, as lists."""

import json
from collections.abc import Sequence

import pytest
from tests.stack import clean_environment, run_wopr

from wopr.cli.migrate_local import judged
from wopr.core.errors import UpstreamFailed
from wopr.delivery.classify import Kind
from wopr.delivery.cutover import Limits
from wopr.delivery.deliver import wish_of
from wopr.delivery.errors import HostFailed, Refused
from wopr.delivery.hosts import RUN_SECONDS, Output
from wopr.delivery.migrate import Pending, between, guard, judge, migrate_command, pending, run_migrations, sql_command
from wopr.delivery.place import Place
from wopr.delivery.watch import BOT, PLATFORM
from wopr.migrations.head import head_revision

PLACE = Place("/srv/wopr", "wopr")
LIMITS = Limits()
SECRET = "p@ss w/rd"


def answer(*revisions: tuple[str, Sequence[str]], ahead: bool = False, error: str = "") -> dict[str, object]:
    """What an image says."""
    entries = [{"revision": name, "statements": list(sql), "error": error} for name, sql in revisions]
    return {"from": "0006_once", "head": "0009_x", "ahead": ahead, "revisions": entries}


class Recording:
    """A host that answers by rules and remembers what it was asked."""

    def __init__(self, document: object, migrated: Output | None = None) -> None:
        self.document = json.dumps(document).encode() if not isinstance(document, bytes) else document
        self.migrated = migrated or Output(0, b'{"to": "0009_x"}')
        self.asked: list[tuple[tuple[str, ...], bytes]] = []

    async def run(self, argv: Sequence[str], *, input: bytes = b"", timeout: float = RUN_SECONDS) -> Output:
        self.asked.append((tuple(argv), input))
        if "--sql" in argv:
            return Output(0, self.document)
        if "apply" in argv:
            return self.migrated
        if "printenv" in argv:
            return Output(0, SECRET.encode() + b"\n")
        if b"format_type" in input:
            return Output(0, b'["a", "b", "integer"]\n')
        return Output(0, b'{"revision": "0006_once"}\n' if b"alembic_version" in input else b"")

    async def write(self, path: str, data: bytes, mode: int = 0o600) -> None:
        raise AssertionError("nothing is written")


def plan(*sql: str) -> Pending:
    return judge(answer(("0007_x", sql)), {})


def test_harmless_plans_pass_and_destroying_ones_are_refused_with_each_statement_and_the_way_out() -> None:
    guard(plan("CREATE TABLE a (id int)"), allow_destructive=False)
    with pytest.raises(Refused) as refused:
        guard(plan("DROP TABLE a", "SELECT 1", "TRUNCATE b"), allow_destructive=False)
    assert refused.value.code == "destructive_migration"
    assert "0007_x: DROP TABLE a" in refused.value.message
    assert "0007_x: TRUNCATE b" in refused.value.message
    assert "SELECT 1" not in refused.value.message
    assert "--allow-destructive" in refused.value.remedy
    guard(plan("DROP TABLE a"), allow_destructive=True)


def test_what_breaks_the_running_release_is_refused_only_where_one_runs() -> None:
    renames = plan("ALTER TABLE a RENAME TO b")
    with pytest.raises(Refused, match="break the release that is running"):
        guard(renames, allow_destructive=False)
    guard(renames, allow_destructive=False, cutover=False)
    with pytest.raises(Refused, match="would destroy data"):
        guard(plan("DROP TABLE a"), allow_destructive=False, cutover=False)


def test_a_long_list_is_cut_and_says_so() -> None:
    with pytest.raises(Refused) as refused:
        guard(plan(*[f"DROP TABLE t{number}" for number in range(15)]), allow_destructive=False)
    assert "and 5 more" in refused.value.message


def test_a_migration_whose_sql_is_not_known_counts_as_destroying() -> None:
    found = judge(answer(("0007_x", ()), error="AttributeError: it asks"), {})
    assert found.kind is Kind.DESTROYS
    assert found.migrations[0].breaks


def test_what_one_pending_migration_makes_the_next_may_drop() -> None:
    found = judge(answer(("0007_x", ["CREATE TABLE a (id int)"]), ("0008_x", ["DROP TABLE a"])), {})
    assert [one.kind for one in found.migrations] == [Kind.ADDS, Kind.CHANGES]
    document = found.document()
    assert document["kind"] == "changes"
    assert document["migrations"][1]["statements"][0]["sql"] == "DROP TABLE a"


@pytest.mark.parametrize("document", [{}, {"from": None, "head": "x", "ahead": False}, {"from": 1, "revisions": 5}])
def test_an_answer_of_another_program_is_told_so(document: dict[str, object]) -> None:
    with pytest.raises(UpstreamFailed, match="can't be read"):
        judge(document, {})


@pytest.mark.parametrize("text", [b"", b"hello", b"[1]", b"null"])
async def test_an_image_that_answers_something_else_is_told_so(text: bytes) -> None:
    with pytest.raises(HostFailed, match="something else"):
        await pending(Recording(text), PLACE, "image")


async def test_the_image_is_asked_without_a_network_and_judged_by_the_present_types() -> None:
    host = Recording(answer(("0007_x", ["ALTER TABLE a ALTER COLUMN b TYPE bigint"])))
    found = await pending(host, PLACE, "image@sha256:0")
    assert "from integer to BIGINT" in found.migrations[0].findings[0].reason
    (asked,) = [argv for argv, _ in host.asked if "--sql" in argv]
    assert asked == sql_command(PLACE, "image@sha256:0", "0006_once")
    assert asked[asked.index("--network") + 1] == "none"
    assert asked[-5:] == ("migrate", "--sql", "--json", "--from", "0006_once")
    assert {"--read-only", "--rm"} <= set(asked)
    await between(host, PLACE, "image", None)
    assert "--from" not in host.asked[-1][0]


@pytest.mark.parametrize(("expected", "asked"), [("0006_once", ["0006_once"]), ("0005_x", ["0005_x", "0006_once"])])
async def test_the_image_is_asked_ahead_and_again_where_the_database_stands_elsewhere(
    expected: str, asked: Sequence[str]
) -> None:
    host = Recording(answer(("0007_x", ["ALTER TABLE a ALTER COLUMN b TYPE bigint"])))
    assert (await pending(host, PLACE, "image", expected)).at == "0006_once"
    assert [argv[-1] for argv, _ in host.asked if "--sql" in argv] == asked


async def test_the_password_travels_by_standard_input_and_never_on_a_command_line() -> None:
    host = Recording({})
    assert await run_migrations(host, PLACE, "image") == "0009_x"
    argv, given = host.asked[-1]
    assert not [word for one, _ in host.asked for word in one if SECRET in word or "p%40ss" in word]
    assert given == b"DATABASE_URL=postgresql://wopr:p%40ss%20w%2Frd@wopr-postgres:5432/wopr_platform\n"
    assert argv[:4] == ("sh", "-c", 'cat | "$@"', "migrate")
    assert argv[4:] == migrate_command(PLACE, "image", allow_destructive=False)
    assert host.asked[0][0] == ("docker", "rm", "-f", "-v", "wopr-migrate")


def test_the_word_for_destroying_reaches_the_image_only_when_it_was_said() -> None:
    assert migrate_command(PLACE, "image", allow_destructive=False)[-3:] == ("migrate", "apply", "--json")
    assert migrate_command(PLACE, "image", allow_destructive=True)[-1] == "--allow-destructive"


async def test_a_failed_migration_says_why_and_that_the_old_release_runs() -> None:
    host = Recording({}, Output(1, b"", b"error: relation is missing\n"))
    with pytest.raises(HostFailed, match="relation is missing") as failed:
        await run_migrations(host, PLACE, "image")
    assert "old release still runs" in failed.value.remedy


async def test_a_database_in_reach_is_judged_by_its_own_types(database_address: str) -> None:
    found = await judged(database_address, head_revision())
    assert found.migrations == ()
    assert (await judged(database_address, "0004_inference")).kind is not Kind.DESTROYS


def test_the_command_plans_for_a_database_in_reach_and_finds_nothing_to_do(
    database_address: str, tmp_path: object
) -> None:
    environment = {**clean_environment(), "DATABASE_URL": database_address, "WOPR_HOME": str(tmp_path)}
    planned = run_wopr("migrate", "--plan", "--json", environment=environment)
    assert json.loads(planned.stdout) == {"from": head_revision(), "to": head_revision(), "applied": False}
    assert run_wopr("migrate", "--exit-code", environment=environment).returncode == 4


def test_what_is_watched_follows_from_the_settings_of_the_installation() -> None:
    defaults = {
        "WOPR_IMAGE": "ghcr.io/wopr-network/wopr-platform:latest",
        "BOT_IMAGE": "ghcr.io/wopr-network/wopr-bot:latest",
        "DELIVER_PERIOD_SECONDS": "10.0",
        "REGISTRY_SERVER": "ghcr.io",
    }
    assert set(wish_of({}, defaults, LIMITS).watched()) == {PLATFORM}
    assert set(wish_of({"BOT_RUNTIME": "docker"}, defaults, LIMITS).watched()) == {PLATFORM, BOT}
    pinned = {"WOPR_IMAGE": "ghcr.io/a/b@sha256:" + "0" * 64, "BOT_IMAGE": "ghcr.io/a/bot:stable"}
    watched = wish_of(pinned, defaults, LIMITS).watched()
    assert {kind: str(image) for kind, image in watched.items()} == {BOT: "ghcr.io/a/bot:stable"}
    wish = wish_of(
        {"REGISTRY_PASSWORD": "secret", "REGISTRY_PLAIN_HTTP": "10.0.0.2:5000, x:1", "DELIVER_PERIOD_SECONDS": "3"},
        defaults,
        LIMITS,
    )
    assert wish.plain_http == {"10.0.0.2:5000", "x:1"}
    assert wish.period_seconds == 3
    assert "secret" not in repr(wish)
