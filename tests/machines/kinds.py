"""The kinds of run at whose every step a deployer is killed: how each begins, what comes next, what must hold then."""

import secrets
import subprocess
import time
from collections.abc import Sequence

from tests.machines.installation import READY_SECONDS, Installation
from tests.machines.killed import BEFORE, WITHIN
from tests.machines.kills import (
    PLAIN,
    RELEASE,
    Killed,
    Kind,
    Point,
    condemned,
    env_of,
    image_id,
    incidents,
    quarantined,
    releases,
    same_again,
    same_or_plain,
    serves,
    taken_back,
    verdict,
)
from tests.machines.test_releases import BUT_THE_API, migration
from tests.machines.test_stack import KEPT, a_bot

SETTINGS = ("DRAIN_SECONDS=10", "LOG_LEVEL=warning", "BOT_RUNTIME=process")
PROXIES = "203.0.113.0/24"
MARK = "WOPR_TEST_MARK"
TABLE, ADDED = "killed_while_migrating", "_killed"
BACK = ("rollback", "--json", "--ready", READY_SECONDS, "--reason")
NEVER_READY = BUT_THE_API.format("exec sleep 600")
LEAVES = "trap 'kill $pid; wait; exit' TERM"  # as it should, or its end would be waited for
DIES = f"wopr api & pid=$!; {LEAVES}; until [ -e /tmp/bad ]; do sleep 0.1; done; kill -9 $pid; exit 5"
UNSERVED = ("", "abandoned")


def said_again(dead: Killed) -> bool:
    """Whether the next run was the same command."""
    return dead.point.moment == BEFORE


def another_image(site: Installation) -> Sequence[str]:
    return ("deploy", site.derive(), *RELEASE)


def came_or_not(site: Installation, dead: Killed) -> None:
    """A good release serves when it had come so far, or when the same was said again; else the one before it does."""
    assert verdict(site, dead.number) in (
        ("good",) if dead.committed else (*UNSERVED, "good" if said_again(dead) else "")
    )
    assert dead.number not in quarantined(site)
    assert incidents(site, dead.number) == []
    if dead.committed or said_again(dead):
        serves(site, None, image_id(site, dead.words[1]))
    else:
        serves(site, dead.serving)


def another_env(site: Installation) -> Sequence[str]:
    """What stands around the slots takes it, too."""
    site.set_env(MARK, secrets.token_hex(4))
    site.set_env("EDGE_PROXIES", "" if PROXIES in env_of(site) else PROXIES)
    return PLAIN


def settings_went(site: Installation, dead: Killed) -> None:
    assert verdict(site, dead.number) in (("good",) if dead.committed else UNSERVED)
    assert dead.number not in quarantined(site)
    serves(site, None if dead.committed else dead.serving)
    around(site)


def around(site: Installation) -> None:
    """Caddy and the slot that serves have the settings of `.env`."""
    wanted = dict(line.split("=", 1) for line in env_of(site).splitlines() if "=" in line and not line.startswith("#"))
    boxes, slot = site.containers(), site.state()["active"]["slot"]
    proxies = dict(line.split("=", 1) for line in boxes["caddy"]["Config"]["Env"])["EDGE_PROXIES"]
    assert proxies == wanted.get("EDGE_PROXIES", "")
    marks = [line for line in boxes[f"api-{slot}"]["Config"]["Env"] if line.startswith(f"{MARK}=")]
    assert marks == ([f"{MARK}={wanted[MARK]}"] if MARK in wanted else [])


def head_of(site: Installation) -> str:
    return site.psql("SELECT version_num FROM alembic_version")


def as_shipped(site: Installation) -> str:
    """The platform as it was built serves, on a database without what other runs added; where that stands."""
    site.settle()
    head = head_of(site).removesuffix(ADDED)
    site.psql(f"DROP TABLE IF EXISTS {TABLE}")
    site.psql(f"UPDATE alembic_version SET version_num = '{head}'")
    return head


