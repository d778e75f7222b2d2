"""Which bots move to another image, and in which order: pure decisions, and what operators say through the API."""

import asyncio
import json
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wopr.accounts.principal import Scope
from wopr.cli.root import run
from wopr.core.errors import Invalid
from wopr.core.ids import new_id
from wopr.fleet import images
from wopr.fleet.images import FAILURES_MAX, Images, require_digest
from wopr.fleet.plan import (
    Action,
    Channel,
    Desired,
    Observed,
    Stage,
    Standing,
    State,
    Wanted,
    plan,
)
from wopr.fleet.rollout import Behind, Fleet, Moving, choose, superseded
from wopr.fleet.updates import judge

World = Any  # of conftest.py, which can't be imported

OLD, NEW, OTHER = (f"example.org/bot@sha256:{digit * 64}" for digit in "abc")
NOW = datetime(2026, 3, 1, tzinfo=UTC)
LIVES = Observed(generation=4, ready=True, waited_seconds=0.0, crashes=(), image=OLD)
GONE = replace(LIVES, generation=None, ready=False, image="")


def behind(count: int, channel: Channel = Channel.STABLE, *, wanted: str = NEW, paused: bool = False) -> list[Behind]:
    return [Behind(new_id(), channel, OLD, wanted, paused) for _ in range(count)]


def moving(count: int, channel: Channel = Channel.STABLE, *, image: str = NEW, rests: bool = False) -> list[Moving]:
    return [Moving(new_id(), channel, Stage.TRYING, image, image, rests) for _ in range(count)]


def test_an_image_that_no_bot_runs_yet_gets_no_more_tries_at_once_than_it_may_fail() -> None:
    fleet = Fleet(behind(50), [], {}, frozenset())
    assert len(choose(fleet, at_once=20)) == FAILURES_MAX
    assert len(choose(replace(fleet, failures={NEW: 2}), at_once=20)) == 1
    assert len(choose(replace(fleet, moving=moving(2)), at_once=20)) == 1
    assert len(choose(replace(fleet, proven=frozenset({NEW})), at_once=20)) == 20


def test_no_more_bots_move_at_once_than_the_setting_allows_and_those_that_rest_hold_up_nobody() -> None:
    fleet = Fleet(behind(50), moving(4), {}, frozenset({NEW}))
    assert len(choose(fleet, at_once=5)) == 1
    assert choose(replace(fleet, moving=moving(5)), at_once=5) == []
    assert len(choose(replace(fleet, moving=moving(5, rests=True)), at_once=5)) == 5


def test_canary_bots_are_first_and_the_others_wait_until_they_are_through() -> None:
    canary, stable = behind(1, Channel.CANARY), behind(5)
    assert choose(Fleet([*stable, *canary], [], {}, frozenset()), at_once=5) == canary
    assert choose(Fleet(stable, moving(1, Channel.CANARY), {}, frozenset()), at_once=5) == []
    assert len(choose(Fleet(stable, [], {}, frozenset({NEW})), at_once=5)) == 5


def test_a_canary_bot_that_came_back_still_holds_up_the_others() -> None:
    canary = behind(1, Channel.CANARY, paused=True)
    assert choose(Fleet([*canary, *behind(5)], [], {NEW: 1}, frozenset()), at_once=5) == []


def test_canary_bots_hold_up_only_their_own_image_and_no_pinned_bot() -> None:
    canary = behind(1, Channel.CANARY, wanted=OTHER)
    pinned = behind(1, Channel.PINNED, wanted=OTHER)
    chosen = choose(Fleet([*canary, *pinned, *behind(1)], [], {}, frozenset()), at_once=5)
    assert sorted(bot.channel for bot in chosen) == ["canary", "pinned", "stable"]


def test_nothing_moves_to_an_image_that_failed_too_often() -> None:
    every = [*behind(2, Channel.CANARY), *behind(5), *behind(1, Channel.PINNED)]
    assert choose(Fleet(every, [], {NEW: FAILURES_MAX}, frozenset({NEW})), at_once=5) == []


