"""Releases and the state are files, each whole or absent; what failed is not tried again by itself."""
# ruff: noqa: ASYNC221, ASYNC240 - files of a test are small, and a lock is a block

import json
import subprocess
from collections.abc import AsyncIterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import ClassVar

import pytest
from tests.delivery.hosting import ssh_machine

from wopr.delivery import images_on_host, quarantine, setup
from wopr.delivery.checks import bots_image
from wopr.delivery.commands import Compose, parsed_env
from wopr.delivery.context import Context
from wopr.delivery.deploy import PLATFORM_IMAGE, first_image
from wopr.delivery.errors import HostFailed, Refused
from wopr.delivery.failures import end_failures, tell_failure
from wopr.delivery.hosts import LocalHost, Output
from wopr.delivery.lock import Fence, hold
from wopr.delivery.place import Place
from wopr.delivery.release import (
    Judgement,
    Part,
    Release,
    Snapshot,
    State,
    digest_of,
    read_release,
    read_releases,
    read_snapshot,
    read_state,
    record,
    record_new,
    write_state,
)
from wopr.delivery.rollback import database_left
from wopr.ops.checks import Verdict
from wopr.ops.incidents import all_incidents, open_incident, open_incidents
from wopr.ops.journal import Journal

FILES = {"env": b"A=1\n", "compose.yaml": b"services: {}\n", "Caddyfile": b":80\n"}


def release(number: int, **more: object) -> Release:
    made = Release(number, f"name@sha256:{number}", "bot", "config", "env", "0005", "2026-01-01T00:00:00", "ada")
    return replace(made, **more)  # type: ignore[arg-type]


@pytest.fixture
async def fence(tmp_path: Path) -> AsyncIterator[Fence]:
    async with hold(LocalHost(), Place(str(tmp_path / "wopr")), "deploy") as held:
        yield held


async def test_releases_come_back_as_they_were_written_in_order(fence: Fence) -> None:
    for number in (2, 10, 1):
        await record_new(fence, release(number, migrations=({"revision": "0006", "kind": "adds"},)), Snapshot(FILES))
    found = await read_releases(fence, fence.place)
    assert [one.number for one in found] == [1, 2, 10]
    assert found[1] == await read_release(fence, fence.place, 2)
    assert found[1].migrations == ({"revision": "0006", "kind": "adds"},)
    assert (await read_snapshot(fence, fence.place, 10)).files == FILES


def test_the_first_release_is_of_the_image_that_is_watched_afterwards() -> None:
    assert first_image({"WOPR_IMAGE": "registry.example.com/wopr:latest"}) == "registry.example.com/wopr:latest"
    assert first_image({"WOPR_IMAGE": ""}) == PLATFORM_IMAGE


def test_what_a_bad_release_opened_the_next_good_one_of_the_same_installation_ends(tmp_path: Path) -> None:
    journal = Journal(tmp_path)
    for number, serving in ((2, Part(1, "blue")), (3, Part(1, "blue")), (4, None)):
        tell_failure(
            journal,
            "here /root/wopr-platform",
            release(number).judged(Judgement.BAD, "it broke"),
            serving,
            served=False,
        )
    tell_failure(
        journal,
        "there /root/wopr-platform",
        release(2).judged(Judgement.BAD, "it broke"),
        Part(1, "blue"),
        served=False,
    )
    mine = open_incident(journal, "somebody's own", "SEV3", "ada")
    assert [one.severity for one in open_incidents(journal)] == ["SEV3", "SEV3", "SEV1", "SEV3", "SEV3"]
    end_failures(journal, "here /root/wopr-platform", release(5))
    left = open_incidents(journal)
    assert [one.facts.get("installation") or one.id for one in left] == ["there /root/wopr-platform", mine]
    assert "Release 5 was observed, is good" in all_incidents(journal)[0].timeline[-1].text


async def test_a_verdict_replaces_the_record(fence: Fence) -> None:
    await record(fence, release(1))
    await record(fence, release(1).judged(Judgement.BAD, "it crashed", 3.0))
    found = await read_release(fence, fence.place, 1)
    assert (found.verdict, found.reason, found.seconds) == ("bad", "it crashed", 3.0)


async def test_nothing_released_yet_is_an_empty_state(fence: Fence) -> None:
    assert await read_state(fence, fence.place) == State()
    assert await read_releases(fence, fence.place) == []
    with pytest.raises(HostFailed, match="Release 1 is not recorded"):
        await read_release(fence, fence.place, 1)


async def test_a_list_of_releases_that_can_not_be_read_whole_is_no_shorter_list(fence: Fence, tmp_path: Path) -> None:
    """By it the next release gets its number: one that is there already would be overwritten."""
    for number in (1, 2):
        await record(fence, release(number))
    async with ssh_machine(tmp_path / "ssh", breaks=" list ") as far:
        with pytest.raises(HostFailed, match="broke in the middle"):
            await read_releases(far, fence.place)
    Path(fence.place.release(2)).unlink()
    Path(fence.place.release(2)).mkdir()
    with pytest.raises(HostFailed, match="can't be read"):
        await read_releases(fence, fence.place)


