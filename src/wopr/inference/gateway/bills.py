"""The bill of one request: what is held for it, what it used, and the one record that both end in."""

from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

from wopr.accounts.keys import KeyRecord
from wopr.billing.prices import ModelPrice
from wopr.billing.usage import UsageRecord, UsageStatus
from wopr.core.ids import TurnId
from wopr.core.money import Nanos
from wopr.inference.gateway import meters
from wopr.inference.gateway.credit import Purse
from wopr.inference.gateway.jobs import OUTPUT_TOKENS_LEAST, OUTPUT_TOKENS_STREAM, Job
from wopr.inference.gateway.settle import Settler
from wopr.inference.gateway.stream import Usage


@dataclass(frozen=True, slots=True)
class Origin:
    """Who asked, when, in the course of what. `started` is monotonic."""

    request_id: UUID
    key: KeyRecord
    turn_id: TurnId | None
    started_at: datetime
    started: float


@dataclass(slots=True)
class Bill:
    """Credit held for a request until it is charged or let go. Amounts are nano-dollars."""

    settler: Settler
    purse: Purse
    job: Job
    price: ModelPrice
    model: str
    held: int = 0
    node_id: str | None = None
    first_token: float | None = None
    open: bool = False
    cost: int = 0

    async def hold(self) -> None:
        """Hold what the request may cost at most; a stream is content with less, since it can be cut."""
        job, price = self.job, self.price
        want = price.cost(job.prompt_bound, job.output_bound, job.units)
        least = want
        if job.stream:
            least = min(want, price.cost(job.prompt_bound, OUTPUT_TOKENS_LEAST * job.choices))
        self.held = await self.settler.hold(self.purse, want, least)
        self.open = True

    def tokens_held(self) -> int:
        """How many tokens of an answer the hold bears."""
        rate = self.price.price.completion
        if rate <= 0:
            return 2**62
        return max(0, (self.held - self.price.cost(self.job.prompt_bound)) * 1_000_000 // rate)

    async def extend(self) -> bool:
        """Hold more for an answer that goes on."""
        by = self.price.cost(0, OUTPUT_TOKENS_STREAM * self.job.choices)
        if not await self.settler.extend(self.purse, by):
            return False
        self.held += by
        return True

    def close(self, origin: Origin, used: Usage, units: int, status: UsageStatus, now: float) -> int:
        """Charge what was used and write it to the log; the cost. More than is held and free is never charged."""
        if not self.open:
            return self.cost
        cost = self.price.cost(used.prompt_tokens, used.completion_tokens, units)
        if cost > self.held:
            more = min(cost - self.held, max(0, self.purse.free(now)))
            if more and self.purse.take(more, now):
                self.held += more
            cost = Nanos(min(cost, self.held))
        self.cost = cost
        self.open = False
        duration = now - origin.started
        record = UsageRecord(
            request_id=origin.request_id,
            tenant_id=origin.key.tenant_id,
            key_id=origin.key.key_id,
            bot_id=origin.key.bot_id,
            turn_id=origin.turn_id,
            kind=self.job.endpoint.kind,
            model=self.model,
            node_id=self.node_id,
            prompt_tokens=used.prompt_tokens,
            completion_tokens=used.completion_tokens,
            units=units,
            cost=cost,
            upstream_cost=self.price.upstream_cost(used.prompt_tokens, used.completion_tokens, units),
            status=status,
            started_at=origin.started_at,
            duration_ms=int(duration * 1000),
            first_token_ms=None if self.first_token is None else int((self.first_token - origin.started) * 1000),
        )
        self.settler.charge(self.purse, self.held, record)
        meters.observe(record, duration)
        return cost

    def let_go(self) -> None:
        """Nothing was delivered: nothing is charged."""
        if self.open:
            self.open = False
            self.settler.release(self.purse, self.held)
