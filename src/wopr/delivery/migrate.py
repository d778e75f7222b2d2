"""Migrations of a release: what they would do is read before they run, and what would lose data is refused.

The image is the only one who knows its migrations, so it is asked: `docker run IMAGE migrate --sql` writes their SQL
without a database. That is judged statement by statement (`classify`). What only adds runs before the cutover, while
the old release still serves; what would break the old release, or destroys, runs only on an explicit word.
"""

import asyncio
import json
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from wopr.cloud.ssh import complaints
from wopr.core.errors import UpstreamFailed, WoprError
from wopr.delivery.classify_verdict import Finding, Kind, worst_kind
from wopr.delivery.dump_source import (
    DATABASE,
    PORT,
    SERVICE,
    USER,
    Runner,
    column_types,
    expect,
    password_command,
    revision,
)
from wopr.delivery.errors import HostFailed, Refused, refuse_away
from wopr.delivery.place import Place

if TYPE_CHECKING:
    from wopr.delivery.classify import Classifier

SQL_SECONDS = 60.0
MIGRATE_SECONDS_MAX = 3600.0
CONTAINER = "migrate"
UNKNOWN = ""  # where the database stands
NOT_RUN = 125  # docker's own exit code, which no program in a container decides
STATEMENTS_NAMED_MAX = 10
OVERRIDE = "--allow-destructive"
NOT_ITS_MIGRATIONS = "The image answered something else than its migrations."


@dataclass(frozen=True)
class Migration:
    """One pending migration. `statements` are its SQL, `findings` the verdict on each of them."""

    revision: str
    statements: tuple[str, ...]
    findings: tuple[Finding, ...]

    @property
    def kind(self) -> Kind:
        return worst_kind(self.findings)

    @property
    def breaks(self) -> bool:
        """Whether the release that ran before it can't go on with what it leaves."""
        return any(finding.breaks for finding in self.findings)


@dataclass(frozen=True)
class Pending:
    """`at`: where the database stands (None: nowhere), `head`: where the image's migrations end.

    `ahead`: the database has migrations that this image does not know, as after a rollback; nothing is to be run then.
    """

    at: str | None
    head: str
    migrations: tuple[Migration, ...] = ()
    ahead: bool = False

    @property
    def kind(self) -> Kind:
        return worst_kind(finding for migration in self.migrations for finding in migration.findings)

    def document(self) -> dict[str, Any]:  # JSON
        """For `--json` and the journal."""
        return {
            "at": self.at,
            "head": self.head,
            "ahead": self.ahead,
            "kind": str(self.kind),
            "migrations": [
                {
                    "revision": migration.revision,
                    "kind": str(migration.kind),
                    "breaks_running_release": migration.breaks,
                    "statements": [
                        {
                            "sql": finding.statement,
                            "kind": str(finding.kind),
                            "breaks_running_release": finding.breaks,
                            "reason": finding.reason,
                        }
                        for finding in migration.findings
                    ],
                }
                for migration in self.migrations
            ],
        }


async def pending(host: Runner, place: Place, image: str, expected: str | None = UNKNOWN) -> Pending:
    """What `image` would do to the installation's database, judged with the types that its columns have now.

    `expected` is the migration at which the database is likely to stand (None: before the first). The image, which is
    slow to answer, is asked for what comes after that while the database is asked, and again where it stands elsewhere.
    HostFailed when the image can't be run or does not answer; Unavailable when the database is away.
    """
    ahead = asyncio.sleep(0) if expected == UNKNOWN else _ask(host, place, image, after=expected)
    at, document = await asyncio.gather(revision(host, place), ahead, return_exceptions=True)
    if isinstance(at, BaseException):
        raise at
    if at != expected:
        document = await _ask(host, place, image, after=at)
    if isinstance(document, BaseException):
        raise document
    return judge(document, await column_types(host, place) if document.get("revisions") else {})


async def between(host: Runner, place: Place, image: str, after: str | None) -> Pending:
    """The migrations that `image` has after a revision, wherever the database stands.

    For a rollback: `image` is the newer release, `after` the head of the older one, which can run on what these left
    when none of them breaks it.
    """
    return judge(await _ask(host, place, image, after=after), {})


def fatal(migration: Mapping[str, str]) -> bool:
    """Whether an older release can't run on what a migration, as a release records it, left."""
    return bool(migration.get("breaks")) or migration["kind"] == Kind.DESTROYS


def recorded(plan: Pending) -> tuple[Mapping[str, str], ...]:
    """Its migrations as a release records them."""
    return tuple(
        {"revision": one.revision, "kind": str(one.kind), "breaks": "yes" if one.breaks else ""}
        for one in plan.migrations
    )


async def ran(host: Runner, place: Place, migrations: Sequence[Mapping[str, str]]) -> tuple[Mapping[str, str], ...]:
    """Those of a release's migrations that are in the database. Where it can't be asked they all count."""
    try:
        at = await revision(host, place)
    except WoprError:
        return tuple(migrations)
    known = [migration["revision"] for migration in migrations]
    return tuple(migrations[: known.index(at) + 1 if at in known else 0])


def judge(document: Mapping[str, Any], types: Mapping[tuple[str, str], str]) -> Pending:
    """The verdict on what `wopr migrate --sql --json` wrote. UpstreamFailed when that is not its format."""
    from wopr.delivery.classify import Classifier  # loads an SQL parser, for which a rollback shall not wait

    try:
        at, head, ahead = document["from"], str(document["head"]), bool(document["ahead"])
        classifier = Classifier(types)
        migrations = tuple(_judged(classifier, entry) for entry in document["revisions"])
    except (KeyError, TypeError) as error:
        raise UpstreamFailed(
            f"The image's list of migrations can't be read: {error!r}", remedy="Is it an image of this platform?"
        ) from error
    return Pending(None if at is None else str(at), head, migrations, ahead)


