"""What the bot remembers over all conversations."""

from __future__ import annotations

import random
import sqlite3
from array import array
from pathlib import Path
from typing import Any

from aiohttp import web

from wopr.bot import recall
from wopr.bot.contract import TurnRequest, TurnState
from wopr.bot.database import MIGRATIONS
from wopr.bot.recall import Memory
from wopr.bot.turns import Outcome, close, create


async def test_what_was_said_in_one_conversation_is_recalled_in_another_even_after_a_restart(
    bot: Any, gateway: Any
) -> None:
    await bot.say("my cat is called Minka", "t1", "c1")
    await bot.say("the weather is grey today", "t2", "c2")
    await bot.logged("remembered", times=2)
    await bot.stop()
    await bot.start()
    await bot.say("what is my cat called", "t3", "c3")
    asked = gateway.chats()[-1]
    assert asked.talk == [("user", "what is my cat called")]
    assert "# Recalled from earlier conversations" in asked.system
    assert "): my cat is called Minka\n" in asked.system
    assert "grey" not in asked.system
    embeddings = [item for item in gateway.asked if item.path.endswith("/embeddings")]
    assert {item.headers["x-wopr-turn"] for item in embeddings} >= {"t1", "t2", "t3"}


async def test_what_stands_in_the_talk_is_not_recalled_twice(bot: Any, gateway: Any) -> None:
    await bot.say("my cat is called Minka", "t1")
    await bot.logged("remembered")
    await bot.say("what is my cat called", "t2")
    assert "Recalled" not in gateway.chats()[-1].system


async def test_a_deleted_conversation_is_forgotten(bot: Any, gateway: Any) -> None:
    await bot.say("my cat is called Minka", "t1")
    await bot.logged("remembered")
    await bot.call("DELETE", "/conversations/c1")
    await bot.say("what is my cat called", "t2", "c2")
    assert "Minka" not in gateway.chats()[-1].system


async def test_without_embeddings_the_bot_answers_and_catches_up_later(bot: Any, gateway: Any) -> None:
    await bot.say("my cat is called Minka", "t1")
    await bot.logged("remembered")
    gateway.refusals["/embeddings"] = [web.Response(status=402) for _ in range(2)]
    assert (await bot.say("what is my cat called", "t2", "c2"))[-1].name == "completed"
    assert "Minka" not in gateway.chats()[-1].system
    await bot.logged("remember_postponed")
    gateway.refusals.clear()
    await bot.say("good", "t3", "c3")
    await bot.logged("remembered", times=3)


async def test_nonsense_instead_of_vectors_is_survived(bot: Any, gateway: Any) -> None:
    await bot.say("my cat is called Minka", "t1")
    await bot.logged("remembered")
    vector = [0.5] * 4
    for number, rows in enumerate(
        (
            [],
            [1],
            [{"index": [], "embedding": vector}],
            [{"index": None, "embedding": vector}],
            [{"index": 0}],
            [{"index": 0, "embedding": ["x"]}],
            "text",
        )
    ):
        gateway.refusals["/embeddings"] = [web.json_response({"data": rows}) for _ in range(2)]
        assert (await bot.say("what is my cat called", f"n{number}", f"n{number}"))[-1].name == "completed"
    gateway.refusals.clear()
    await bot.say("good", "t3", "c3")
    await bot.logged("remembered", times=9)


async def test_a_slow_embedding_does_not_hold_up_the_answer(bot: Any, gateway: Any) -> None:
    await bot.say("my cat is called Minka", "t1")
    await bot.logged("remembered")
    gateway.refusals["/embeddings"] = [web.Response(status=429, headers={"Retry-After": "15"})] * 3
    assert (await bot.say("what is my cat called", "t2", "c2"))[-1].name == "completed"
    assert (await bot.logged("recall_skipped"))["error"] == "TimeoutError"


def test_the_search_finds_the_nearest_as_an_exhaustive_one_does(tmp_path: Path) -> None:
    link = sqlite3.connect(tmp_path / "x.db", isolation_level=None)
    link.row_factory = sqlite3.Row
    for script in MIGRATIONS:
        link.executescript(script)
    dice = random.Random(7)
    vectors: dict[int, array[float]] = {}
    link.execute("BEGIN")
    for number in range(1, 1_201):
        made = create(link, TurnRequest(f"t{number}", f"c{number % 9}", text=f"question {number}"))
        assert made.seq is not None
        close(link, made.seq, Outcome(TurnState.COMPLETED, text="answer"))
        vectors[made.seq] = array("f", [dice.gauss(0, 1) for _ in range(64)])
        recall.remember(link, made.seq, "m", [Memory("user", vectors[made.seq])])
    link.execute("COMMIT")
    for _ in range(20):
        target = dice.choice(list(vectors))
        query = array("f", [value + dice.gauss(0, 0.7) for value in vectors[target]])
        exact = max(vectors, key=lambda seq: recall.cosine(query, vectors[seq]))
        found = recall.search(link, "m", query, leave_out=())
        assert found[0].exchange.turn_seq == exact
        assert len(found) <= recall.RECALLED_MAX
        assert exact not in [item.exchange.turn_seq for item in recall.search(link, "m", query, leave_out={exact})]
    assert recall.search(link, "another-model", array("f", [1.0] * 64), leave_out=()) == []
    link.close()
