"""The tables of billing. Used only inside the slice.

Amounts are nano-dollars in bigints. Tenants, bots and keys are plain ids here: their tables belong to other slices.
"""

from datetime import datetime
from uuid import UUID

from sqlalchemy import BigInteger, CheckConstraint, DateTime, Identity, Index, Integer, Text, text
from sqlalchemy.orm import Mapped, mapped_column

from wopr.core.db import Base

NOW = text("now()")
ZERO = text("0")


class LedgerAccount(Base):
    """Four running sums. A customer's account can't be overdrawn and a debt can't be overpaid: the database refuses."""

    __tablename__ = "ledger_accounts"
    __table_args__ = (
        CheckConstraint("kind <> 'customer' OR credits_posted - debits_posted - debits_pending >= 0", name="overdraft"),
        CheckConstraint("kind <> 'debt' OR debits_posted - credits_posted - credits_pending >= 0", name="overpaid"),
        CheckConstraint(
            "debits_pending >= 0 AND debits_posted >= 0 AND credits_pending >= 0 AND credits_posted >= 0",
            name="not_negative",
        ),
        Index("ix_ledger_accounts_tenant_id", "tenant_id", postgresql_where=text("tenant_id IS NOT NULL")),
    )

    code: Mapped[str] = mapped_column(Text, primary_key=True)
    kind: Mapped[str] = mapped_column(Text)
    tenant_id: Mapped[UUID | None]
    debits_pending: Mapped[int] = mapped_column(BigInteger, server_default=ZERO)
    debits_posted: Mapped[int] = mapped_column(BigInteger, server_default=ZERO)
    credits_pending: Mapped[int] = mapped_column(BigInteger, server_default=ZERO)
    credits_posted: Mapped[int] = mapped_column(BigInteger, server_default=ZERO)
    created_at: Mapped[datetime] = mapped_column(DateTime(timezone=True), server_default=NOW)


class LedgerTransfer(Base):
    """One movement, written once: a trigger refuses every change. `phase` says what it does to the balances."""

    __tablename__ = "ledger_transfers"
    __table_args__ = (
        CheckConstraint("amount > 0", name="amount"),
        CheckConstraint("debit <> credit", name="two_accounts"),
        CheckConstraint("phase IN ('immediate', 'pending', 'posted', 'voided', 'expired')", name="phase"),
        CheckConstraint("(phase IN ('posted', 'voided', 'expired')) = (pending_id IS NOT NULL)", name="resolution"),
        Index(
            "uq_ledger_transfers_pending_id",
            "pending_id",
            unique=True,
            postgresql_where=text("pending_id IS NOT NULL"),
        ),
        Index(
            "ix_ledger_transfers_debit",
            "debit",
            "created_at",
            postgresql_where=text("phase IN ('immediate', 'posted')"),
        ),
        Index(
            "ix_ledger_transfers_credit",
            "credit",
            "created_at",
            postgresql_where=text("phase IN ('immediate', 'posted')"),
        ),
    )

    id: Mapped[UUID] = mapped_column(primary_key=True)
    seq: Mapped[int] = mapped_column(BigInteger, Identity(always=True))
    phase: Mapped[str] = mapped_column(Text)
    debit: Mapped[str] = mapped_column(Text)
    credit: Mapped[str] = mapped_column(Text)
    amount: Mapped[int] = mapped_column(BigInteger)
    kind: Mapped[str] = mapped_column(Text)
    reference: Mapped[str] = mapped_column(Text, server_default=text("''"))
    description: Mapped[str] = mapped_column(Text, server_default=text("''"))
    pending_id: Mapped[UUID | None]
    expires_at: Mapped[datetime | None] = mapped_column(DateTime(timezone=True))
    created_at: Mapped[datetime] = mapped_column(DateTime(timezone=True), server_default=NOW)


class LedgerHold(Base):
    """The pending transfers that are open now: the small working set that expiry looks at."""

    __tablename__ = "ledger_holds"
    __table_args__ = (Index("ix_ledger_holds_expires_at", "expires_at"),)

    id: Mapped[UUID] = mapped_column(primary_key=True)
    debit: Mapped[str] = mapped_column(Text)
    credit: Mapped[str] = mapped_column(Text)
    amount: Mapped[int] = mapped_column(BigInteger)
    expires_at: Mapped[datetime | None] = mapped_column(DateTime(timezone=True))