def test_who_waits_for_an_image_that_failed_or_is_not_wanted_any_more_stays() -> None:
    waiting = [replace(bot, stage=Stage.WAITING) for bot in moving(2)]
    late = replace(waiting[0], wanted=OTHER)
    assert superseded(Fleet([], [late, waiting[1]], {}, frozenset())) == [late]
    assert superseded(Fleet([], waiting, {NEW: FAILURES_MAX}, frozenset())) == waiting
    assert superseded(Fleet([], moving(2), {NEW: FAILURES_MAX}, frozenset())) == []


@given(
    counts=st.tuples(*[st.integers(0, 6)] * 5),
    failures=st.integers(0, 4),
    at_once=st.integers(1, 8),
    proven=st.booleans(),
)
def test_however_the_fleet_is_the_limits_hold(
    counts: tuple[int, ...], failures: int, at_once: int, proven: bool
) -> None:
    late = [*behind(counts[0]), *behind(counts[1], Channel.CANARY), *behind(counts[2], Channel.PINNED)]
    known = frozenset({NEW}) if proven else frozenset[str]()
    fleet = Fleet(late, [*moving(counts[3]), *moving(counts[4], rests=True)], {NEW: failures}, known)
    chosen = choose(fleet, at_once)
    assert len(set(chosen)) == len(chosen)
    assert not chosen or len(chosen) + counts[3] <= at_once
    if not proven:
        assert not chosen or len(chosen) + counts[3] + failures <= FAILURES_MAX


def test_an_update_goes_step_by_step() -> None:
    def step(stage: Stage, seen: Observed) -> tuple[Action, State]:
        found = plan(Wanted(Desired.RUNNING, 4, OLD, stage), seen, Standing(True), NOW)
        return found.action, found.state

    assert step(Stage.WAITING, LIVES) == (Action.LET_FINISH, State.RUNNING)
    assert step(Stage.WAITING, GONE) == (Action.LET_FINISH, State.STARTING)
    assert step(Stage.COPYING, LIVES) == (Action.STOP, State.STARTING)
    assert step(Stage.COPYING, GONE) == (Action.COPY, State.STARTING)
    assert step(Stage.TRYING, GONE) == (Action.START, State.STARTING)
    assert step(Stage.TRYING, LIVES) == (Action.ACCEPT, State.RUNNING)
    assert step(Stage.RETURNING, LIVES) == (Action.STOP, State.STARTING)
    assert step(Stage.RETURNING, GONE) == (Action.RESTORE, State.STARTING)
    assert step(Stage.KEPT, LIVES) == (Action.NOTHING, State.RUNNING)
    assert step(Stage.RETURNED, GONE) == (Action.START, State.STARTING)


@given(stage=st.sampled_from(Stage), lives=st.booleans(), may_run=st.booleans())
def test_a_bot_that_shall_not_run_is_at_rest_at_any_stage_and_one_that_is_deleted_goes(
    stage: Stage, lives: bool, may_run: bool
) -> None:
    seen = LIVES if lives else GONE
    rest = Action.STOP if lives else Action.NOTHING
    assert plan(Wanted(Desired.STOPPED, 4, OLD, stage), seen, Standing(may_run), NOW).action is rest
    assert plan(Wanted(Desired.RUNNING, 4, OLD, stage), seen, Standing(False, "no credit"), NOW).action is rest
    assert plan(Wanted(Desired.DELETED, 4, OLD, stage), seen, Standing(may_run), NOW).action is Action.REMOVE


def test_an_instance_on_another_image_than_the_wanted_one_is_replaced() -> None:
    wrong = replace(LIVES, image=NEW)
    assert plan(Wanted(Desired.RUNNING, 4, OLD), wrong, Standing(True), NOW).action is Action.STOP
    assert plan(Wanted(Desired.RUNNING, 4), wrong, Standing(True), NOW).action is Action.NOTHING
    assert plan(Wanted(Desired.RUNNING, 4, OLD), replace(LIVES, image=""), Standing(True), NOW).action is Action.NOTHING


