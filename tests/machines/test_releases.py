"""Releases on real containers: a good one fails no request, a bad one never stops the old one, and back is one word."""

import json
import secrets
import shutil
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from tests.live import wait_for
from tests.machines.engine import Engine
from tests.machines.installation import Installation, Load, installed
from tests.machines.registry import Registry

from wopr.delivery.place import Slot, other
from wopr.ops.incidents import all_incidents, open_incidents
from wopr.ops.journal import Journal

SLOTS = ("api-blue", "ui-blue", "api-green", "ui-green")
# An entrypoint that behaves as the platform does, but for `wopr api`.
BUT_THE_API = 'ENTRYPOINT ["/bin/sh", "-c", "case $0 in api) {};; esac; exec wopr \\"$0\\" \\"$@\\""]'
VERSIONS = "/opt/wopr/app/wopr/migrations/versions"


@pytest.fixture(scope="module")
def site(engine: Engine, platform_image: str, third_party_images: object) -> Iterator[Installation]:
    with installed(engine, platform_image) as made:
        yield made


def whole(site: Installation) -> None:
    """One release runs, whole; of others at most one that served well is left, whole and stopped."""
    state = site.state()
    assert state["candidate"] is None
    assert state["leaving"] is None
    active = state["active"]
    found = site.containers()
    releases = {one["number"]: one for one in site.releases()["releases"]}
    serving = [f"api-{active['slot']}", f"ui-{active['slot']}"]
    for name in serving:
        assert found[name]["State"]["Running"], name
        assert content(releases[made_as(found[name])]) == content(releases[active["release"]])
    beside = [name for name in SLOTS if name in found and name not in serving]
    assert len(beside) in (0, len(SLOTS) - len(serving)), beside
    for name in beside:
        assert found[name]["State"]["Status"] == "exited", name
        assert releases[made_as(found[name])]["verdict"] in ("good", "rolled back")
    assert {"caddy", "postgres"} <= set(found)
    assert not [one for one in releases.values() if one["verdict"] == "pending"]


def made_as(container: dict[str, Any]) -> int:
    """The release for which a container was made; another one with the same content may have taken it over."""
    return int(container["Config"]["Labels"]["wopr.release"])


def content(release: dict[str, Any]) -> list[str]:
    return [release[name] for name in ("platform", "bot", "config_hash", "env_hash")]


def test_a_first_release_makes_everything_that_an_empty_folder_lacks(site: Installation) -> None:
    assert (site.folder / ".env").stat().st_mode & 0o777 == 0o600
    whole(site)
    again = site.deploy()
    assert json.loads(again.stdout)["verdict"] == "unchanged"
    assert again.returncode == 0
    assert site.deploy("", "--exit-code").returncode == 4


def test_a_good_release_under_load_fails_no_request(site: Installation) -> None:
    before = site.settle()
    with Load(site) as load:
        verdict = site.release(site.derive())
    assert verdict["release"] == verdict["serving"] > before
    assert load.answered > 50
    assert load.failures == []
    whole(site)


def test_a_changed_setting_takes_effect_and_is_a_release_of_its_own(site: Installation) -> None:
    before = site.settle()
    site.set_env("LOG_LEVEL", "error")
    assert site.release()["serving"] > before
    slot = site.state()["active"]["slot"]
    assert "LOG_LEVEL=error" in site.containers()[f"api-{slot}"]["Config"]["Env"]
    whole(site)


BAD = {
    "crashes at once": (BUT_THE_API.format("echo it broke >&2; exit 3"), ": it broke"),
    "is never ready": (BUT_THE_API.format("exec sleep 600"), "not ready within 4 s"),
    "does not know its migrations": ('ENTRYPOINT ["/bin/sh", "-c", "exit 1", "wopr"]', "migrations"),
    "is another program": ('ENTRYPOINT ["/bin/sleep", "600"]', "does not start wopr"),
}


