"""The ledger, usage, plans and the inbox of payment events."""

import sqlalchemy as sa
from alembic import op

revision = "0003_billing"
down_revision = "0002_accounts"

MOVING = "phase IN ('immediate', 'posted')"
TIME = sa.DateTime(timezone=True)
IMMUTABLE = """
CREATE FUNCTION ledger_transfers_refuse() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
  RAISE EXCEPTION 'transfers are never changed; a correction is a new transfer' USING ERRCODE = 'restrict_violation';
END $$
"""


def upgrade() -> None:
    _ledger()
    _usage()
    _stripe()
    _inbox()


def downgrade() -> None:
    for table in (
        "stripe_inbox",
        "stripe_takebacks",
        "stripe_payments",
        "stripe_subscriptions",
        "stripe_checkouts",
        "stripe_customers",
        "entitlements",
        "runtime_bots",
        "runtime_periods",
        "usage_records",
        "ledger_holds",
        "ledger_transfers",
        "ledger_accounts",
    ):
        op.drop_table(table)
    op.execute("DROP FUNCTION ledger_transfers_refuse()")


def _sum(name: str) -> "sa.Column[int]":
    return sa.Column(name, sa.BigInteger, nullable=False, server_default=sa.text("0"))


def _now(name: str) -> "sa.Column[object]":
    return sa.Column(name, TIME, nullable=False, server_default=sa.text("now()"))


def _ledger() -> None:
    op.create_table(
        "ledger_accounts",
        sa.Column("code", sa.Text, nullable=False),
        sa.Column("kind", sa.Text, nullable=False),
        sa.Column("tenant_id", sa.Uuid),
        _sum("debits_pending"),
        _sum("debits_posted"),
        _sum("credits_pending"),
        _sum("credits_posted"),
        _now("created_at"),
        sa.PrimaryKeyConstraint("code", name="pk_ledger_accounts"),
        sa.CheckConstraint("kind <> 'customer' OR credits_posted - debits_posted - debits_pending >= 0", "overdraft"),
        sa.CheckConstraint("kind <> 'debt' OR debits_posted - credits_posted - credits_pending >= 0", "overpaid"),
        sa.CheckConstraint(
            "debits_pending >= 0 AND debits_posted >= 0 AND credits_pending >= 0 AND credits_posted >= 0",
            "not_negative",
        ),
    )
    tenant = sa.text("tenant_id IS NOT NULL")
    op.create_index("ix_ledger_accounts_tenant_id", "ledger_accounts", ["tenant_id"], postgresql_where=tenant)
    # The running sums change all the time: room on the page keeps those updates off the indexes.
    op.execute("ALTER TABLE ledger_accounts SET (fillfactor = 50)")
    _transfers()
    op.create_table(
        "ledger_holds",
        sa.Column("id", sa.Uuid, nullable=False),
        sa.Column("debit", sa.Text, nullable=False),
        sa.Column("credit", sa.Text, nullable=False),
        sa.Column("amount", sa.BigInteger, nullable=False),
        sa.Column("expires_at", TIME),
        sa.PrimaryKeyConstraint("id", name="pk_ledger_holds"),
    )
    op.create_index("ix_ledger_holds_expires_at", "ledger_holds", ["expires_at"])


def _transfers() -> None:
    op.create_table(
        "ledger_transfers",
        sa.Column("id", sa.Uuid, nullable=False),
        sa.Column("seq", sa.BigInteger, sa.Identity(always=True), nullable=False),
        sa.Column("phase", sa.Text, nullable=False),
        sa.Column("debit", sa.Text, nullable=False),
        sa.Column("credit", sa.Text, nullable=False),
        sa.Column("amount", sa.BigInteger, nullable=False),
        sa.Column("kind", sa.Text, nullable=False),
        sa.Column("reference", sa.Text, nullable=False, server_default=sa.text("''")),
        sa.Column("description", sa.Text, nullable=False, server_default=sa.text("''")),
        sa.Column("pending_id", sa.Uuid),
        sa.Column("expires_at", TIME),
        _now("created_at"),
        sa.PrimaryKeyConstraint("id", name="pk_ledger_transfers"),
        sa.CheckConstraint("amount > 0", "amount"),
        sa.CheckConstraint("debit <> credit", "two_accounts"),
        sa.CheckConstraint("phase IN ('immediate', 'pending', 'posted', 'voided', 'expired')", "phase"),
        sa.CheckConstraint("(phase IN ('posted', 'voided', 'expired')) = (pending_id IS NOT NULL)", "resolution"),
    )
    op.create_index(
        "uq_ledger_transfers_pending_id",
        "ledger_transfers",
        ["pending_id"],
        unique=True,
        postgresql_where=sa.text("pending_id IS NOT NULL"),
    )
    for side in ("debit", "credit"):
        name = f"ix_ledger_transfers_{side}"
        op.create_index(name, "ledger_transfers", [side, "created_at"], postgresql_where=sa.text(MOVING))
    op.execute(IMMUTABLE)
    op.execute(
        "CREATE TRIGGER ledger_transfers_immutable BEFORE UPDATE OR DELETE OR TRUNCATE ON ledger_transfers "
        "FOR EACH STATEMENT EXECUTE FUNCTION ledger_transfers_refuse()"
    )


