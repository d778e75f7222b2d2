"""A dump of the database that is known to restore, taken before anything changes it.

A dump that was never restored is a hope. This one is read back into a scratch database beside the source, and every
table, column, constraint and row count is compared with the snapshot that it was taken from. Only then does the file
get its name; until then it ends in `.partial`. What a killed run left behind (files, the scratch database, connections)
is removed by the next one.
"""

import contextlib
import json
import re
import secrets
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from posixpath import join

from wopr.core.errors import WoprError
from wopr.delivery.dump_facts import FACTS_SQL, Facts, differences, dump_script, ending_of, facts_of
from wopr.delivery.dump_source import APPLICATION, SERVICE, USER, Runner, exec_command, expect, query, revision
from wopr.delivery.errors import HostFailed
from wopr.delivery.place import Place

DUMPS_KEPT = 10
DUMP_SECONDS_MAX = 3600.0
RESTORE_JOBS = 2
INNER_FOLDER = "/tmp"  # noqa: S108 - of the container, whose only user is the database
INNER_PREFIX = "wopr-dump-"
SCRATCH_PREFIX = "wopr_verify_"
PARTIAL = ".partial"
FILE_NAME = re.compile(r"^(\d{8}T\d{6}Z-[\w.-]+)\.dump$")

_LEFTOVERS_SQL = f"""\
SELECT pg_terminate_backend(pid) FROM pg_stat_activity
  WHERE application_name = '{APPLICATION}' AND pid <> pg_backend_pid() \\g /dev/null
SELECT format('DROP DATABASE IF EXISTS %I WITH (FORCE);', datname) FROM pg_database
  WHERE starts_with(datname, '{SCRATCH_PREFIX}') \\gexec
"""  # noqa: S608 - constants of ours


@dataclass(frozen=True)
class Dump:
    """A dump that was restored and compared. `bytes` is the size of the file, `rows` counts all tables together."""

    path: str
    revision: str | None
    bytes: int
    sha256: str
    tables: int
    rows: int
    seconds: float


async def dump_verified(host: Runner, place: Place, *, keep: int = DUMPS_KEPT) -> Dump:
    """Dump the database into `dumps/`, restore it beside the source, compare, and only then keep it (mode 600).

    HostFailed when it can't be taken or is not what the database holds; Unavailable when the database is away. The
    oldest beyond `keep` are removed, never the newest.
    """
    started = time.monotonic()
    await recover_dumps(host, place)
    at = await revision(host, place)
    name = f"{datetime.now(UTC):%Y%m%dT%H%M%SZ}-{at or 'empty'}"
    inner = join(INNER_FOLDER, f"{INNER_PREFIX}{secrets.token_hex(6)}")
    try:
        source = await _dump(host, place, inner)
        await _verify(host, place, inner, source)
        path, size, digest = await _keep(host, place, inner, name)
    finally:
        with contextlib.suppress(WoprError):  # the reason of a failure matters more, and the next run clears up again
            await recover_dumps(host, place)
    dump = Dump(path, at, size, digest, source.tables, source.rows_total, round(time.monotonic() - started, 3))
    await host.write(join(place.dumps, f"{name}.json"), (json.dumps(asdict(dump), indent=2) + "\n").encode())
    await _retain(host, place, keep)
    return dump


async def recover_dumps(host: Runner, place: Place) -> None:
    """Remove what a killed or failed run left: half-written files, the scratch database, its connections."""
    await expect(host, ("install", "-d", "-m", "700", place.dumps), f"{place.dumps} can't be made")
    find = ("find", place.dumps, "-maxdepth", "1", "-name", f"*{PARTIAL}", "-delete")
    await expect(host, find, f"{place.dumps} can't be cleaned")
    await _remove_leftovers(host, place)


def expired(names: Sequence[str], keep: int) -> list[str]:
    """The dumps to remove: the oldest beyond `keep`, by the time in their name. The newest always stays."""
    dumps = sorted(name for name in names if FILE_NAME.match(name))
    return dumps[: max(0, len(dumps) - max(1, keep))]


async def _dump(host: Runner, place: Place, inner: str) -> Facts:
    rows = await query(host, place, dump_script(inner), timeout=DUMP_SECONDS_MAX)
    if complaint := ending_of(rows):
        raise HostFailed(f"pg_dump failed: {complaint}", remedy="Is there room on the disk? docker system df")
    return facts_of(rows)


async def _verify(host: Runner, place: Place, inner: str, source: Facts) -> None:
    scratch = SCRATCH_PREFIX + secrets.token_hex(6)
    await query(host, place, f"CREATE DATABASE {scratch} TEMPLATE template0;", database="postgres")
    options = ("--exit-on-error", "--no-owner", f"--jobs={RESTORE_JOBS}")
    restore = exec_command(place, "pg_restore", "-U", USER, "-d", scratch, *options, inner)
    await expect(host, restore, "The dump can't be restored", timeout=DUMP_SECONDS_MAX)
    copy = facts_of(await query(host, place, FACTS_SQL, database=scratch, timeout=DUMP_SECONDS_MAX))
    if found := differences(source, copy):
        raise HostFailed(
            f"The dump does not restore to what the database holds: {'; '.join(found)}",
            remedy="Nothing was changed. Dump by hand with pg_dump and compare.",
        )


async def _keep(host: Runner, place: Place, inner: str, name: str) -> tuple[str, int, str]:
    """Bring the verified file to the host and give it its name; its path, size and digest."""
    path = join(place.dumps, f"{name}.dump")
    partial = path + PARTIAL
    copy = ("docker", "cp", f"{place.container(SERVICE)}:{inner}", partial)
    await expect(host, copy, "The dump can't be copied out of the container", timeout=DUMP_SECONDS_MAX)
    verified = await expect(host, exec_command(place, "sha256sum", inner), "The dump can't be read")
    copied = await expect(host, ("sha256sum", partial), "The dump can't be read", timeout=DUMP_SECONDS_MAX)
    digest = copied.text.split()[0]
    if digest != verified.text.split()[0]:
        raise HostFailed("The dump was damaged on its way out of the container.", remedy="Check the disk.")
    size = await expect(host, ("stat", "-c", "%s", partial), "The dump can't be read")
    await expect(host, ("chmod", "600", partial), "The dump can't be closed to others")
    await expect(host, ("sync", partial), "The dump can't be written to the disk", timeout=DUMP_SECONDS_MAX)
    await expect(host, ("mv", "-T", partial, path), "The dump can't get its name")
    await expect(host, ("sync", place.dumps), "The dump's name can't be written to the disk")
    return path, int(size.text), digest


async def _remove_leftovers(host: Runner, place: Place) -> None:
    await query(host, place, _LEFTOVERS_SQL, database="postgres")
    find = ("find", INNER_FOLDER, "-maxdepth", "1", "-name", f"{INNER_PREFIX}*", "-delete")
    await expect(host, exec_command(place, *find), "Leftovers of a dump can't be removed")


async def _retain(host: Runner, place: Place, keep: int) -> None:
    listed = await expect(host, ("ls", "-1", place.dumps), f"{place.dumps} can't be read")
    for name in expired(listed.text.splitlines(), keep):
        stem = join(place.dumps, name.removesuffix(".dump"))
        await expect(host, ("rm", "-f", f"{stem}.dump", f"{stem}.json"), "An old dump can't be removed")