@pytest.mark.parametrize("kind", BAD)
def test_a_bad_release_never_stops_the_old_one(site: Installation, kind: str) -> None:
    line, reason = BAD[kind]
    serving = site.settle()
    running = site.containers()[f"api-{site.state()['active']['slot']}"]["Id"]
    with Load(site) as load:
        done = site.deploy(image := site.derive(line), "--ready", "4" if "never" in kind else "180")
    assert done.returncode == 1, done.stdout + done.stderr
    verdict = json.loads(done.stdout)
    assert (verdict["verdict"], verdict["serving"]) == ("bad", serving)
    assert reason in verdict["reason"]
    assert image not in verdict["reason"], "it is named beside its reason everywhere"
    assert load.failures == []
    assert site.containers()[f"api-{site.state()['active']['slot']}"]["Id"] == running, "the old one was touched"
    whole(site)
    refused = site.deploy(image)
    assert refused.returncode == 3, "what failed is quarantined"
    assert "--despite-quarantine" in refused.stderr
    assert [incident.severity for incident in open_incidents(Journal(site.folder))] == ["SEV3"]
    good = site.release(site.derive())["serving"]
    assert open_incidents(Journal(site.folder)) == []
    last = all_incidents(Journal(site.folder))[-1].timeline[-1]
    assert (last.kind, f"Release {good} was observed, is good" in last.text) == ("resolved", True)


def test_a_release_that_turns_bad_while_it_is_observed_goes_back_by_itself(site: Installation) -> None:
    serving = site.settle()
    leaves = "trap 'kill $pid; wait; exit' TERM"  # as it should, or its end would be waited for
    dies = f"wopr api & pid=$!; {leaves}; until [ -e /tmp/bad ]; do sleep 0.2; done; kill -9 $pid; echo bad >&2; exit 5"
    image = site.derive(BUT_THE_API.format(dies))
    with Load(site) as load, ThreadPoolExecutor(1) as pool:
        deploying = pool.submit(site.deploy, image, "--observe", "120")
        wait_for(lambda: deploying.done() or site.state()["active"]["release"] > serving, "it to serve", 180)
        site.engine.docker("exec", f"{site.name}-api-{site.state()['active']['slot']}", "touch", "/tmp/bad")
        done = deploying.result()
    assert done.returncode == 1, done.stdout + done.stderr
    verdict = json.loads(done.stdout)
    assert verdict["serving"] == serving
    assert "crashed" in verdict["reason"] or "not" in verdict["reason"], verdict
    assert load.answered > 50
    whole(site)
    assert site.state()["active"]["release"] == serving


def test_a_wrong_setting_is_found_before_anybody_meets_it(site: Installation) -> None:
    serving = site.settle()
    site.set_env("DATABASE_POOL_SIZE", "many")
    try:
        done = site.deploy()
        assert done.returncode == 1
        verdict = json.loads(done.stdout)
        assert verdict["serving"] == serving
        assert "crashed: DATABASE_POOL_SIZE ('many') can't be used" in verdict["reason"].replace(" (exit code 1)", "")
        whole(site)
    finally:
        site.set_env("DATABASE_POOL_SIZE", "")
    site.release()


def test_an_image_for_another_architecture_is_turned_away(site: Installation, tmp_path: Path) -> None:
    serving = site.settle()
    image = other_architecture(site, tmp_path)
    done = site.deploy(image)
    assert done.returncode == 1
    assert "it is built for arm64" in json.loads(done.stdout)["reason"]
    assert json.loads(done.stdout)["serving"] == serving
    whole(site)


def test_a_registry_that_lets_nobody_in_is_told_and_one_with_credentials_is_used(
    site: Installation, registry: Registry
) -> None:
    serving = site.settle()
    digest = registry.push(site.derive(), "wopr-platform:latest")
    refused = site.deploy(digest)
    assert refused.returncode == 1
    assert "REGISTRY_PASSWORD" in refused.stderr
    assert site.state()["active"]["release"] == serving
    names = ("REGISTRY_SERVER", "REGISTRY_USERNAME", "REGISTRY_PASSWORD")
    for name, value in zip(names, (registry.server, registry.username, registry.password), strict=True):
        site.set_env(name, value)
    verdict = site.release(f"{registry.server}/wopr-platform:latest")
    assert verdict["platform"] == digest
    assert not (site.folder / ".registry").exists(), "credentials are there only while they are needed"
    only_there = registry.push(site.derive(), "wopr-platform:planned")
    site.engine.docker("rmi", "--force", only_there, check=False)
    planned = site.wopr("migrate", "--plan", "--json", "--image", f"{registry.server}/wopr-platform:planned")
    assert planned.returncode == 0, planned.stderr
    assert registry.password not in (site.folder / "journal.jsonl").read_text()
    registry.stop()
    try:
        assert site.release(digest)["verdict"] == "unchanged"
        back = site.wopr("rollback", "--json", "--ready", "180")
        assert back.returncode == 0, back.stderr
        whole(site)
    finally:
        registry.start()
        for name in names:
            site.set_env(name, "")