def _usage() -> None:
    op.create_table(
        "usage_records",
        sa.Column("request_id", sa.Uuid, nullable=False),
        sa.Column("seq", sa.BigInteger, sa.Identity(always=True), nullable=False),
        sa.Column("settlement_id", sa.Uuid, nullable=False),
        sa.Column("tenant_id", sa.Uuid, nullable=False),
        sa.Column("key_id", sa.Uuid),
        sa.Column("bot_id", sa.Uuid),
        sa.Column("turn_id", sa.Uuid),
        sa.Column("kind", sa.Text, nullable=False),
        sa.Column("model", sa.Text, nullable=False),
        sa.Column("node_id", sa.Text),
        sa.Column("prompt_tokens", sa.BigInteger, nullable=False),
        sa.Column("completion_tokens", sa.BigInteger, nullable=False),
        sa.Column("units", sa.BigInteger, nullable=False),
        sa.Column("cost", sa.BigInteger, nullable=False),
        sa.Column("upstream_cost", sa.BigInteger, nullable=False),
        sa.Column("status", sa.Text, nullable=False),
        sa.Column("started_at", TIME, nullable=False),
        sa.Column("duration_ms", sa.BigInteger, nullable=False),
        sa.Column("first_token_ms", sa.BigInteger),
        sa.PrimaryKeyConstraint("request_id", name="pk_usage_records"),
        sa.CheckConstraint("cost >= 0 AND upstream_cost >= 0", "cost"),
    )
    table = "usage_records"
    op.create_index("ix_usage_records_tenant_id", table, ["tenant_id", "seq"])
    op.create_index("ix_usage_records_bot_id", table, ["bot_id", "seq"], postgresql_where=sa.text("bot_id IS NOT NULL"))
    op.create_index("ix_usage_records_turn_id", table, ["turn_id"], postgresql_where=sa.text("turn_id IS NOT NULL"))
    op.create_index("ix_usage_records_started_at", table, ["tenant_id", "started_at"], postgresql_include=["cost"])
    _runtime()


def _runtime() -> None:
    op.create_table(
        "runtime_periods",
        sa.Column("bot_id", sa.Uuid, nullable=False),
        sa.Column("started_at", TIME, nullable=False),
        sa.Column("ended_at", TIME, nullable=False),
        sa.Column("tenant_id", sa.Uuid, nullable=False),
        sa.Column("size", sa.Text, nullable=False),
        sa.Column("cost", sa.BigInteger, nullable=False),
        sa.PrimaryKeyConstraint("bot_id", "started_at", name="pk_runtime_periods"),
        sa.CheckConstraint("ended_at > started_at", "order"),
    )
    op.create_index(
        "ix_runtime_periods_tenant_id", "runtime_periods", ["tenant_id", "started_at"], postgresql_include=["cost"]
    )
    op.create_table(
        "runtime_bots",
        sa.Column("bot_id", sa.Uuid, nullable=False),
        sa.Column("tenant_id", sa.Uuid, nullable=False),
        sa.Column("size", sa.Text, nullable=False),
        sa.PrimaryKeyConstraint("bot_id", name="pk_runtime_bots"),
    )
    op.create_index("ix_runtime_bots_tenant_id", "runtime_bots", ["tenant_id"])
    op.create_table(
        "entitlements",
        sa.Column("tenant_id", sa.Uuid, nullable=False),
        sa.Column("state", sa.Text, nullable=False),
        sa.Column("since", TIME, nullable=False),
        sa.Column("warn_since", TIME),
        sa.Column("reminded_at", TIME),
        sa.PrimaryKeyConstraint("tenant_id", name="pk_entitlements"),
    )