def adding(site: Installation) -> Sequence[str]:
    """An image with one migration more than the database has."""
    head = as_shipped(site)
    return ("deploy", site.derive(migration(f"{head}{ADDED}", head, f"CREATE TABLE {TABLE} (id int)")), *RELEASE)


def migrated_once(site: Installation, dead: Killed) -> None:
    """What a release that was given up says of its migrations is what the database has; said again, it comes in."""
    came_or_not(site, dead)
    found = next((one for one in releases(site) if one["number"] == dead.number), None)
    if found and found["verdict"] == "abandoned" and not said_again(dead):
        there = [one["revision"] for one in found["migrations"]]
        assert there == ([head_of(site)] if head_of(site).endswith(ADDED) else [])
    again = site.wopr(*dead.words)
    assert again.returncode == 0, again.stdout + again.stderr
    assert head_of(site).endswith(ADDED)
    assert site.psql(f"SELECT count(*) FROM {TABLE}") == "0"
    serves(site, None, image_id(site, dead.words[1]))


def destroying(site: Installation) -> Sequence[str]:
    head = as_shipped(site)
    site.psql("CREATE TABLE IF NOT EXISTS precious (id int)")
    return ("deploy", site.derive(migration(f"{head}_drop", head, "DROP TABLE precious")), *RELEASE)


def plain(_: Installation, __: Killed) -> Sequence[str]:
    return PLAIN


def nothing_changed(site: Installation, dead: Killed) -> None:
    assert verdict(site, dead.number) == ""
    assert site.psql("SELECT count(*) FROM precious") == "0"
    serves(site, dead.serving)


def another_program(site: Installation) -> Sequence[str]:
    return ("deploy", site.derive('ENTRYPOINT ["/bin/sleep", "600"]'), *RELEASE)


def never_ready(site: Installation) -> Sequence[str]:
    return ("deploy", site.derive(NEVER_READY), "--yes", "--json", "--observe", "0", "--ready", "3")


def wrong_setting(site: Installation) -> Sequence[str]:
    another_env(site)
    site.set_env("DATABASE_POOL_SIZE", "many")
    return PLAIN


def bad_or_not(site: Installation, dead: Killed) -> None:
    """It never serves; who had come as far as to call it bad has done so for good, and it is not tried again."""
    assert not dead.committed
    assert verdict(site, dead.number) in (("bad",) if dead.bad else ("bad", *UNSERVED))
    condemned(site, dead.number)
    serves(site, dead.serving)
    if verdict(site, dead.number) == "bad" and len(dead.words) > len(PLAIN):
        assert site.wopr(*dead.words).returncode == 3, "it is quarantined"


def around_as_before(site: Installation, dead: Killed) -> None:
    bad_or_not(site, dead)
    around(site)


def turning_bad(site: Installation) -> Sequence[str]:
    image = site.derive(BUT_THE_API.format(DIES))
    return ("deploy", image, "--yes", "--json", "--observe", "120", "--ready", READY_SECONDS)


def make_it_bad(site: Installation, process: "subprocess.Popen[bytes]") -> None:
    """As soon as it serves."""
    before = site.state()["active"]["release"]
    while process.poll() is None and site.state()["active"]["release"] == before:
        time.sleep(0.05)
    if process.poll() is None:
        bad = ("exec", f"{site.name}-api-{site.state()['active']['slot']}", "touch", "/tmp/bad")
        site.engine.docker(*bad, check=False)


def back_or_good(site: Installation, dead: Killed) -> None:
    """It went back, or was found ready: whichever it is, all that follows is there."""
    now = verdict(site, dead.number)
    assert now in (("bad",) if dead.bad else ("good", "bad") if dead.committed else UNSERVED)
    condemned(site, dead.number)
    serves(site, None if now == "good" else dead.serving)
    if now == "good":
        assert site.state()["active"]["release"] == dead.number


def newer(site: Installation) -> Sequence[str]:
    """A release with settings of its own, to be gone back from; the reason names the one before it."""
    before = serving_number(site)
    site.set_env(MARK, secrets.token_hex(4))
    site.release(site.derive(), "--observe", "0")
    return (*BACK, f"logins fail since {before}")