async def test_the_state_comes_back_and_a_damaged_one_is_told(fence: Fence) -> None:
    state = State(Part(2, "green"), None, Part(1, "blue", "why"))
    await write_state(fence, state)
    assert await read_state(fence, fence.place) == state
    Path(fence.place.state).write_text("{")
    with pytest.raises(HostFailed, match="can't be read"):
        await read_state(fence, fence.place)


async def test_what_failed_is_quarantined_as_a_whole(fence: Fence) -> None:
    bad = release(3)
    await quarantine.add(fence, bad, "it crashed")
    await quarantine.add(fence, replace(bad, number=4), "again")
    entries = await quarantine.read_quarantine(fence, fence.place)
    assert [(one.release, one.reason) for one in entries] == [(4, "again")]
    assert quarantine.find(entries, bad.content())
    assert not quarantine.find(entries, replace(bad, env_hash="corrected").content()), "a corrected .env may be tried"
    await quarantine.lift(fence, bad.content())
    assert await quarantine.read_quarantine(fence, fence.place) == []


def test_what_of_the_database_can_not_go_back_is_named() -> None:
    adds = {"revision": "0006", "kind": "adds", "breaks": ""}
    breaks = {"revision": "0007", "kind": "changes", "breaks": "yes"}
    destroys = {"revision": "0008", "kind": "destroys", "breaks": ""}
    releases = [
        release(1),
        release(2, migrations=(adds,)),
        release(3, migrations=(breaks, destroys), migration_head="0008", verdict=Judgement.BAD),
    ]
    stays, fatal = database_left(releases, releases[0])
    assert stays == ["0006 (adds) of release 2"]
    assert fatal == ["0007 (changes) of release 3", "0008 (destroys) of release 3"]
    assert database_left(releases, releases[2]) == ([], [])
    by_hand = {"revision": "0009", "kind": "destroys", "breaks": ""}
    ahead = replace(releases[2], migrations=(breaks, destroys, by_hand))
    assert database_left([*releases[:2], ahead, release(4)], ahead) == ([], ["0009 (destroys) of release 3"])


async def test_an_empty_folder_gets_the_stack_and_secrets_of_its_own(fence: Fence) -> None:
    lacking = await setup.look(fence, fence.place, {"WOPR_DOMAIN": "wopr.example"})
    assert set(lacking.generated) == {"BETTER_AUTH_SECRET", "PLATFORM_SECRET", "GPU_NODE_SECRET", "POSTGRES_PASSWORD"}
    await setup.complete(fence, lacking)
    env = Path(fence.place.env)
    assert env.stat().st_mode & 0o777 == 0o600
    settings = parsed_env(env.read_text())
    assert settings["BETTER_AUTH_URL"] == "https://api.wopr.example"
    assert settings["COOKIE_DOMAIN"] == ".wopr.example"
    assert len({settings[name] for name in lacking.generated}) == 4
    again = await setup.look(fence, fence.place, {})
    assert again.complete, "a second look finds nothing to do"


async def test_a_domain_that_stands_in_env_gives_the_addresses_as_one_on_the_command_line_does(fence: Fence) -> None:
    Path(fence.place.env).write_text("WOPR_DOMAIN=wopr.example\nUI_URL=https://app.wopr.example\n")
    settings = parsed_env((await setup.look(fence, fence.place, {})).env)
    assert settings["BETTER_AUTH_URL"] == "https://api.wopr.example"
    assert settings["UI_URL"] == "https://app.wopr.example", "what somebody chose stays"
    Path(fence.place.env).write_text("WOPR_DOMAIN=wopr.example\nAPI_URL=https://backend.wopr.example\n")
    assert "BETTER_AUTH_URL" not in parsed_env((await setup.look(fence, fence.place, {})).env), "its other name is set"


async def test_a_lost_env_of_an_installation_is_brought_back_and_not_made_anew(fence: Fence) -> None:
    place = fence.place
    assert (await setup.look(fence, place, {})).generated, "nothing was released yet: new secrets are what it needs"
    await record_new(fence, release(1), Snapshot(FILES))
    await record_new(fence, release(2, verdict=Judgement.BAD), Snapshot(FILES | {"env": b"A=2\n"}))
    await write_state(fence, State(active=Part(1, "blue")))
    for lost in (None, b"", b"# nothing\n"):
        if lost is not None:
            await fence.write(place.env, lost)
        with pytest.raises(Refused, match="sets nothing") as refused:
            await setup.look(fence, place, {"WOPR_DOMAIN": "wopr.example"})
    assert (await setup.stack_files(fence, place))[1] == (), "who takes it down needs no settings"
    subprocess.run(["sh", "-c", refused.value.remedy], check=True)
    assert Path(place.env).read_bytes() == FILES["env"], "of the release that serves"
    assert (await setup.look(fence, place, {})).generated