def test_back_brings_images_settings_and_configuration_and_is_in_the_books(site: Installation) -> None:
    first = site.settled()
    old_env = (site.folder / ".env").read_text()
    site.set_env("WOPR_TEST_MARK", secrets.token_hex(4))
    second = site.release(site.derive())["serving"]
    site.set_env("WOPR_TEST_MARK", "never-released")
    with Load(site) as load:
        done = site.wopr("rollback", "--reason", "logins fail", "--json", "--ready", "180")
    assert done.returncode == 0, done.stderr
    verdict = json.loads(done.stdout)
    assert (verdict["from"], verdict["to"], verdict["serving"]) == (second, first, second + 1)
    assert load.failures == []
    assert (site.folder / ".env").read_text() == old_env
    unreleased = site.folder / ".env.unreleased"
    assert "WOPR_TEST_MARK=never-released" in unreleased.read_text()
    assert unreleased.stat().st_mode & 0o777 == 0o600
    unreleased.unlink()
    whole(site)
    found = {one["number"]: one for one in site.releases()["releases"]}
    assert found[second]["verdict"] == "rolled back"
    assert found[second + 1]["restores"] == first
    assert "logins fail" in (site.folder / "logbook" / "INCIDENTS.md").read_text()
    assert "rollback" in (site.folder / "logbook" / "DEPLOYMENTS.md").read_text().lower()


def test_back_starts_the_containers_that_were_kept_unless_they_were_made_from_something_else(
    site: Installation,
) -> None:
    first = site.settled()
    kept = ids(site, site.state()["active"]["slot"])
    site.release(site.derive())
    assert ids(site, other(site.state()["active"]["slot"])) == kept, "the one before is kept"
    status = site.wopr("status", "--json")
    assert json.loads(status.stdout)["verdict"] == "ok", status.stdout
    assert site.wopr("rollback", "--json", "--ready", "180").returncode == 0
    assert ids(site, site.state()["active"]["slot"]) == kept
    whole(site)
    listed = {one["number"]: one for one in site.releases()["releases"]}
    assert listed[site.state()["active"]["release"]]["restores"] == first
    assert "down" not in site.wopr("releases").stdout
    site.release(site.derive())
    site.engine.docker("rm", *ids(site, other(site.state()["active"]["slot"])))
    assert site.wopr("rollback", "--json", "--ready", "180").returncode == 0, "an operator tidied up"
    whole(site)
    site.set_env("WOPR_TEST_MARK", "another")
    site.release()
    site.wopr("rollback", "--to", str(first), "--json", "--ready", "180")
    slot = site.state()["active"]["slot"]
    assert "WOPR_TEST_MARK=another" not in site.containers()[f"api-{slot}"]["Config"]["Env"]
    whole(site)


def ids(site: Installation, slot: Slot) -> list[str]:
    found = site.containers()
    return [found[name]["Id"] for name in (f"api-{slot}", f"ui-{slot}") if name in found]


def test_a_migration_that_only_adds_runs_and_stays_when_the_release_goes(site: Installation) -> None:
    site.settle()
    mark = f"t{time.time_ns()}"
    head = site.psql("SELECT version_num FROM alembic_version")
    image = site.derive(migration(f"{head}_{mark[-6:]}", head, f"CREATE TABLE {mark} (id int)"))
    done = site.deploy(image)
    assert done.returncode == 0, done.stdout + done.stderr
    assert site.psql(f"SELECT count(*) FROM {mark}") == "0"
    assert list((site.folder / "dumps").glob("*.dump")), "the database was dumped first"
    back = site.wopr("rollback", "--json", "--ready", "180")
    assert back.returncode == 0, back.stderr
    assert any(mark[-6:] in line for line in json.loads(back.stdout)["database_stays"])
    whole(site)
    site.release(image, "--despite-quarantine")
    site.platform = image  # later images stand on the one that knows this migration


