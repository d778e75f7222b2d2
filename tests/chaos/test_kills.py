"""kill -9 at random moments under load: everything comes back, the ledger's sums hold, nothing acknowledged is lost.

Chat turns and requests of the gateway run all the time while one part after another is killed. A run is bounded to one
kill of each part; WOPR_CHAOS_ROUNDS=20 goes on for longer, WOPR_CHAOS_SEED=n takes other moments and another order.
"""

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from decimal import Decimal
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest
from tests import stack as stacks
from tests.live import Person, as_administrator, sign_up, wait_for
from tests.stack import Stack

from wopr.client.sse import Event, EventParser

pytestmark = pytest.mark.slow

SEED = int(os.environ.get("WOPR_CHAOS_SEED", "7"))
ROUNDS = int(os.environ.get("WOPR_CHAOS_ROUNDS", "1"))
BACK_SECONDS = 180.0
QUIET_SECONDS = (0.3, 1.5)
PAID_USD = 100
TALKERS, CALLERS = 2, 3
QUESTIONS = ("What does a bot cost?", "Which models are there?", "What happens when credit is used up?", "Hello")


@dataclass
class Answered:
    """A request of the gateway whose answer arrived to its last byte."""

    request_id: str
    cost_usd: str | None
    completion_tokens: int


@dataclass
class Load:
    """What customers do meanwhile, and what they were told."""

    person: Person
    key: str
    bots: list[str]
    turns: dict[str, str] = field(default_factory=dict)
    answers: list[Answered] = field(default_factory=list)
    surprises: list[str] = field(default_factory=list)
    _stop: threading.Event = field(default_factory=threading.Event)
    _threads: list[threading.Thread] = field(default_factory=list)

    def begin(self) -> None:
        work: list[Callable[[random.Random], None]] = [self._talk] * TALKERS + [self._call] * CALLERS
        for number, target in enumerate(work):
            chance = random.Random(SEED * 100 + number)
            thread = threading.Thread(target=target, args=(chance,), daemon=True)
            thread.start()
            self._threads.append(thread)

    def end(self) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join(BACK_SECONDS)

    def _talk(self, chance: random.Random) -> None:
        """Start turns, each with an id of its own; sent again after a broken connection, as a browser does."""
        with self._client() as http:
            while not self._stop.wait(chance.uniform(0.1, 0.5)):
                bot, turn = chance.choice(self.bots), str(uuid.UUID(int=chance.getrandbits(128), version=4))
                body = {"text": chance.choice(QUESTIONS), "turn_id": turn, "conversation_id": f"c{turn[:6]}"}
                for _ in range(3):
                    with suppress(httpx.HTTPError):
                        said = http.post(f"/fleet/bots/{bot}/turns", json=body)
                        if said.status_code == 202:
                            self.turns[turn] = bot
                        elif said.status_code not in (409, 429, 502, 503, 504):
                            self.surprises.append(f"turn: {said.status_code} {said.text[:200]}")
                        break
                    self._stop.wait(0.3)

    def _call(self, chance: random.Random) -> None:
        """Ask the gateway, streamed or not; only answers that came complete count."""
        with self._client() as http:
            while not self._stop.wait(chance.uniform(0.0, 0.2)):
                with suppress(httpx.HTTPError):
                    self._ask(http, chance.choice(QUESTIONS), streamed=chance.random() < 0.5)

    def _ask(self, http: httpx.Client, question: str, *, streamed: bool) -> None:
        body: dict[str, Any] = {"model": "handbook", "max_tokens": 12}
        body |= {"messages": [{"role": "user", "content": question}]}
        if streamed:
            body |= {"stream": True, "stream_options": {"include_usage": True}}
        answer = http.post("/v1/chat/completions", json=body)
        if answer.status_code in (429, 502, 503, 504):
            return
        if answer.status_code != 200:
            self.surprises.append(f"/v1: {answer.status_code} {answer.text[:200]}")
            return
        told = answer.json() if not streamed else _last_chunk(answer.text)
        if told is not None:
            tokens = told["usage"]["completion_tokens"]
            headers = answer.headers
            self.answers.append(Answered(headers["x-request-id"], headers.get("x-wopr-cost-usd"), tokens))

    def _client(self) -> httpx.Client:
        headers = {"authorization": f"Bearer {self.key}"}
        return httpx.Client(base_url=self.person.stack.api, headers=headers, timeout=60, trust_env=False)


@pytest.fixture(scope="module")
def home() -> Iterator[Path]:
    folder = Path(tempfile.mkdtemp(prefix="wopr-chaos-"))
    yield folder / "home"
    shutil.rmtree(folder, ignore_errors=True)