class UsageRow(Base):
    """One metered request, charged once: the request's id is the key. `settlement_id` leads to the ledger."""

    __tablename__ = "usage_records"
    __table_args__ = (
        CheckConstraint("cost >= 0 AND upstream_cost >= 0", name="cost"),
        Index("ix_usage_records_tenant_id", "tenant_id", "seq"),
        Index("ix_usage_records_bot_id", "bot_id", "seq", postgresql_where=text("bot_id IS NOT NULL")),
        # With the cost inside, sums over days read the index alone.
        Index("ix_usage_records_turn_id", "turn_id", postgresql_where=text("turn_id IS NOT NULL")),
        Index("ix_usage_records_started_at", "tenant_id", "started_at", postgresql_include=["cost"]),
    )

    request_id: Mapped[UUID] = mapped_column(primary_key=True)
    seq: Mapped[int] = mapped_column(BigInteger, Identity(always=True))
    settlement_id: Mapped[UUID]
    tenant_id: Mapped[UUID]
    key_id: Mapped[UUID | None]
    bot_id: Mapped[UUID | None]
    turn_id: Mapped[UUID | None]
    kind: Mapped[str] = mapped_column(Text)
    model: Mapped[str] = mapped_column(Text)
    node_id: Mapped[str | None] = mapped_column(Text)
    prompt_tokens: Mapped[int] = mapped_column(BigInteger)
    completion_tokens: Mapped[int] = mapped_column(BigInteger)
    units: Mapped[int] = mapped_column(BigInteger)
    cost: Mapped[int] = mapped_column(BigInteger)
    upstream_cost: Mapped[int] = mapped_column(BigInteger)
    status: Mapped[str] = mapped_column(Text)
    started_at: Mapped[datetime] = mapped_column(DateTime(timezone=True))
    duration_ms: Mapped[int] = mapped_column(BigInteger)
    first_token_ms: Mapped[int | None] = mapped_column(BigInteger)


class RuntimePeriod(Base):
    """A stretch of a bot's running time that was charged. Periods of one bot never overlap."""

    __tablename__ = "runtime_periods"
    __table_args__ = (
        CheckConstraint("ended_at > started_at", name="order"),
        Index("ix_runtime_periods_tenant_id", "tenant_id", "started_at", postgresql_include=["cost"]),
    )

    bot_id: Mapped[UUID] = mapped_column(primary_key=True)
    started_at: Mapped[datetime] = mapped_column(DateTime(timezone=True), primary_key=True)
    ended_at: Mapped[datetime] = mapped_column(DateTime(timezone=True))
    tenant_id: Mapped[UUID]
    size: Mapped[str] = mapped_column(Text)
    cost: Mapped[int] = mapped_column(BigInteger)


class RuntimeBot(Base):
    """A bot that runs now, as the fleet said: what it costs from here on is known before it is charged."""

    __tablename__ = "runtime_bots"
    __table_args__ = (Index("ix_runtime_bots_tenant_id", "tenant_id"),)

    bot_id: Mapped[UUID] = mapped_column(primary_key=True)
    tenant_id: Mapped[UUID]
    size: Mapped[str] = mapped_column(Text)


class EntitlementRow(Base):
    """The stage at which a tenant without credit stands, and since when. No row: never had a reason for one."""

    __tablename__ = "entitlements"

    tenant_id: Mapped[UUID] = mapped_column(primary_key=True)
    state: Mapped[str] = mapped_column(Text)
    since: Mapped[datetime] = mapped_column(DateTime(timezone=True))
    warn_since: Mapped[datetime | None] = mapped_column(DateTime(timezone=True))
    reminded_at: Mapped[datetime | None] = mapped_column(DateTime(timezone=True))


class StripeCustomer(Base):
    """A tenant's customer at Stripe. The idempotency key is stored before Stripe is asked."""

    __tablename__ = "stripe_customers"

    tenant_id: Mapped[UUID] = mapped_column(primary_key=True)
    idempotency_key: Mapped[UUID]
    email: Mapped[str] = mapped_column(Text)
    customer_id: Mapped[str | None] = mapped_column(Text, unique=True)
    created_at: Mapped[datetime] = mapped_column(DateTime(timezone=True), server_default=NOW)