def one_back(site: Installation, dead: Killed) -> None:
    """The release before serves, with its settings, or nothing was changed; never one further back."""
    assert dead.serving is not None
    left, reason = dead.serving["number"], dead.words[-1]
    before = next(one for one in releases(site) if one["number"] == int(reason.split()[-1]))
    went = dead.committed or said_again(dead)
    assert verdict(site, dead.number) in (("good",) if dead.committed else (*UNSERVED, "good" if went else ""))
    assert verdict(site, left) == ("rolled back" if went else "good")
    assert (left in quarantined(site)) == went
    told = [(one.open, one.facts["reason"]) for one in incidents(site, left)]
    assert told == ([(False, reason)] if went else [])
    serves(site, before if went else dead.serving)
    assert env_of(site) == (site.folder / "releases" / f"{serving_number(site):04}" / "env").read_text()


def serving_number(site: Installation) -> int:
    return int(site.state()["active"]["release"])


def from_nothing(site: Installation) -> Sequence[str]:
    return ("deploy", site.platform, *RELEASE, *site.chosen(*SETTINGS))


def came_first(site: Installation, dead: Killed) -> None:
    serves(site, None, image_id(site, site.platform))
    assert [one for one in incidents(site, dead.number) if one.open] == []
    assert quarantined(site) == []


def leaving(site: Installation) -> Sequence[str]:
    site.release("", "--observe", "0")
    if not site.engine.docker("ps", "-aq", "--filter", f"name=^{site.name}-a-bot$").stdout.strip():
        a_bot(site)
    site.psql("CREATE TABLE IF NOT EXISTS kept (id int)")
    return ("teardown", "--yes", "--json")


def gone_and_back(site: Installation, dead: Killed) -> None:
    """Said again, nothing is left but the data; either way a deploy brings all back."""
    if said_again(dead):
        assert site.left("container") + site.left("network") == []
        assert site.wopr(*PLAIN).returncode == 0
    assert site.psql("SELECT count(*) FROM kept") == "0"
    serves(site, dead.serving)


def destroyed(_: Installation) -> Sequence[str]:
    return ("teardown", "--wipe", "--yes", "--json")


def from_nothing_again(site: Installation, dead: Killed) -> Sequence[str]:
    return dead.words if said_again(dead) else from_nothing(site)


def nothing_or_new(site: Installation, dead: Killed) -> None:
    """Said again, everything is gone; a deploy instead makes a platform that works."""
    if said_again(dead):
        assert [site.left(kind) for kind in ("container", "network", "volume")] == [[], [], []]
        assert {path.name for path in site.folder.iterdir()} <= KEPT
    else:
        serves(site, None, image_id(site, site.platform))


KINDS = (
    Kind("another image", another_image, same_or_plain, came_or_not, served=True,
         few=(Point("deploy: started", WITHIN), Point("deploy: committed"))),
    Kind("other settings", another_env, taken_back, settings_went, few=(Point("deploy: services up"),)),
    Kind("a migration that adds", adding, same_or_plain, migrated_once, served=True, few=(Point("deploy: dumped"),)),
    Kind("refused: a migration destroys", destroying, plain, nothing_changed, served=True),
    Kind("turned away: another program", another_program, plain, bad_or_not, served=True),
    Kind("never ready", never_ready, plain, bad_or_not, served=True, few=(Point("deploy: refused"),)),
    Kind("settings that break it", wrong_setting, taken_back, around_as_before),
    Kind("bad while observed", turning_bad, plain, back_or_good, few=(Point("deploy: going back"),),
         meanwhile=make_it_bad),
    Kind("rollback", newer, same_or_plain, one_back, served=True, few=(Point("rollback: committed", BEFORE),)),
    Kind("the first release", from_nothing, same_again, came_first, own=True, first=True),
    Kind("teardown", leaving, same_or_plain, gone_and_back, few=(Point("teardown: networks removed"),)),
    Kind("teardown with its data", destroyed, from_nothing_again, nothing_or_new, own=True),
)  # fmt: skip