def test_what_is_killed_comes_back_and_nothing_acknowledged_is_lost(home: Path) -> None:
    stack = stacks.start(home)
    try:
        with sign_up(stack, "Chaos") as person:
            person.pay(PAID_USD * 100)
            load = Load(person, person.make_key()[1], [person.make_bot() for _ in range(2)])
            _a_stream_goes_on_where_it_broke(stack, load)
            _the_command_line_writes_each_word_once(stack, load)
            load.begin()
            try:
                stack = _kill_everything(stack, load)
            finally:
                load.end()
            _look(stack, load)
            _no_turn_is_lost(load)
            _usage_is_what_was_answered(load)
            _money_is_what_was_used(load)
    finally:
        stack.stop()


def _a_stream_goes_on_where_it_broke(stack: Stack, load: Load) -> None:
    """The API is killed while an answer streams: with Last-Event-ID the rest comes, each event once, in order.

    The one API process is the bot's gateway, too, so the bot asks for the answer anew; it is complete all the same, and
    what another bot says that nobody disturbs.
    """
    bot = load.bots[0]
    undisturbed = load.person.ask(load.bots[1], QUESTIONS[2])
    assert undisturbed["state"] == "completed"
    turn = load.person.post(f"/fleet/bots/{bot}/turns", {"text": QUESTIONS[2]})["turn_id"]
    path = f"/fleet/bots/{bot}/turns/{turn}/events"
    events: list[Event] = []
    with suppress(httpx.HTTPError):
        _read_events(load.person, path, events, until=5)
    assert len(events) >= 5
    assert events[-1].name == "delta", "the answer was over before the API could be killed"
    _kill(stack, "api", load)
    while events[-1].name not in ("completed", "failed", "cancelled"):
        wait_for(lambda: _ready(stack), "the API to be back", BACK_SECONDS)
        with suppress(httpx.HTTPError):
            _read_events(load.person, path, events)
    assert [int(event.id) for event in events] == list(range(1, len(events) + 1))
    ended = load.person.wait_turn(bot, turn)
    assert (events[-1].name, ended["state"]) == ("completed", "completed"), events[-1].data
    assert {event.name for event in events[1:-1]} == {"delta"}, "the handbook says the same again"
    said = "".join(event.json()["text"] for event in events if event.name == "delta")
    page = load.person.get(f"/fleet/bots/{bot}/conversations/{ended['conversation_id']}/messages")
    assert said == ended["text"] == events[-1].json()["text"] == page["messages"][-1]["text"] == undisturbed["text"]
    assert len(ended["request_ids"]) > len(undisturbed["request_ids"])
    _the_receipt_is_what_was_charged(load, bot, turn, ended["request_ids"])


def _the_command_line_writes_each_word_once(stack: Stack, load: Load) -> None:
    undisturbed = load.person.ask(load.bots[1], QUESTIONS[1])["text"]
    name = load.person.get(f"/fleet/bots/{load.bots[0]}")["name"]
    command = [sys.executable, "-m", "wopr", "bots", "say", name, QUESTIONS[1]]
    environment = stack.environment() | {"WOPR_KEY": load.key}
    pipe = subprocess.PIPE
    with subprocess.Popen(command, bufsize=0, stdout=pipe, stderr=pipe, env=environment) as process:
        assert process.stdout is not None
        said = process.stdout.read(20)
        _kill(stack, "api", load)
        rest, complaints = process.communicate(timeout=BACK_SECONDS)
        assert process.returncode == 0, complaints.decode()
    assert (said + rest).decode().strip() == undisturbed.strip()


def _the_receipt_is_what_was_charged(load: Load, bot: str, turn: str, request_ids: list[str]) -> None:
    """The last request was charged; those that the killed process had under way may not have been."""
    path = f"/fleet/bots/{bot}/turns/{turn}/receipt"

    def agree() -> bool:
        receipt = load.person.get(path)
        told = {line["request_id"] for line in receipt["lines"]}
        charged = [row for row in _usage(load.person) if row["turn_id"] == turn]
        same = sum(Decimal(row["cost_usd"]) for row in charged) == Decimal(receipt["total_usd"])
        return same and request_ids[-1] in told and told <= {row["request_id"] for row in charged}

    # What the killed process had written down may be charged between the two looks, so they are taken again.
    wait_for(agree, "the receipt to be what was charged, with the last request")


def _read_events(person: Person, path: str, events: list[Event], until: int = 0) -> None:
    """Read events after the last that was seen, to the end of the stream or until so many are there."""
    parser = EventParser()
    headers = {"last-event-id": events[-1].id} if events else {}
    with person.http.stream("GET", path, headers=headers) as answer:
        if answer.status_code != 200:
            return
        for piece in answer.iter_text():
            events += parser.feed(piece)
            if until and len(events) >= until:
                return


def _ready(stack: Stack) -> bool:
    with suppress(httpx.HTTPError):
        return httpx.get(f"{stack.api}/ready", timeout=5).status_code == 200
    return False


def _kill_everything(stack: Stack, load: Load) -> Stack:
    chance = random.Random(SEED)
    for _ in range(ROUNDS):
        victims = ["api", "bot", "llama", "postgres", "supervisor"]
        chance.shuffle(victims)
        for victim in victims:
            time.sleep(chance.uniform(*QUIET_SECONDS))  # the random moment, not a wait for something
            stack = _kill(stack, victim, load)
            _back(stack, load, victim)
    time.sleep(chance.uniform(*QUIET_SECONDS))
    return stack


