"""What billing's routes take and give. Money is a plain decimal string of dollars in fields that end in `_usd`."""

from datetime import datetime
from decimal import Decimal
from typing import Annotated, Literal
from uuid import UUID

from pydantic import Field

from wopr.core.routing import ApiModel

GRANT_USD_MAX = Decimal(10_000)


class BalanceBody(ApiModel):
    available_usd: str
    held_usd: str
    debt_usd: str


class PlanBody(ApiModel):
    status: str
    price_usd: str
    renews_at: datetime | None
    cancels_at: datetime | None


class EntitlementBody(ApiModel):
    state: str
    warn_since: datetime | None
    suspends_at: datetime | None
    archives_at: datetime | None
    deletes_at: datetime | None


class DayBody(ApiModel):
    date: str
    inference_usd: Annotated[str, Field(description="Talking: every request to a model.")]
    runtime_usd: Annotated[str, Field(description="Running bots.")]


class BillingBody(ApiModel):
    balance: BalanceBody
    lasts_days: float | None
    plan: PlanBody
    entitlement: EntitlementBody
    spend: list[DayBody]
    spend_30d_usd: str


class TransactionBody(ApiModel):
    id: UUID
    created_at: datetime
    kind: str
    description: str
    amount_usd: str


class TransactionsBody(ApiModel):
    transactions: list[TransactionBody]
    next_cursor: str | None


class UsageQuery(ApiModel):
    bot_id: UUID | None = None
    turn_id: UUID | None = None
    cursor: Annotated[str | None, Field(max_length=64)] = None
    limit: Annotated[int, Field(ge=1, le=200)] = 50


class UsageBody(ApiModel):
    request_id: UUID
    kind: str
    model: str
    node_id: str | None
    key_id: UUID | None
    bot_id: UUID | None
    turn_id: UUID | None
    prompt_tokens: int
    completion_tokens: int
    units: int
    cost_usd: str
    status: str
    started_at: datetime
    duration_ms: int
    first_token_ms: int | None


class UsagePageBody(ApiModel):
    usage: list[UsageBody]
    total_usd: str
    next_cursor: str | None


class ModelPriceBody(ApiModel):
    name: str
    kind: str
    aliases: list[str]
    prompt_per_million_usd: str | None = None
    completion_per_million_usd: str | None = None
    per_million_characters_usd: str | None = None
    per_minute_usd: str | None = None


class BotPriceBody(ApiModel):
    size: str
    month_usd: str


class PlanPriceBody(ApiModel):
    name: str
    price_usd: str
    credit_usd: str


class PricesBody(ApiModel):
    currency: str
    plan: PlanPriceBody
    topups_usd: list[str]
    topups_cents: list[int]
    bots: list[BotPriceBody]
    models: list[ModelPriceBody]


class CheckoutBody(ApiModel):
    """`amount_cents` is one of the top-ups of the price sheet; only with mode payment."""

    mode: Literal["subscription", "payment"]
    amount_cents: int | None = None
    return_to: Annotated[str | None, Field(max_length=500)] = None


class ConfirmBody(ApiModel):
    session_id: Annotated[str, Field(min_length=1, max_length=255)]


class ConfirmedBody(ApiModel):
    """`state` is that of the inbox; the balance is as it is now."""

    state: str
    balance: BalanceBody


class PortalBody(ApiModel):
    return_to: Annotated[str | None, Field(max_length=500)] = None


class AddressBody(ApiModel):
    url: str


class ReceivedBody(ApiModel):
    received: bool = True


class TenantBody(ApiModel):
    id: UUID
    name: str
    owner_email: str
    created_at: datetime
    suspended: bool
    available_usd: str


class TenantsBody(ApiModel):
    tenants: list[TenantBody]
    next_cursor: str | None


class CreditBody(ApiModel):
    """A negative amount takes credit away, at most what is free."""

    amount_usd: Annotated[Decimal, Field(ge=-GRANT_USD_MAX, le=GRANT_USD_MAX, decimal_places=9)]
    reason: Annotated[str, Field(min_length=1, max_length=200)]


class CreditedBody(ApiModel):
    transfer_id: UUID
    balance: BalanceBody


class InboxEventBody(ApiModel):
    id: str
    type: str
    state: str
    attempts: int
    last_error: str | None
    received_at: datetime
    applied_at: datetime | None


class InboxBody(ApiModel):
    events: list[InboxEventBody]
    next_cursor: str | None


class ProblemBody(ApiModel):
    check: str
    subject: str
    detail: str


class LedgerBody(ApiModel):
    ok: bool
    problems: list[ProblemBody]