async def test_bots_of_a_new_installation_are_containers_unless_the_operator_says_otherwise(fence: Fence) -> None:
    place = fence.place
    chosen = await setup.look(fence, place, {"BOT_RUNTIME": "process"})
    assert parsed_env(chosen.env)["BOT_RUNTIME"] == "process"
    await fence.write(place.env, b"BOT_RUNTIME=swarm\n")
    assert parsed_env((await setup.look(fence, place, {})).env)["BOT_RUNTIME"] == "swarm"
    await fence.write(place.env, b"LOG_LEVEL=info\n")
    assert parsed_env((await setup.look(fence, place, {})).env)["BOT_RUNTIME"] == "docker"
    await write_state(fence, State(active=Part(1, "blue")))
    later = parsed_env((await setup.look(fence, place, {})).env)
    assert "BOT_RUNTIME" not in later, "bots that ran as processes are not moved away from what they know"


class WithoutImages(LocalHost):
    """A machine whose engine has no image."""

    async def run(self, argv: Sequence[str], *, input: bytes = b"", timeout: float = 60.0) -> Output:
        return Output(1) if argv[0] == "docker" else await super().run(argv, input=input, timeout=timeout)


async def test_an_image_for_bots_that_is_gone_is_told_with_what_brings_it_back(fence: Fence) -> None:
    host, place = WithoutImages(), fence.place
    assert (await bots_image(host, place)).verdict is Verdict.SKIPPED, "nothing is released"
    await record(fence, release(1))
    await write_state(fence, State(active=Part(1, "blue")))
    await fence.write(place.env, b"BOT_RUNTIME=process\n")
    assert (await bots_image(host, place)).verdict is Verdict.SKIPPED
    await fence.write(place.env, b"BOT_RUNTIME=docker\n")
    found = await bots_image(host, place)
    assert found.verdict is Verdict.FAILED
    assert "wopr deploy" in found.remedy


class Engine(LocalHost):
    """A machine whose engine has the images that were pulled, and asks our registry's for credentials."""

    pulled: ClassVar[list[str]] = []

    async def run(self, argv: Sequence[str], *, input: bytes = b"", timeout: float = 60.0) -> Output:
        if "docker" not in argv:
            return await super().run(argv, input=input, timeout=timeout)
        words, image = list(argv)[list(argv).index("docker") + 1 :], argv[-1]
        if words[0] == "image":
            return Output(0, json.dumps([{"Id": image}]).encode()) if image in self.pulled else Output(1)
        known = words[0] == "--config" and (Path(words[1]) / "config.json").exists()
        if not known and image.startswith("registry.example/"):
            return Output(1, b"", b"no basic auth credentials")
        self.pulled.append(image)
        return Output(0)


async def test_postgres_and_caddy_of_our_own_registry_are_fetched_with_its_credentials_once(tmp_path: Path) -> None:
    Engine.pulled.clear()
    settings = {"REGISTRY_SERVER": "registry.example", "REGISTRY_USERNAME": "ada", "REGISTRY_PASSWORD": "secret"}
    settings |= {"POSTGRES_IMAGE": "registry.example/postgres:16", "CADDY_IMAGE": "caddy:2-alpine"}
    async with hold(Engine(), Place(str(tmp_path / "wopr")), "deploy") as fence:
        with Journal(tmp_path).operation("deploy") as operation:
            ctx = Context(fence, Compose(("docker", "compose")), operation, lambda *_: None, settings)
            for _ in range(2):
                await images_on_host.fetch_around(ctx)
    assert Engine.pulled == ["registry.example/postgres:16"], "compose fetches what is public by itself"
    assert not Path(fence.place.registry_config, "config.json").exists()


async def test_what_the_operator_edited_stays_and_what_we_shipped_is_renewed(fence: Fence) -> None:
    await setup.complete(fence, await setup.look(fence, fence.place, {}))
    compose, caddyfile = Path(fence.place.compose), Path(fence.place.caddyfile)
    caddyfile.write_text("# mine\n")
    shipped = Path(fence.place.dir, ".shipped")
    old = "services: {old: {}}\n"
    compose.write_text(old)
    shipped.write_text(f"compose.yaml={digest_of(old.encode())}\nCaddyfile={digest_of(setup.packaged('Caddyfile'))}\n")
    lacking = await setup.look(fence, fence.place, {})
    assert set(lacking.files) == {"compose.yaml"}
    assert lacking.kept == ("Caddyfile",)


def test_settings_are_changed_in_their_line_or_added_at_the_end() -> None:
    text = "# mine\nA=1\nB='two words'\n"
    assert setup.with_settings(text, {"A": "3 4", "C": "$x"}) == "# mine\nA=3 4\nB='two words'\nC='$x'\n"
    assert setup.with_settings(text, {}) == text