def test_without_any_setting_it_is_the_image_of_the_settings_and_new_bots_avoid_what_failed() -> None:
    nothing = Images((), (), "bot:latest")
    assert {nothing.wanted(channel, None) for channel in ("stable", "canary")} == {"bot:latest"}
    known = Images((NEW, OLD), (OTHER, NEW, OLD), "bot:latest", {NEW: FAILURES_MAX})
    assert (known.wanted("stable", None), known.fit("stable", None)) == (NEW, OLD)
    assert (known.wanted("canary", None), known.wanted("pinned", OLD)) == (OTHER, OLD)


@pytest.mark.parametrize("text", ["bot:latest", "", "sha256:abc", f"--{OLD}", f"x y@{OLD}", OLD.upper(), f"{OLD}\nx"])
def test_an_image_without_a_digest_is_refused(text: str) -> None:
    with pytest.raises(Invalid):
        require_digest(text)


@pytest.mark.parametrize(
    "text", [OLD, f" {OLD}\n", OLD.partition("@")[2], f"localhost:5000/a/b:tag@{'sha256:' + '0' * 64}"]
)
def test_an_image_is_named_by_its_digest(text: str) -> None:
    assert require_digest(text) == text.strip()


async def administrator(world: World) -> Any:
    admin = await world.customer(scope=Scope.ADMIN)
    await world.sql(
        "UPDATE users SET platform_admin = true FROM memberships m "
        "WHERE m.user_id = users.id AND m.tenant_id = :tenant",
        tenant=admin.tenant_id,
    )
    return admin


async def test_administrators_set_images_and_customers_do_not(world: World) -> None:
    customer, admin = await world.customer(), await administrator(world)
    for method, path, body in (
        ("GET", "/api/admin/bot-images", None),
        ("PUT", "/api/admin/bot-images/stable", {"image": NEW}),
        ("PUT", f"/api/admin/bots/{new_id()}/channel", {"channel": "canary"}),
    ):
        assert (await customer.http.request(method, path, json=body)).status_code == 403
    put = await admin.http.put("/api/admin/bot-images/stable", json={"image": NEW})
    assert put.json() == {"changed": True}
    assert (await admin.http.put("/api/admin/bot-images/stable", json={"image": NEW})).json() == {"changed": False}
    assert (await admin.http.put("/api/admin/bot-images/stable", json={"image": "bot:latest"})).status_code == 422
    assert (await admin.http.put("/api/admin/bot-images/pinned", json={"image": NEW})).status_code == 422
    (image,) = (await admin.http.get("/api/admin/bot-images")).json()["images"]
    assert (image["image"], image["channels"], image["quarantined"]) == (NEW, ["stable", "canary"], False)


async def test_a_bot_is_pinned_and_released_and_an_image_that_failed_takes_no_pin(world: World) -> None:
    customer, admin = await world.customer(), await administrator(world)
    bot = await customer.create()
    path = f"/api/admin/bots/{bot['id']}/channel"
    assert (await admin.http.put(path, json={"channel": "pinned"})).status_code == 422
    assert (await admin.http.put(path, json={"channel": "stable", "image": NEW})).status_code == 422
    assert (await admin.http.put(path, json={"channel": "pinned", "image": NEW})).json() == {"changed": True}
    (seen,) = (await admin.http.get("/api/admin/bots")).json()["bots"]
    assert (seen["channel"], seen["image"]) == ("pinned", None)
    assert (await admin.http.put(path, json={"channel": "canary"})).json() == {"changed": True}
    assert (await admin.http.put(path, json={"channel": "canary"})).json() == {"changed": False}
    for _ in range(FAILURES_MAX):
        await world.sql(
            "INSERT INTO bot_updates (bot_id, stage, image_from, image_to, began_at) VALUES "
            "(:bot, 'trying', :old, :new, now()) ON CONFLICT (bot_id) DO UPDATE SET stage = 'trying'",
            bot=UUID(bot["id"]), old=OLD, new=NEW,
        )  # fmt: skip
        async with world.platform.db.begin() as session:
            assert await judge(session, UUID(bot["id"]), "it ended", world.platform.clock.now())
            assert not await judge(session, UUID(bot["id"]), "it ended", world.platform.clock.now())
    refused = await admin.http.put(path, json={"channel": "pinned", "image": NEW})
    assert (refused.status_code, refused.json()["error"]["code"]) == (409, "image_quarantined")
    answer = (await admin.http.get("/api/admin/bot-images")).json()
    failed = next(image for image in answer["images"] if image["image"] == NEW)
    assert (failed["failures"], failed["quarantined"], failed["last_error"]) == (FAILURES_MAX, True, "it ended")
    assert [update["stage"] for update in answer["updates"]] == ["returning"]
    assert (await admin.http.put("/api/admin/bot-images/canary", json={"image": NEW})).json() == {"changed": True}
    answer = (await admin.http.get("/api/admin/bot-images")).json()
    assert not any(image["quarantined"] for image in answer["images"])