def test_a_migration_that_destroys_is_refused_until_it_is_allowed_and_then_nobody_goes_back(site: Installation) -> None:
    serving = site.settle()
    site.psql("CREATE TABLE IF NOT EXISTS precious (id int)")
    head = site.psql("SELECT version_num FROM alembic_version")
    image = site.derive(migration(f"{head}_drop", head, "DROP TABLE precious"))
    refused = site.deploy(image)
    assert refused.returncode == 3
    assert "DROP TABLE precious" in refused.stderr
    assert "--allow-destructive" in refused.stderr
    assert site.state()["active"]["release"] == serving
    allowed = site.deploy(image, "--allow-destructive")
    assert allowed.returncode == 0, allowed.stdout + allowed.stderr
    back = site.wopr("rollback", "--json")
    assert back.returncode == 3
    assert "--despite-migrations" in back.stderr
    older = site.deploy(site.derive(base=site.platform))
    assert older.returncode == 3
    assert f"{head}_drop (destroys)" in older.stderr
    assert "--allow-destructive" in older.stderr
    site.platform = image


def test_what_was_migrated_by_hand_ahead_of_a_release_forbids_the_way_back_as_well(site: Installation) -> None:
    serving = site.settle()
    site.psql("CREATE TABLE IF NOT EXISTS dear (id int)")
    head = site.psql("SELECT version_num FROM alembic_version")
    image = site.derive(migration("0010_hand", head, "DROP TABLE dear"))
    done = site.wopr("migrate", "--image", image, "--allow-destructive", "--json")
    assert done.returncode == 0, done.stdout + done.stderr
    site.release(image)
    back = site.wopr("rollback", "--json")
    assert back.returncode == 3
    assert f"0010_hand (destroys) of release {serving}" in back.stderr
    site.platform = image


def test_a_migration_that_fails_leaves_the_old_release_and_its_database(site: Installation) -> None:
    serving = site.settle()
    head = site.psql("SELECT version_num FROM alembic_version")
    image = site.derive(migration(f"{head}_x", head, "ALTER TABLE bots DROP COLUMN nowhere"))
    done = site.deploy(image, "--allow-destructive")
    assert done.returncode == 1, done.stdout + done.stderr
    verdict = json.loads(done.stdout)
    assert verdict["serving"] == serving
    for words in ("The migrations failed: PostgreSQL", 'column "nowhere" of relation "bots" does not exist: ALTER'):
        assert words in verdict["reason"]
    assert site.psql("SELECT version_num FROM alembic_version") == head
    whole(site)
    site.release(site.derive())
    back = site.wopr("rollback", "--json", "--ready", "180")
    assert back.returncode == 0, back.stderr
    assert f"{head}_x" not in back.stdout, "what failed is not in the database"


def migration(revision: str, after: str, sql: str) -> str:
    """A line that puts one more migration into an image."""
    text = f'from alembic import op\nrevision = "{revision}"\ndown_revision = "{after}"\n'
    text += f'def upgrade() -> None:\n    op.execute("{sql}")\n'
    quoted = text.replace("\\", "\\\\").replace("\n", "\\n").replace('"', '\\"')
    return f'USER 0\nRUN printf "{quoted}" > {VERSIONS}/{revision}.py\nUSER 10001:10001'


def other_architecture(site: Installation, folder: Path) -> str:
    """An image that says it was built for another processor."""
    import tarfile

    tag = "wopr-test/elsewhere:1"
    saved, opened = folder / "image.tar", folder / "image"
    small = site.engine.docker("import", "--change", 'ENTRYPOINT ["wopr"]', "-", tag, input="")
    site.engine.docker("save", "--output", str(saved), tag)
    opened.mkdir()
    with tarfile.open(saved) as tar:
        tar.extractall(opened, filter="data")
    manifest = json.loads((opened / "manifest.json").read_text())
    config = opened / manifest[0]["Config"]
    content = json.loads(config.read_text())
    config.write_text(json.dumps({**content, "architecture": "arm64"}))
    shutil.make_archive(str(folder / "changed"), "tar", opened)
    site.engine.docker("image", "rm", "-f", small.stdout.strip(), tag, check=False)
    site.engine.docker("load", "--input", str(folder / "changed.tar"))
    return tag