def _stripe() -> None:
    op.create_table(
        "stripe_customers",
        sa.Column("tenant_id", sa.Uuid, nullable=False),
        sa.Column("idempotency_key", sa.Uuid, nullable=False),
        sa.Column("email", sa.Text, nullable=False),
        sa.Column("customer_id", sa.Text),
        _now("created_at"),
        sa.PrimaryKeyConstraint("tenant_id", name="pk_stripe_customers"),
        sa.UniqueConstraint("customer_id", name="uq_stripe_customers_customer_id"),
    )
    op.create_table(
        "stripe_checkouts",
        sa.Column("id", sa.Uuid, nullable=False),
        sa.Column("tenant_id", sa.Uuid, nullable=False),
        sa.Column("mode", sa.Text, nullable=False),
        sa.Column("amount_cents", sa.Integer),
        sa.Column("return_to", sa.Text),
        sa.Column("session_id", sa.Text),
        sa.Column("paid_at", TIME),
        _now("created_at"),
        sa.PrimaryKeyConstraint("id", name="pk_stripe_checkouts"),
        sa.UniqueConstraint("session_id", name="uq_stripe_checkouts_session_id"),
    )
    op.create_index("ix_stripe_checkouts_tenant_id", "stripe_checkouts", ["tenant_id"])
    op.create_table(
        "stripe_subscriptions",
        sa.Column("id", sa.Text, nullable=False),
        sa.Column("tenant_id", sa.Uuid, nullable=False),
        sa.Column("status", sa.Text, nullable=False),
        sa.Column("renews_at", TIME),
        sa.Column("cancels_at", TIME),
        sa.Column("created_at", TIME, nullable=False),
        _now("updated_at"),
        sa.PrimaryKeyConstraint("id", name="pk_stripe_subscriptions"),
    )
    op.create_index("ix_stripe_subscriptions_tenant_id", "stripe_subscriptions", ["tenant_id"])
    op.create_table(
        "stripe_payments",
        sa.Column("id", sa.Text, nullable=False),
        sa.Column("tenant_id", sa.Uuid, nullable=False),
        sa.Column("kind", sa.Text, nullable=False),
        sa.Column("payment_intent_id", sa.Text),
        sa.Column("paid_cents", sa.BigInteger, nullable=False),
        sa.Column("granted", sa.BigInteger, nullable=False),
        _now("created_at"),
        sa.PrimaryKeyConstraint("id", name="pk_stripe_payments"),
        sa.CheckConstraint("paid_cents > 0 AND granted > 0", "amounts"),
    )
    op.create_index("ix_stripe_payments_payment_intent_id", "stripe_payments", ["payment_intent_id"])
    op.create_index("ix_stripe_payments_tenant_id", "stripe_payments", ["tenant_id"])
    op.create_table(
        "stripe_takebacks",
        sa.Column("id", sa.Text, nullable=False),
        sa.Column("payment_id", sa.Text, nullable=False),
        sa.Column("taken", sa.BigInteger, nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_stripe_takebacks"),
    )
    op.create_index("ix_stripe_takebacks_payment_id", "stripe_takebacks", ["payment_id"])


def _inbox() -> None:
    op.create_table(
        "stripe_inbox",
        sa.Column("id", sa.Text, nullable=False),
        sa.Column("seq", sa.BigInteger, sa.Identity(always=True), nullable=False),
        sa.Column("type", sa.Text, nullable=False),
        sa.Column("object_id", sa.Text, nullable=False),
        sa.Column("state", sa.Text, nullable=False, server_default=sa.text("'pending'")),
        sa.Column("attempts", sa.Integer, nullable=False, server_default=sa.text("0")),
        sa.Column("last_error", sa.Text),
        sa.Column("next_attempt_at", TIME),
        _now("received_at"),
        sa.Column("applied_at", TIME),
        sa.PrimaryKeyConstraint("id", name="pk_stripe_inbox"),
        sa.CheckConstraint("state IN ('pending', 'applied', 'failed', 'unmatched')", "state"),
    )
    due = sa.text("next_attempt_at IS NOT NULL")
    op.create_index("ix_stripe_inbox_due", "stripe_inbox", ["next_attempt_at"], postgresql_where=due)
    op.create_index("ix_stripe_inbox_seq", "stripe_inbox", ["seq"])