def guard(plan: Pending, *, allow_destructive: bool, cutover: bool = True) -> None:
    """Refused, naming each statement, when the plan destroys, or breaks the release that runs during a cutover.

    `cutover` is False where nothing else runs on the database, as on a laptop.
    """
    if allow_destructive:
        return
    guilty = [
        f"{migration.revision}: {finding.statement} ({finding.reason})"
        for migration in plan.migrations
        for finding in migration.findings
        if finding.kind is Kind.DESTROYS or (cutover and finding.breaks)
    ]
    if not guilty:
        return
    more = len(guilty) - STATEMENTS_NAMED_MAX
    named = guilty[:STATEMENTS_NAMED_MAX] + ([f"and {more} more"] if more > 0 else [])
    what = "would destroy data" if plan.kind is Kind.DESTROYS else "would break the release that is running"
    raise Refused(
        f"Migrations of this release {what}; nothing was changed:\n  " + "\n  ".join(named),
        code="destructive_migration",
        remedy=f"Split the change over two releases, or, when you mean it and a dump is enough: {OVERRIDE}",
    )


async def run_migrations(host: Runner, place: Place, image: str, *, allow_destructive: bool = False) -> str:
    """Bring the database to the image's head; the revision reached. Safe to call again after any crash.

    Each migration is one transaction, and a lock in the database keeps two runs apart. A container that a killed run
    left is ended first: what it had not committed is rolled back.
    """
    await expect(host, ("docker", "rm", "-f", "-v", place.container(CONTAINER)), "A leftover migration can't be ended")
    secret = await expect(host, password_command(place), "The database's password can't be read")
    address = f"{place.container(SERVICE)}:{PORT}/{DATABASE}"
    environment = f"DATABASE_URL=postgresql://{USER}:{quote(secret.text, safe='')}@{address}\n"
    # docker opens the file anew, which works for a pipe and not for every kind of standard input: hence `cat`.
    argv = ("sh", "-c", 'cat | "$@"', "migrate", *migrate_command(place, image, allow_destructive=allow_destructive))
    done = await host.run(argv, input=environment.encode(), timeout=MIGRATE_SECONDS_MAX)
    if not done.ok:
        if done.code == NOT_RUN:
            refuse_away(done.complaint, "the host")
        raise HostFailed(
            f"The migrations failed: {_complaint(done.err or done.out)}",
            remedy="The failed one was rolled back; the old release still runs. Correct it and release again.",
        )
    return str(json.loads(done.out)["to"])


def migrate_command(place: Place, image: str, *, allow_destructive: bool) -> tuple[str, ...]:
    """The container that migrates; its environment comes by standard input."""
    name = place.container(CONTAINER)
    options = ("--network", place.network, "--env-file", "/dev/stdin", *_isolation())
    words = ("migrate", "apply", "--json", *((OVERRIDE,) if allow_destructive else ()))
    return (
        "docker",
        "run",
        "--rm",
        "-i",
        "--name",
        name,
        "--label",
        f"wopr.name={place.name}",
        *options,
        image,
        *words,
    )


def sql_command(place: Place, image: str, after: str | None) -> tuple[str, ...]:
    """The container that writes its migrations' SQL; it has no network."""
    words = ("migrate", "--sql", "--json", *(("--from", after) if after else ()))
    label = ("--label", f"wopr.name={place.name}")
    return ("docker", "run", "--rm", *label, "--network", "none", *_isolation(), image, *words)


def _isolation() -> tuple[str, ...]:
    home = "/tmp/wopr"  # noqa: S108 - a file system of the container's own
    confined = ("--read-only", "--tmpfs", "/tmp", "--cap-drop", "ALL", "--security-opt", "no-new-privileges")  # noqa: S108
    return (*confined, "-e", f"WOPR_HOME={home}")


async def _ask(host: Runner, place: Place, image: str, *, after: str | None) -> Mapping[str, Any]:
    argv = sql_command(place, image, after)
    done = await host.run(argv, timeout=SQL_SECONDS)
    if not done.ok:
        if done.code == NOT_RUN:
            refuse_away(done.complaint, "the host")
        raise HostFailed(
            f"The image does not say what its migrations do: {_complaint(done.err or done.out)}",
            remedy=f"Try: {shlex.join(argv)}",
        )
    try:
        document = json.loads(done.out)
    except ValueError as error:
        raise HostFailed(NOT_ITS_MIGRATIONS, remedy="Is it ours?") from error
    if not isinstance(document, dict):
        raise HostFailed(NOT_ITS_MIGRATIONS, remedy="Is it ours?")
    return document


def _judged(classifier: "Classifier", entry: Mapping[str, Any]) -> Migration:
    name, statements = str(entry["revision"]), tuple(str(text) for text in entry["statements"])
    if error := entry.get("error"):
        reason = f"its SQL can't be known before it runs: {error}"
        return Migration(name, statements, (Finding(name, Kind.DESTROYS, reason, breaks=True),))
    findings: Sequence[Finding] = [finding for text in statements for finding in classifier.classify(text)]
    return Migration(name, statements, tuple(findings))


def _complaint(text: bytes) -> str:
    """The end of what a program said, where the reason stands."""
    return " ".join(" ".join(complaints(text.decode("utf-8", "replace"))).split())[-600:] or "it said nothing"
