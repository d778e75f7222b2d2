"""Money: never more than there is, never twice, never lost."""

import asyncio
import sys
from typing import Any
from uuid import uuid4

import openai
import pytest
from sqlalchemy import text

from wopr.billing.leases import LeaseRoll, lease_roll
from wopr.billing.prices import load_prices
from wopr.billing.usage import UsageRecord
from wopr.core.ids import TenantId
from wopr.core.money import NANOS_PER_USD, Nanos
from wopr.inference.gateway import wal
from wopr.inference.gateway.lines import pack_lease, pack_usage

HELLO: Any = [{"role": "user", "content": "hello"}]
BODY: Any = {"model": "handbook", "messages": HELLO, "max_tokens": 5}


def dollars(nanos: int) -> str:
    return f"{nanos / NANOS_PER_USD:.9f}"


def price_of(tokens: int) -> int:
    return load_prices().model("handbook").cost(5, tokens)


async def test_the_hot_path_asks_the_database_nothing(stage: Any) -> None:
    await stage.backend()
    customer = await stage.customer()
    http = stage.http(customer)
    await http.post("/v1/chat/completions", json=BODY)
    await stage.usage(customer)
    async with stage.platform.db.begin() as session:
        # Nobody else can read or write these until the block ends.
        await session.execute(text("LOCK TABLE ledger_accounts, usage_records, api_keys, tenants, gpu_nodes"))
        for _ in range(20):
            assert (await http.post("/v1/chat/completions", json=BODY)).status_code == 200
    assert len(await stage.usage(customer, 21)) == 21


async def test_two_gateways_never_spend_more_than_there_is(make_stage: Any) -> None:
    stages = [await make_stage(), await make_stage()]
    await stages[0].backend()
    await stages[1].gateway.refresh()
    # Credit for ten requests as they are held: the body's bytes as prompt, and all of the answer.
    raw = b'{"model":"handbook","messages":[{"role":"user","content":"hello"}],"max_tokens":5}'
    hold = load_prices().model("handbook").cost(len(raw), 5)
    customer = await stages[0].customer(dollars(hold * 10))
    clients = [stage.http(customer) for stage in stages]

    async def ask(number: int) -> int:
        response = await clients[number % 2].post("/v1/chat/completions", content=raw)
        assert response.status_code in (200, 402, 429), response.text
        return int(response.status_code)

    statuses = await asyncio.gather(*(ask(number) for number in range(80)))
    served = statuses.count(200)
    assert 0 < served < 80
    rows = await stages[0].usage(customer, served)
    assert len(rows) == served
    after = await stages[0].balance(customer)
    assert after.debt == 0
    assert after.available + after.held + sum(row.cost for row in rows) == hold * 10


async def test_credit_that_running_requests_hold_is_429_and_empty_credit_is_402(stage: Any) -> None:
    backend = await stage.backend()
    backend.gate = asyncio.Event()
    raw = b'{"model":"handbook","messages":[{"role":"user","content":"hello"}],"max_tokens":5}'
    hold = load_prices().model("handbook").cost(len(raw), 5)
    customer = await stage.customer(dollars(hold))
    http = stage.http(customer)
    first = asyncio.create_task(http.post("/v1/chat/completions", content=raw))
    while not backend.bodies:  # noqa: ASYNC110  # the backend records what it got
        await asyncio.sleep(0.005)
    held = await http.post("/v1/chat/completions", content=raw)
    assert (held.status_code, held.json()["error"]["code"]) == (429, "credit_held")
    assert held.headers["retry-after"] == "1"
    backend.gate.set()
    assert (await first).status_code == 200
    await stage.usage(customer)
    for _ in range(200):
        empty = await http.post("/v1/chat/completions", content=raw)
        if empty.status_code == 402:
            break
        await asyncio.sleep(0.01)
    assert (empty.status_code, empty.headers["x-should-retry"]) == (402, "false")


async def test_a_stream_ends_properly_when_credit_ends(stage: Any) -> None:
    backend = await stage.backend()
    backend.token_seconds = 0.001
    body: Any = {"model": "handbook", "messages": HELLO, "max_tokens": 400, "stream": True}
    sheet = load_prices().model("handbook")
    budget = sheet.cost(100, 50)
    customer = await stage.customer(dollars(budget))
    stream = await stage.openai(customer).chat.completions.create(**body, stream_options={"include_usage": True})
    chunks = [chunk async for chunk in stream]
    words = sum(chunk.choices[0].delta.content == "word " for chunk in chunks if chunk.choices)
    assert 16 <= words < 400
    assert [c.choices[0].finish_reason for c in chunks if c.choices][-1] == "length"
    assert chunks[-1].usage is not None
    assert chunks[-1].usage.completion_tokens == words
    await asyncio.wait_for(backend.cut.wait(), 1.0)
    [row] = await stage.usage(customer)
    assert (row.status, row.completion_tokens) == ("cut", words)
    assert row.cost <= budget
    after = await stage.balance(customer)
    assert (after.debt, after.available + after.held) == (0, budget - row.cost)


async def test_an_open_ended_stream_holds_more_as_it_goes(stage: Any) -> None:
    backend = await stage.backend()

    async def long(request: Any) -> Any:
        return await backend._stream(request, {"model": "handbook", "max_tokens": 900})

    backend.answers.append(long)
    customer = await stage.customer()
    stream = await stage.openai(customer).chat.completions.create(model="handbook", messages=HELLO, stream=True)
    words = [c.choices[0].delta.content async for c in stream if c.choices].count("word ")
    assert words == 900
    assert (await stage.usage(customer))[0].completion_tokens == 900


