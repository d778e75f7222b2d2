"""Wherever a deployer is killed, the verdict on its release and what follows from that verdict are both there, or both
are not: quarantine and one incident with a bad one, no incident left of earlier ones with a good one."""

import copy
import os
import shutil
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import pytest
from tests.delivery.killing import Killed, Machine, Unrendered

from wopr.delivery import quarantine
from wopr.delivery.commands import Compose, parsed_env
from wopr.delivery.context import Context
from wopr.delivery.cutover import Incoming, Limits, Verdict, cut_over, turn_away
from wopr.delivery.lock import Fence
from wopr.delivery.place import Place
from wopr.delivery.recover import recover
from wopr.delivery.release import Judgement, Release, Snapshot, State, read_releases, read_state, record
from wopr.delivery.rollback import Back, go_back, propose
from wopr.delivery.slots import creating_ahead
from wopr.delivery.went_back import ROLLBACK
from wopr.ops.incidents import Incident, all_incidents, open_incidents
from wopr.ops.journal import Journal, Operation

PLACE = Place("/root/wopr-platform")
SNAPSHOT = Snapshot({"env": b"A=1\n", "compose.yaml": b"services: {}\n", "Caddyfile": b":80\n"})
LIMITS = Limits(ready_seconds=0.2, observe_seconds=0.0)
CHANGES_MAX = 60

Deploys = Callable[[Context, Release], Awaitable[Verdict]]


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """These journals need not outlive a power cut; there are thousands of entries."""
    monkeypatch.setattr(os, "fsync", lambda _: None)


@dataclass(frozen=True)
class Site:
    """A machine, and the journal of whoever deploys there."""

    machine: Machine
    journal: Journal

    async def deploy(self, number: int, does: Deploys | None = None) -> Verdict:
        """Every run begins with what an earlier one left."""
        return await (does or comes_in)(await self.recover(), release(number))

    async def recover(self) -> Context:
        ctx = self.begin("deploy")
        await recover(ctx)
        return ctx

    def begin(self, name: str) -> Context:
        """An operation that has the lock and has done nothing yet."""
        fence = Fence(self.machine, PLACE, 1)
        return Context(fence, Compose(), Operation(self.journal, name), lambda *_: None, {})

    async def kill(self, number: int, does: Deploys | None = None, *, before: int = 0, after: int = 0) -> bool:
        """Deploy, and be killed before or after so many changes; whether it came to that."""
        began = self.machine.changes
        self.machine.kill_before = began + before if before else 0
        self.machine.kill_after = began + after if after else 0
        try:
            await self.deploy(number, does)
        except Killed:
            return True
        finally:
            self.machine.kill_before = self.machine.kill_after = 0
        return False

    async def verdict(self, number: int) -> str:
        found = await read_releases(self.machine, PLACE)
        return next((one.verdict for one in found if one.number == number), "")

    async def quarantined(self) -> Sequence[int]:
        return [entry.release for entry in await quarantine.read_quarantine(self.machine, PLACE)]

    def incidents(self, number: int) -> Sequence[Incident]:
        return [one for one in open_incidents(self.journal) if one.facts.get("release") == number]

    def steps(self) -> Sequence[str]:
        return [str(entry.data["step"]) for entry in self.journal.read() if entry.phase == "step"]


async def comes_in(ctx: Context, coming: Release) -> Verdict:
    return await cut_over(ctx, Incoming(coming, SNAPSHOT, LIMITS))


async def is_turned_away(ctx: Context, coming: Release) -> Verdict:
    return await turn_away(ctx, coming, SNAPSHOT, "it is built for arm64")


def release(number: int) -> Release:
    made = Release(number, f"p@sha256:{number}", "b", "", "", "0005", "2026-01-01T00:00:00", "ada")
    return replace(made, config_hash=SNAPSHOT.config_hash, env_hash=SNAPSHOT.env_hash)