class StripeCheckout(Base):
    """A payment page that we asked for; its id is the idempotency key, and its session tells whose payment it is.

    `paid_at` is when its payment was credited here. Until then the same wish leads to the same page.
    """

    __tablename__ = "stripe_checkouts"
    __table_args__ = (Index("ix_stripe_checkouts_tenant_id", "tenant_id"),)

    id: Mapped[UUID] = mapped_column(primary_key=True)
    tenant_id: Mapped[UUID]
    mode: Mapped[str] = mapped_column(Text)
    amount_cents: Mapped[int | None] = mapped_column(Integer)
    return_to: Mapped[str | None] = mapped_column(Text)
    session_id: Mapped[str | None] = mapped_column(Text, unique=True)
    paid_at: Mapped[datetime | None] = mapped_column(DateTime(timezone=True))
    created_at: Mapped[datetime] = mapped_column(DateTime(timezone=True), server_default=NOW)


class StripeSubscription(Base):
    """Stripe's subscription as it was when it was last fetched."""

    __tablename__ = "stripe_subscriptions"
    __table_args__ = (Index("ix_stripe_subscriptions_tenant_id", "tenant_id"),)

    id: Mapped[str] = mapped_column(Text, primary_key=True)
    tenant_id: Mapped[UUID]
    status: Mapped[str] = mapped_column(Text)
    renews_at: Mapped[datetime | None] = mapped_column(DateTime(timezone=True))
    cancels_at: Mapped[datetime | None] = mapped_column(DateTime(timezone=True))
    created_at: Mapped[datetime] = mapped_column(DateTime(timezone=True))
    updated_at: Mapped[datetime] = mapped_column(DateTime(timezone=True), server_default=NOW)


class StripePayment(Base):
    """A payment that granted credit: what was paid (cents) and granted (nanos), so that refunds take the same share."""

    __tablename__ = "stripe_payments"
    __table_args__ = (
        CheckConstraint("paid_cents > 0 AND granted > 0", name="amounts"),
        Index("ix_stripe_payments_payment_intent_id", "payment_intent_id"),
        Index("ix_stripe_payments_tenant_id", "tenant_id"),
    )

    id: Mapped[str] = mapped_column(Text, primary_key=True)
    tenant_id: Mapped[UUID]
    kind: Mapped[str] = mapped_column(Text)
    payment_intent_id: Mapped[str | None] = mapped_column(Text)
    paid_cents: Mapped[int] = mapped_column(BigInteger)
    granted: Mapped[int] = mapped_column(BigInteger)
    created_at: Mapped[datetime] = mapped_column(DateTime(timezone=True), server_default=NOW)


class StripeTakeBack(Base):
    """Credit that a refund or a dispute took back from a payment: together never more than the payment granted."""

    __tablename__ = "stripe_takebacks"
    __table_args__ = (Index("ix_stripe_takebacks_payment_id", "payment_id"),)

    id: Mapped[str] = mapped_column(Text, primary_key=True)
    payment_id: Mapped[str] = mapped_column(Text)
    taken: Mapped[int] = mapped_column(BigInteger)


class InboxEvent(Base):
    """An event of Stripe, stored once and applied apart. Only the object's name is kept: the object is fetched anew."""

    __tablename__ = "stripe_inbox"
    __table_args__ = (
        CheckConstraint("state IN ('pending', 'applied', 'failed', 'unmatched')", name="state"),
        Index("ix_stripe_inbox_due", "next_attempt_at", postgresql_where=text("next_attempt_at IS NOT NULL")),
        Index("ix_stripe_inbox_seq", "seq"),
    )

    id: Mapped[str] = mapped_column(Text, primary_key=True)
    seq: Mapped[int] = mapped_column(BigInteger, Identity(always=True))
    type: Mapped[str] = mapped_column(Text)
    object_id: Mapped[str] = mapped_column(Text)
    state: Mapped[str] = mapped_column(Text, server_default=text("'pending'"))
    attempts: Mapped[int] = mapped_column(Integer, server_default=ZERO)
    last_error: Mapped[str | None] = mapped_column(Text)
    next_attempt_at: Mapped[datetime | None] = mapped_column(DateTime(timezone=True))
    received_at: Mapped[datetime] = mapped_column(DateTime(timezone=True), server_default=NOW)
    applied_at: Mapped[datetime | None] = mapped_column(DateTime(timezone=True))
