"""Containers that are created ahead are cleared away when the release may not come in, and that never hides why."""

import secrets
from dataclasses import replace
from pathlib import Path

import pytest

from wopr.delivery.commands import PLUGIN
from wopr.delivery.context import Context
from wopr.delivery.errors import Refused
from wopr.delivery.hosts import LocalHost
from wopr.delivery.lock import hold
from wopr.delivery.place import Place
from wopr.delivery.release import Part, Release, Snapshot, State, record_new
from wopr.delivery.slots import creating_ahead
from wopr.ops.journal import Journal

SNAPSHOT = Snapshot({"env": b"A=1\n", "compose.yaml": b"services: {}\n", "Caddyfile": b":80\n"})


async def test_a_refusal_is_told_even_when_clearing_away_fails(tmp_path: Path) -> None:
    place, journal = Place(str(tmp_path), f"wt{secrets.token_hex(4)}"), Journal(tmp_path)
    hashes = (SNAPSHOT.config_hash, SNAPSHOT.env_hash)
    serving = Release(1, "name@sha256:1", "", *hashes, "0005", "2026-01-01T00:00:00", "ada")
    coming = replace(serving, number=2, platform="name@sha256:2")
    told: list[str] = []
    async with hold(LocalHost(), place, "deploy") as fence:
        await record_new(fence, serving, SNAPSHOT)
        with journal.operation("deploy") as operation:
            ctx = Context(fence, PLUGIN, operation, lambda what, more: told.append(f"{what} {more}"), {})
            with pytest.raises(Refused, match="it would destroy"):
                await refused_where_clearing_away_fails(ctx, coming)
    assert told == ["not cleared away problem Release 1 lacks env in " + place.snapshot(1) + "."]
    assert [one.data["step"] for one in journal.read() if one.phase == "step"] == ["not cleared away"]


async def refused_where_clearing_away_fails(ctx: Context, coming: Release) -> None:
    async with creating_ahead(ctx, coming, SNAPSHOT, State(active=Part(1, "blue"))) as ahead:
        assert ahead is not None
        try:
            await ctx.fence.must(("rm", ctx.place.snapshot(1, "env")))
            raise Refused("it would destroy")
        except Refused:
            await ahead.undo()
            raise