async def killed_anywhere(
    folder: Path, *before: int, number: int, does: Deploys | None = None, env: bytes = b"", **more: frozenset[int]
) -> AsyncIterator[Site]:
    """Sites on which the deployer of one release was killed, before and after each change that it made; on the last
    one it was not. Those `before` it were tried first; then the operator edited `.env`, where `env` says so."""
    began = Site(Machine(PLACE, **more), Unrendered(folder / "began"))
    for earlier in before:
        await began.deploy(earlier)
    began.machine.files[PLACE.env] = env or SNAPSHOT.files["env"]
    began.journal.home.mkdir(exist_ok=True)
    for count in range(1, CHANGES_MAX):
        for moment in ("before", "after"):
            home = shutil.copytree(began.journal.home, folder / f"{moment}-{count}")
            site = Site(copy.deepcopy(began.machine), Unrendered(home))
            killed = await site.kill(number, does, **{moment: count})
            yield site
            if not killed:
                return
    raise AssertionError(f"more than {CHANGES_MAX} changes")


async def consistent(site: Site, number: int) -> str:
    """The verdict on a release after the next run, when it and what follows from it are both there.

    There is none yet where nothing else serves, it is not ready, and nobody had come as far as to say that it is bad.
    """
    came_so_far = number in await site.quarantined() or "going back" in site.steps()
    await site.recover()
    verdict = await site.verdict(number)
    state = await read_state(site.machine, PLACE)
    assert state == State(active=state.active), "nothing comes in and nothing leaves"
    assert verdict != Judgement.PENDING or (state.active and state.active.release == number and not state.leaving)
    bad = verdict == Judgement.BAD
    assert bad or not came_so_far, verdict
    assert (number in await site.quarantined()) == bad
    assert len(site.incidents(number)) == bad
    return verdict


@pytest.mark.parametrize("kind", ["crashes", "breaks", "errs"])
async def test_a_bad_release_is_quarantined_and_told_once_wherever_its_deployer_is_killed(
    tmp_path: Path, kind: str
) -> None:
    bad = 0
    async for site in killed_anywhere(tmp_path, 1, number=2, **{kind: frozenset({2})}):
        if await consistent(site, 2) == Judgement.BAD:
            bad += 1
            (told,) = open_incidents(site.journal)
            assert (told.severity, told.facts["serving"]) == ("SEV3", 1)
            assert told.impact.startswith("none" if kind == "crashes" else "the bad one served")
        state = await read_state(site.machine, PLACE)
        assert state.active
        assert (state.active.release == 1) == (await site.verdict(2) != Judgement.GOOD)
    assert bad > 2


@pytest.mark.parametrize("kind", ["crashes", "breaks"])
async def test_that_nothing_serves_is_told_wherever_the_deployer_is_killed(tmp_path: Path, kind: str) -> None:
    bad = 0
    async for site in killed_anywhere(tmp_path, number=1, **{kind: frozenset({1})}):
        if await consistent(site, 1) == Judgement.BAD:
            bad += 1
            assert [(one.severity, one.impact) for one in open_incidents(site.journal)] == [("SEV1", "nothing serves")]
        assert await site.verdict(1) != Judgement.GOOD, "it never served anybody"
    assert bad > 2


async def test_a_good_release_ends_the_incident_of_a_bad_one_wherever_its_deployer_is_killed(tmp_path: Path) -> None:
    good = 0
    async for site in killed_anywhere(tmp_path, 1, 2, number=3, crashes=frozenset({2})):
        verdict = await consistent(site, 3)
        good += verdict == Judgement.GOOD
        assert len(site.incidents(2)) == (verdict != Judgement.GOOD), verdict
    assert good > 2


async def test_an_incident_stays_open_while_what_was_killed_after_its_commit_is_not_ready(tmp_path: Path) -> None:
    async for site in killed_anywhere(tmp_path, 1, number=2, crashes=frozenset({1}), breaks=frozenset({2})):
        await consistent(site, 2)
        assert [one.severity for one in site.incidents(1)] == ["SEV1"]