async def test_an_image_is_needed_as_long_as_a_bot_a_channel_or_a_copy_has_to_do_with_it(world: World) -> None:
    async def needed() -> set[str]:
        async with world.platform.db.begin() as session:
            return set(await images.needed(session, world.platform.settings))

    customer, admin = await world.customer(), await administrator(world)
    fallback = world.platform.settings.bot_image
    assert await needed() == {fallback}
    bot = await customer.create()
    await admin.http.put(f"/api/admin/bots/{bot['id']}/channel", json={"channel": "pinned", "image": NEW})
    assert await needed() == {fallback, NEW}
    await world.sql(
        "INSERT INTO bot_updates (bot_id, stage, image_from, image_to, began_at) VALUES "
        "(:bot, 'kept', :old, :new, now())",
        bot=UUID(bot["id"]), old=OLD, new=NEW,
    )  # fmt: skip
    assert await needed() == {fallback, NEW, OLD}, "its copy may be put back"
    await world.sql("DELETE FROM bot_updates")
    await world.sql("UPDATE bots SET deleted_at = now()")
    assert await needed() == {fallback}
    await admin.http.put("/api/admin/bot-images/canary", json={"image": OTHER})
    assert await needed() == {fallback, OTHER}


async def test_images_and_pins_on_the_command_line(
    world: World, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    customer, admin = await world.customer(), await administrator(world)
    bot = await customer.create("Ada")
    monkeypatch.setenv("API_URL", await world.serve())
    monkeypatch.setenv("WOPR_KEY", admin.key)
    monkeypatch.setenv("WOPR_HOME", str(world.home))

    async def wopr(*arguments: str) -> tuple[int, str]:
        code = await asyncio.to_thread(run, ["bots", *arguments])
        return code, capsys.readouterr().out

    assert (await wopr("image", "set", "canary", NEW, "--dry-run"))[1] == f"would let canary bots move to {NEW}\n"
    assert await wopr("image", "set", "canary", NEW) == (0, f"canary bots move to {NEW}\n")
    assert await wopr("image", "set", "canary", NEW, "--exit-code") == (4, f"canary bots move to {NEW} already\n")
    assert (await wopr("image", "set", "canary", "bot:latest"))[0] == 1
    assert (await wopr("image", "set", "nightly", NEW))[0] == 2
    assert (await wopr("pin", "Ada"))[0] == 2
    assert (await wopr("pin", "Eve", "--release"))[0] == 1
    assert await wopr("pin", "ada", OLD) == (0, f"Ada stays on {OLD}\n")
    assert await wopr("pin", bot["id"], "--release", "--channel", "canary") == (0, "Ada follows canary\n")
    code, out = await wopr("pin", "Ada", "--release", "--channel", "canary", "--json")
    assert (code, json.loads(out)["changed"]) == (0, False)
    code, out = await wopr("image", "list", "--json")
    shown = {image["image"]: image["channels"] for image in json.loads(out)["images"]}
    assert (code, shown[NEW]) == (0, ["canary"])
    assert "canary" in (await wopr("image", "ls"))[1]
    names = [json.loads(line)["name"] for line in (world.home / "journal.jsonl").read_text().splitlines()]
    assert {"bots.image", "bots.pin"} <= set(names)