async def test_credit_that_is_added_is_used(stage: Any) -> None:
    from wopr.billing.grants import grant_credit

    await stage.backend()
    customer = await stage.customer("0")
    client = stage.openai(customer)
    with pytest.raises(openai.APIStatusError):
        await client.chat.completions.create(**BODY)
    async with stage.platform.db.begin() as session:
        await grant_credit(session, customer.tenant_id, NANOS_PER_USD, "more")
    for _ in range(200):
        try:
            await client.chat.completions.create(**BODY)
        except openai.APIStatusError:
            await asyncio.sleep(0.01)
        else:
            return
    raise AssertionError("the new credit was not found")


async def test_what_a_killed_process_left_is_settled_once_and_its_lease_comes_back(make_stage: Any) -> None:
    stage = await make_stage()
    customer = await stage.customer("1")
    records = [_record(customer, stage.platform.clock.now()) for _ in range(30)]
    async with stage.platform.db.begin() as session:
        roll = LeaseRoll(customer.tenant_id, None, Nanos(NANOS_PER_USD), Nanos(1), records[:10])
        lease = await lease_roll(session, roll, stage.platform.clock.now())
    assert lease is not None
    dead = wal.Wal(stage.platform.settings.wopr_home / "wal")
    dead.open()
    for record in records:
        dead.append(pack_usage(record))
    dead.note(pack_lease(customer.tenant_id, lease.id))
    dead.close()
    [path] = [path for path in dead.folder.iterdir() if path.name.startswith(dead.name)]
    path.write_bytes(path.read_bytes() + b"0badc0de torn")
    other = await make_stage()
    rows = await other.usage(customer, 30)
    assert {row.request_id for row in rows} == {record.request_id for record in records}
    after = await other.balance(customer)
    assert (after.held, after.debt) == (0, 0)
    assert after.available == NANOS_PER_USD - sum(record.cost for record in records)
    assert not path.exists()


async def test_usage_survives_a_database_that_is_away_for_a_while(stage: Any) -> None:
    await stage.backend()
    customer = await stage.customer()
    http = stage.http(customer)
    await http.post("/v1/chat/completions", json=BODY)
    await stage.usage(customer)
    async with stage.platform.db.begin() as session:
        await session.execute(text("ALTER TABLE usage_records RENAME TO usage_away"))
    for _ in range(3):
        assert (await http.post("/v1/chat/completions", json=BODY)).status_code == 200
    await asyncio.sleep(0.2)
    async with stage.platform.db.begin() as session:
        await session.execute(text("ALTER TABLE usage_away RENAME TO usage_records"))
    rows = await stage.usage(customer, 4)
    after = await stage.balance(customer)
    assert after.available + after.held + sum(row.cost for row in rows) == 5 * NANOS_PER_USD


def _record(customer: Any, now: Any) -> UsageRecord:
    return UsageRecord(
        request_id=uuid4(),
        tenant_id=TenantId(customer.tenant_id),
        key_id=customer.key_id,
        bot_id=None,
        turn_id=None,
        kind="chat",
        model="handbook",
        node_id="node-1",
        prompt_tokens=5,
        completion_tokens=5,
        units=0,
        cost=Nanos(price_of(5)),
        upstream_cost=Nanos(0),
        status="ok",
        started_at=now,
        duration_ms=3,
        first_token_ms=None,
    )


async def test_a_burst_of_large_requests_is_not_refused_while_there_is_credit(stage: Any) -> None:
    await stage.backend()
    customer = await stage.customer("100")
    http = stage.http(customer)
    body = BODY | {"max_tokens": 100_000}  # held at four cents each: the first lease bears none of them

    async def ask() -> int:
        async with http.stream("POST", "/v1/chat/completions", json=body | {"max_tokens": 100_000}) as response:
            return int(response.status_code)

    assert set(await asyncio.gather(*(ask() for _ in range(30)))) == {200}


async def test_many_customers_are_settled_together(stage: Any) -> None:
    await stage.backend()
    customers = [await stage.customer("1") for _ in range(12)]
    answers = await asyncio.gather(*(stage.http(each).post("/v1/chat/completions", json=BODY) for each in customers))
    assert {answer.status_code for answer in answers} == {200}
    for customer in customers:
        [row] = await stage.usage(customer)
        after = await stage.balance(customer)
        assert after.available + after.held + row.cost == NANOS_PER_USD


WRITER = """
import sys
from pathlib import Path
from wopr.inference.gateway.wal import Wal
log = Wal(Path(sys.argv[1]))
log.open()
for line in sys.stdin.buffer:
    log.append(line.rstrip(b"\\n"))
    print("written", flush=True)
"""


async def test_a_living_process_keeps_its_log_and_kill_9_hands_it_over(stage: Any) -> None:
    customer = await stage.customer("1")
    record = _record(customer, stage.platform.clock.now())
    folder = stage.platform.settings.wopr_home / "wal"
    pipe = asyncio.subprocess.PIPE
    writer = await asyncio.create_subprocess_exec(sys.executable, "-c", WRITER, str(folder), stdin=pipe, stdout=pipe)
    assert writer.stdin is not None
    assert writer.stdout is not None
    writer.stdin.write(pack_usage(record) + b"\n")
    assert await writer.stdout.readline() == b"written\n"
    assert await stage.gateway.recover() == 0
    writer.kill()
    await writer.wait()
    async with asyncio.timeout(60):
        while not (recovered := await stage.gateway.recover()):  # a database that is slow has it wait
            pass
    assert recovered == 1
    assert await stage.gateway.recover() == 0
    [row] = await stage.usage(customer)
    assert row.request_id == record.request_id
