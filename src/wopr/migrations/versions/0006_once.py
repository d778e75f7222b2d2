"""Answers kept under an Idempotency-Key, what each API key spent by day, and running bots that are noted cheaply."""

import sqlalchemy as sa
from alembic import op

revision = "0006_once"
down_revision = "0005_fleet"

TIME = sa.DateTime(timezone=True)


def upgrade() -> None:
    op.create_table(
        "idempotent_answers",
        sa.Column("tenant_id", sa.Uuid, nullable=False),
        sa.Column("route", sa.Text, nullable=False),
        sa.Column("key_hash", sa.LargeBinary, nullable=False),
        sa.Column("request_hash", sa.LargeBinary, nullable=False),
        sa.Column("answer", sa.LargeBinary),
        sa.Column("claim", sa.Uuid, nullable=False),
        sa.Column("claimed_until", TIME, nullable=False),
        sa.Column("created_at", TIME, nullable=False),
        sa.PrimaryKeyConstraint("tenant_id", "route", "key_hash", name="pk_idempotent_answers"),
    )
    op.create_index("ix_idempotent_answers_created_at", "idempotent_answers", ["created_at"])
    op.create_table(
        "key_spending",
        sa.Column("key_id", sa.Uuid, nullable=False),
        sa.Column("day", sa.Date, nullable=False),
        sa.Column("cost", sa.BigInteger, nullable=False),
        sa.PrimaryKeyConstraint("key_id", "day", name="pk_key_spending"),
    )
    # The old one named `seen_at`, so that noting a running bot wrote the index, too.
    op.drop_index("ix_bot_runs_uncharged", "bot_runs")
    uncharged = "ended_at IS NULL OR ended_at - charged_until >= interval '1 second'"
    op.create_index("ix_bot_runs_uncharged", "bot_runs", ["bot_id"], postgresql_where=sa.text(uncharged))
    op.execute("ALTER TABLE bot_runs SET (fillfactor = 70)")
    op.execute(
        "INSERT INTO key_spending (key_id, day, cost) "
        "SELECT key_id, (started_at AT TIME ZONE 'UTC')::date, sum(cost)::bigint FROM usage_records "
        "WHERE key_id IS NOT NULL AND cost > 0 GROUP BY 1, 2"
    )


def downgrade() -> None:
    op.drop_index("ix_bot_runs_uncharged", "bot_runs")
    uncharged = "ended_at IS NULL OR charged_until < seen_at"
    op.create_index("ix_bot_runs_uncharged", "bot_runs", ["bot_id"], postgresql_where=sa.text(uncharged))
    op.execute("ALTER TABLE bot_runs RESET (fillfactor)")
    op.drop_table("key_spending")
    op.drop_table("idempotent_answers")