async def test_a_good_release_is_not_taken_back_because_its_machine_only_just_booted(tmp_path: Path) -> None:
    good = 0
    async for site in killed_anywhere(tmp_path, 1, number=2):
        site.machine.boots = 6
        await site.recover()
        assert await site.verdict(2) != Judgement.BAD
        assert await site.quarantined() == []
        good += await site.verdict(2) == Judgement.GOOD
    assert good > 2


async def test_what_was_mended_once_is_not_told_again(tmp_path: Path) -> None:
    async for site in killed_anywhere(tmp_path, 1, number=2, breaks=frozenset({2})):
        await site.recover()
        left, entries = dict(site.machine.files), len(site.journal.read())
        await site.recover()
        assert (site.machine.files, len(site.journal.read())) == (left, entries)


async def test_one_that_is_turned_away_is_quarantined_and_told_wherever_its_deployer_is_killed(tmp_path: Path) -> None:
    async for site in killed_anywhere(tmp_path, 1, number=2, does=is_turned_away):
        verdict = await consistent(site, 2)
    assert verdict == Judgement.BAD


async def comes_in_created_ahead(ctx: Context, coming: Release) -> Verdict:
    state = await read_state(ctx.host, PLACE)
    async with creating_ahead(ctx, coming, SNAPSHOT, state) as ahead:
        assert ahead is not None
        await ahead.done()
        return await cut_over(ctx, Incoming(coming, SNAPSHOT, LIMITS, ahead=ahead))


@pytest.mark.parametrize("does", [comes_in, comes_in_created_ahead])
async def test_what_compose_is_given_is_of_the_release_that_serves_wherever_a_deployer_is_killed(
    tmp_path: Path, does: Deploys
) -> None:
    """Whoever calls compose by hand, and what takes the platform's image from there, must not meet one given up."""
    served = set()
    async for site in killed_anywhere(tmp_path, 1, number=2, does=does):
        await site.recover()
        state = await read_state(site.machine, PLACE)
        assert state.active
        served.add(state.active.release)
        given = parsed_env(site.machine.files[PLACE.stack_env].decode())
        assert given["WOPR_DELIVERER_IMAGE"] == f"p@sha256:{state.active.release}"
        assert given[f"WOPR_{state.active.slot.upper()}_RELEASE"] == str(state.active.release)
    assert served == {1, 2}


async def goes_back(ctx: Context, _: Release) -> Verdict:
    return (await go_back(ctx, Back(reason="logins fail", by="ada", limits=LIMITS))).verdict


async def test_a_rollback_is_whole_or_was_not_wherever_its_deployer_is_killed(tmp_path: Path) -> None:
    back, edited = 0, b"A=never released\n"
    async for site in killed_anywhere(tmp_path, 1, 2, 3, number=4, does=goes_back, env=edited):
        await site.recover()
        machine, state = site.machine, await read_state(site.machine, PLACE)
        assert state.active
        assert state == State(active=state.active), "nothing comes in and nothing leaves"
        went_back = state.active.release == 4
        back += went_back
        assert await site.verdict(4) in ((Judgement.GOOD,) if went_back else (Judgement.ABANDONED, ""))
        assert await site.verdict(3) == (Judgement.ROLLED_BACK if went_back else Judgement.GOOD)
        assert await site.quarantined() == ([3] if went_back else [])
        assert machine.files[PLACE.env] == (SNAPSHOT.files["env"] if went_back else edited)
        assert machine.files.get(f"{PLACE.env}.unreleased") == (edited if went_back else None)
        told = [(one.open, one.facts["reason"], one.detected_by) for one in all_incidents(site.journal)]
        assert told == ([(False, "logins fail", "ada")] if went_back else [])
        assert (await propose(machine, PLACE, None)).target.number == (1 if went_back else 2), "one further back"
    assert back > 2


async def rolls_back(ctx: Context, _: Release, to: int | None = None) -> Verdict:
    """As `wopr rollback` does, with its beginning and its end in the journal; who is killed writes no end."""
    operation = Operation(ctx.journal, ROLLBACK)
    ctx.journal.append(str(operation.id), ROLLBACK, "begin", {})
    went = await go_back(replace(ctx, operation=operation), Back(to, limits=LIMITS))
    ctx.journal.append(str(operation.id), ROLLBACK, "end", {})
    return went.verdict