def _kill(stack: Stack, victim: str, load: Load) -> Stack:
    if victim == "supervisor":
        os.kill(stack.process.pid, signal.SIGKILL)
        stack.process.wait()
        return stacks.start(stack.home, stack.ports)
    pid = _bot_pid(stack.home, load.bots[0]) if victim == "bot" else stack.pids()[victim]
    os.kill(pid, signal.SIGKILL)
    wait_for(lambda: not psutil.pid_exists(pid) or _is_zombie(pid), f"{victim} to die")
    return stack


def _back(stack: Stack, load: Load, victim: str) -> None:
    """Wait until a customer gets what they pay for again: an answer of the gateway and one of each bot."""

    def serving() -> bool:
        with suppress(httpx.HTTPError, AssertionError):
            with httpx.Client(base_url=stack.api, timeout=60, trust_env=False) as http:
                body = {"model": "handbook", "max_tokens": 3, "messages": [{"role": "user", "content": "Hello"}]}
                headers = {"authorization": f"Bearer {load.key}"}
                answer = http.post("/v1/chat/completions", json=body, headers=headers)
                if answer.status_code != 200 or http.get("/ready").status_code != 200:
                    return False
            return all(load.person.get(f"/fleet/bots/{bot}/conversations") is not None for bot in load.bots)
        return False

    wait_for(serving, f"everything to work again after {victim} was killed", BACK_SECONDS)


def _look(stack: Stack, load: Load) -> None:
    print(f"{len(load.turns)} turns and {len(load.answers)} answers under {ROUNDS * 5} kills (seed {SEED})")
    assert load.surprises == []
    assert len(load.turns) > 5, "the load did not talk"
    assert len(load.answers) > 20, "the load did not call"
    with as_administrator(stack) as administrator:
        checked = administrator.get("/api/admin/ledger")
        assert checked["ok"], checked["problems"]


def _no_turn_is_lost(load: Load) -> None:
    """Each turn that was answered with 202 is there, and has ended."""
    for turn_id, bot in load.turns.items():
        turn = load.person.wait_turn(bot, turn_id)
        assert turn["state"] in ("completed", "interrupted"), turn
        if turn["state"] == "completed":
            assert turn["text"]


def _usage_is_what_was_answered(load: Load) -> None:
    """Each complete answer has exactly one usage row, of the cost that its header told."""

    def rows() -> list[dict[str, Any]] | None:
        found = _usage(load.person)
        known = {row["request_id"] for row in found}
        return found if all(answer.request_id in known for answer in load.answers) else None

    found = wait_for(rows, "the usage of every answer")
    ids = [row["request_id"] for row in found]
    assert len(ids) == len(set(ids))
    by_id = {row["request_id"]: row for row in found}
    for answer in load.answers:
        row = by_id[answer.request_id]
        assert row["status"] == "ok", row
        assert row["completion_tokens"] == answer.completion_tokens
        if answer.cost_usd is not None:
            assert row["cost_usd"] == answer.cost_usd


def _money_is_what_was_used(load: Load) -> None:
    """What was paid is what is left, held, used by requests and used by running bots, to the last nano-dollar."""

    def sums() -> bool:
        money = load.person.get("/api/billing")
        balance = money["balance"]
        left = Decimal(balance["available_usd"]) + Decimal(balance["held_usd"]) - Decimal(balance["debt_usd"])
        running = sum(Decimal(day["runtime_usd"]) for day in money["spend"])
        used = sum(Decimal(row["cost_usd"]) for row in _usage(load.person))
        return left + running + used == PAID_USD

    # A bot's runtime may be charged between the two looks, so they are taken again.
    wait_for(sums, "the sums to agree")


def _last_chunk(stream: str) -> dict[str, Any] | None:
    """The chunk with the usage of a stream that came complete; None when it broke off or says so."""
    lines = [line.removeprefix("data: ") for line in stream.splitlines() if line.startswith("data: ")]
    if len(lines) < 2 or lines[-1] != "[DONE]" or '"error"' in stream:
        return None
    chunk: dict[str, Any] = json.loads(lines[-2])
    return chunk


def _usage(person: Person) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = []
    cursor = ""
    while True:
        page = person.get("/api/billing/usage?limit=100" + (f"&cursor={cursor}" if cursor else ""))
        rows += page["usage"]
        cursor = page["next_cursor"]
        if not cursor:
            return rows


def _bot_pid(home: Path, bot_id: str) -> int:
    for process in psutil.process_iter():
        with suppress(psutil.Error):
            environment = process.environ()
            if environment.get("WOPR_BOT_ID") == bot_id and environment["WOPR_BOT_DATA"].startswith(str(home)):
                return process.pid
    raise AssertionError("the bot has no process")


def _is_zombie(pid: int) -> bool:
    with suppress(psutil.NoSuchProcess):
        return psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
    return True
