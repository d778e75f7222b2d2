"""`wopr bots` as a person and as a script uses it, against the routes over HTTP and a real bot."""

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest

from wopr.cli.root import run
from wopr.fleet import feeds

World = Any  # of conftest.py, which can't be imported


async def test_a_bots_life_on_the_command_line(
    world: World, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    customer = await world.customer()
    await world.work()
    monkeypatch.setenv("API_URL", await world.serve())
    monkeypatch.setenv("WOPR_KEY", customer.key)
    monkeypatch.setenv("WOPR_HOME", str(world.home))
    monkeypatch.setattr("wopr.cli.talk.RECEIPT_SECONDS_MAX", 0.0)  # nothing is settled by this gateway

    async def wopr(*arguments: str) -> tuple[int, str, str]:
        code = await asyncio.to_thread(run, ["bots", *arguments])
        written = capsys.readouterr()
        return code, written.out, written.err

    code, out, err = await wopr("list")
    assert (code, out, err) == (0, "", "There are no bots yet: wopr bots create NAME\n")
    assert (await wopr("create", "Ada", "--template", "tutor", "--dry-run"))[:2] == (0, "would make Ada\n")
    assert (await wopr("create", "Ada", "--template", "tutor"))[:2] == (0, "Ada is running\n")
    code, out, _ = await wopr("list", "--json")
    assert (code, [bot["name"] for bot in json.loads(out)["bots"]]) == (0, ["Ada"])
    code, out, err = await wopr("say", "ada", "knock knock")
    assert (code, out.strip()) == (0, "You said: knock knock")
    assert "--conversation" in err
    code, out, _ = await wopr("say", "Ada", "again", "--json")
    assert (json.loads(out)["state"], json.loads(out)["text"].strip()) == ("completed", "You said: again")
    code, out, _ = await wopr("logs", "Ada", "--json", "--tail", "3")
    assert 0 < len(json.loads(out)["lines"]) <= 3
    assert (await wopr("stop", "Ada"))[:2] == (0, "Ada is stopped\n")
    assert (await wopr("stop", "Ada"))[:2] == (0, "Ada is stopped already\n")
    assert (await wopr("stop", "Ada", "--exit-code"))[0] == 4
    assert (await wopr("start", "Ada"))[:2] == (0, "Ada is running\n")
    assert (await wopr("restart", "Ada"))[:2] == (0, "Ada is running\n")
    code, _, err = await wopr("rm", "Ada")
    assert code == 2
    assert "--yes" in err
    assert (await wopr("rm", "Ada", "--yes"))[:2] == (0, "Ada is deleted\n")
    code, _, err = await wopr("show", "Eve")
    assert code == 1
    assert "fix:" in err
    names = [json.loads(line)["name"] for line in (world.home / "journal.jsonl").read_text().splitlines()]
    assert "bots.create" in names
    assert "bots.rm" in names


def test_without_a_key_the_command_line_says_where_to_get_one(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.delenv("WOPR_KEY", raising=False)
    monkeypatch.setenv("WOPR_HOME", str(tmp_path))
    assert run(["bots", "list"]) == 2
    assert "WOPR_KEY" in capsys.readouterr().err


async def test_a_followed_log_streams_and_ends_with_its_listener(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(feeds, "HEARTBEAT_SECONDS", 0.05)
    customer = await world.customer()
    bot = await customer.create()
    await world.reconciler().settle()
    url = f"{await world.serve()}/fleet/bots/{bot['id']}/logs?follow=true&tail=1"
    headers = {"authorization": f"Bearer {customer.key}"}
    async with world.platform.http.stream("GET", url, headers=headers) as answer:
        assert answer.headers["content-type"].startswith("text/event-stream")
        seen = ""
        async with asyncio.timeout(60):
            async for part in answer.aiter_text():
                seen += part
                if ": \n\n" in seen:
                    break
    assert seen.startswith("event: line\ndata: {")