@pytest.mark.parametrize("to", [None, 2])
async def test_a_rollback_that_is_said_again_goes_back_once_wherever_its_deployer_is_killed(
    tmp_path: Path, to: int | None
) -> None:
    said_again = 0
    async for site in killed_anywhere(tmp_path, 1, 2, 3, number=4, does=partial(rolls_back, to=to)):
        if any(entry.phase == "end" for entry in site.journal.read()):
            continue  # it said that it was through: another one is another step
        said_again += 1
        assert (await rolls_back(site.begin(ROLLBACK), release(5), to)).good
        state = await read_state(site.machine, PLACE)
        assert state.active
        found = {one.number: one for one in await read_releases(site.machine, PLACE)}
        assert found[state.active.release].restores == 2
        assert [found[number].verdict for number in (2, 3)] == [Judgement.GOOD, Judgement.ROLLED_BACK]
        assert await site.quarantined() == [3]
        assert [one.open for one in all_incidents(site.journal)] == [False]
    assert said_again > 2


async def test_who_went_back_stays_there_although_it_is_not_ready_when_the_next_run_looks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The release before it was judged: it is gone back from, and not to come again."""
    monkeypatch.setattr("wopr.delivery.recover.FIRST_READY_SECONDS", 0.1)
    stays = 0
    async for site in killed_anywhere(tmp_path, 1, 2, number=3, does=goes_back):
        if await site.verdict(2) == Judgement.ROLLED_BACK and (await read_state(site.machine, PLACE)).leaving:
            stays += 1
            site.machine.boots = 10_000
            await site.recover()
            state = await read_state(site.machine, PLACE)
            assert state.active
            assert state.active.release == 3
            assert await site.verdict(3) == Judgement.GOOD
    assert stays > 2


@pytest.mark.parametrize(("at", "ran"), [("0005", []), ("0006", ["0006"]), ("0007", ["0006", "0007"])])
async def test_a_release_that_was_given_up_keeps_the_migrations_that_ran(
    tmp_path: Path, at: str, ran: Sequence[str]
) -> None:
    planned = tuple({"revision": revision, "kind": "changes", "breaks": "yes"} for revision in ("0006", "0007"))

    async def migrates(ctx: Context, coming: Release) -> Verdict:
        coming = replace(coming, migrations=planned)

        async def prepare() -> None:
            await record(ctx.fence, coming)

        return await cut_over(ctx, Incoming(coming, SNAPSHOT, LIMITS, prepare))

    given_up = 0
    async for site in killed_anywhere(tmp_path, 1, number=2, does=migrates):
        site.machine.revision = at
        before = await recorded(site, 2)
        await site.recover()
        if await site.verdict(2) == Judgement.ABANDONED:
            given_up += 1
            assert await recorded(site, 2) == (ran if before else [])
    assert given_up > 2


async def recorded(site: Site, number: int) -> Sequence[str]:
    found = await read_releases(site.machine, PLACE)
    return [migration["revision"] for one in found if one.number == number for migration in one.migrations]


async def test_that_the_release_before_runs_on_what_a_bad_one_destroyed_is_told(tmp_path: Path) -> None:
    async def migrates(ctx: Context, coming: Release) -> Verdict:
        dropped = {"revision": "0006", "kind": "destroys", "breaks": ""}
        coming = replace(coming, migrations=(dropped,))

        async def prepare() -> None:
            await record(ctx.fence, coming)

        return await cut_over(ctx, Incoming(coming, SNAPSHOT, LIMITS, prepare))

    site = Site(Machine(PLACE, crashes=frozenset({2})), Unrendered(tmp_path))
    await site.deploy(1)
    assert not (await site.deploy(2, migrates)).good
    (told,) = open_incidents(site.journal)
    assert told.severity == "SEV2"
    assert "0006" in told.impact
    assert "dumps/" in told.impact
