"""A crowd of bots in a real database, on a machine that only counts: for what depends on how many there are."""

from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any
from uuid import uuid4

from sqlalchemy import event, text

from wopr.billing.grants import grant_credit
from wopr.core.db import Database
from wopr.core.ids import BotId, TenantId, new_id
from wopr.core.money import NANOS_PER_USD
from wopr.fleet.runtimes.protocol import BotSpec, Ended, Instance, LogLine

BOTS_OF_ONE = 2.5
MAKE = """
INSERT INTO users (id, email) SELECT id, id || '@example.com' FROM unnest(CAST(:tenants AS uuid[])) AS id;
INSERT INTO tenants (id, name) SELECT id, 'Someone' FROM unnest(CAST(:tenants AS uuid[])) AS id;
INSERT INTO memberships (tenant_id, user_id, role) SELECT id, id, 'owner' FROM unnest(CAST(:tenants AS uuid[])) AS id;
INSERT INTO bots (id, tenant_id, name, persona, instructions, model, voice, size)
SELECT id, tenant, 'bot ' || id, repeat('You are a bot. ', 20), repeat('Be kind. ', 50), 'handbook', 'rms', 'standard'
FROM unnest(CAST(:bots AS uuid[]), CAST(:owners AS uuid[])) AS b(id, tenant);
INSERT INTO bot_observed (bot_id, state, instance_id, ready_at)
SELECT bot, 'running', instance, now()
FROM unnest(CAST(:bots AS uuid[]), CAST(:instances AS uuid[])) AS b(bot, instance);
INSERT INTO bot_runs (id, bot_id, tenant_id, size, started_at, seen_at, charged_until)
SELECT instance, bot, tenant, 'standard', now(), now(), now()
FROM unnest(CAST(:bots AS uuid[]), CAST(:instances AS uuid[]), CAST(:owners AS uuid[])) AS b(bot, instance, tenant);
INSERT INTO runtime_bots (bot_id, tenant_id, size)
SELECT bot, tenant, 'standard' FROM unnest(CAST(:bots AS uuid[]), CAST(:owners AS uuid[])) AS b(bot, tenant);
"""


@dataclass
class Crowd:
    """A runtime in which bots begin to live when they are told to, at one address; what it is asked is counted."""

    instances: dict[BotId, Instance]
    url: str = "http://127.0.0.1:1"
    calls: Counter[str] = field(default_factory=Counter)
    on_start: Callable[[BotId], None] = lambda _bot_id: None
    copies = None  # no image is changed here

    def fall(self) -> None:
        """Nothing lives any more, and nobody was told: the machine was restarted."""
        self.instances.clear()

    def watch(self, on_end: Callable[[Ended], None]) -> None:
        """Nothing ends before anybody's eyes."""

    async def observe(self) -> Mapping[BotId, Instance]:
        self.calls["observe"] += 1
        return dict(self.instances)

    async def locate(self, bot_id: BotId) -> Instance | None:
        self.calls["locate"] += 1
        return self.instances.get(bot_id)

    def held(self, bot_id: BotId) -> str:
        return ""

    async def prepare(self, bot_id: BotId, image: str) -> None:
        """There is nothing to fetch."""

    async def start(self, spec: BotSpec) -> Instance:
        self.calls["start"] += 1
        self.on_start(spec.bot_id)
        begun = Instance(uuid4(), spec.bot_id, spec.generation, self.url, datetime.now(UTC), "token")
        return self.instances.setdefault(spec.bot_id, begun)

    async def stop(self, bot_id: BotId) -> None:
        self.calls["stop"] += 1
        self.instances.pop(bot_id, None)

    async def remove(self, bot_id: BotId) -> None:
        self.calls["remove"] += 1
        self.instances.pop(bot_id, None)

    async def tend(self) -> int:
        return 0

    async def guard(self) -> int:
        return 0

    async def prune(self, needed: Sequence[str]) -> int:
        return 0

    async def logs(self, bot_id: BotId, tail: int) -> Sequence[LogLine]:
        return []

    async def follow(self, bot_id: BotId, tail: int) -> AsyncIterator[LogLine]:
        for line in await self.logs(bot_id, tail):
            yield line

    async def close(self) -> None:
        """There is nothing to give back."""


async def crowd(db: Database, bots: int) -> Crowd:
    """So many running bots of customers with credit, as their rows have them, and where they run."""
    tenants = [new_id() for _ in range(max(1, int(bots / BOTS_OF_ONE)))]
    ids, instances = [new_id() for _ in range(bots)], [uuid4() for _ in range(bots)]
    owners = [tenants[number % len(tenants)] for number in range(bots)]
    values = {"tenants": tenants, "bots": ids, "owners": owners, "instances": instances}
    async with db.begin() as session:
        for statement in filter(str.strip, MAKE.split(";\n")):
            await session.execute(text(statement), {k: v for k, v in values.items() if f":{k} " in statement})
        for tenant in tenants:
            await grant_credit(session, TenantId(tenant), NANOS_PER_USD, "test")
    async with db.engine.execution_options(isolation_level="AUTOCOMMIT").connect() as connection:
        await connection.execute(text("VACUUM ANALYZE"))
    now = datetime.now(UTC)
    found = [Instance(one, BotId(bot), 1, "", now, "token") for bot, one in zip(ids, instances, strict=True)]
    return Crowd({instance.bot_id: instance for instance in found})


@contextmanager
def statements(db: Database) -> Iterator[Counter[str]]:
    """Counts the statements that are sent, by their first word, and the rows that they give back or change."""
    counted: Counter[str] = Counter()

    def note(_connection: Any, cursor: Any, statement: str, *_rest: Any) -> None:
        counted[statement.split(maxsplit=1)[0].upper()] += 1
        counted["rows"] += max(0, cursor.rowcount)

    event.listen(db.engine.sync_engine, "after_cursor_execute", note)
    try:
        yield counted
    finally:
        event.remove(db.engine.sync_engine, "after_cursor_execute", note)
