"""Bots: desired and observed state, and the stretches of time in which they ran."""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0005_fleet"
down_revision = "0004_inference"

MOMENT = sa.DateTime(timezone=True)
NOW = sa.text("now()")


def upgrade() -> None:
    op.create_table(
        "bots",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("tenant_id", sa.Uuid(), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("template", sa.Text(), nullable=True),
        sa.Column("persona", sa.Text(), nullable=False, server_default=sa.text("''")),
        sa.Column("instructions", sa.Text(), nullable=False, server_default=sa.text("''")),
        sa.Column("model", sa.Text(), nullable=False),
        sa.Column("voice", sa.Text(), nullable=False),
        sa.Column("size", sa.Text(), nullable=False),
        sa.Column("desired", sa.Text(), nullable=False, server_default=sa.text("'running'")),
        sa.Column("generation", sa.Integer(), nullable=False, server_default=sa.text("1")),
        sa.Column("service_key", sa.LargeBinary(), nullable=True),
        sa.Column("created_at", MOMENT, nullable=False, server_default=NOW),
        sa.Column("updated_at", MOMENT, nullable=False, server_default=NOW),
        sa.Column("deleted_at", MOMENT, nullable=True),
        sa.PrimaryKeyConstraint("id", name="pk_bots"),
        sa.CheckConstraint("desired IN ('running', 'stopped', 'deleted')", name=op.f("ck_bots_desired")),
    )
    op.create_index(
        "uq_bots_name",
        "bots",
        ["tenant_id", sa.text("lower(name)")],
        unique=True,
        postgresql_where=sa.text("desired <> 'deleted'"),
    )
    op.create_index("ix_bots_living", "bots", ["id"], postgresql_where=sa.text("deleted_at IS NULL"))
    _observed()
    _runs()


def _observed() -> None:
    op.create_table(
        "bot_observed",
        sa.Column("bot_id", sa.Uuid(), nullable=False),
        sa.Column("state", sa.Text(), nullable=False, server_default=sa.text("'starting'")),
        sa.Column("reason", sa.Text(), nullable=False, server_default=sa.text("''")),
        sa.Column("instance_id", sa.Uuid(), nullable=True),
        sa.Column("ready_at", MOMENT, nullable=True),
        sa.Column("crashes", postgresql.ARRAY(MOMENT), nullable=False, server_default=sa.text("'{}'::timestamptz[]")),
        sa.Column("restarts", sa.Integer(), nullable=False, server_default=sa.text("0")),
        sa.Column("last_error", sa.Text(), nullable=True),
        sa.Column("updated_at", MOMENT, nullable=False, server_default=NOW),
        sa.PrimaryKeyConstraint("bot_id", name="pk_bot_observed"),
        sa.ForeignKeyConstraint(["bot_id"], ["bots.id"], name="fk_bot_observed_bot_id_bots", ondelete="CASCADE"),
        sa.CheckConstraint(
            "state IN ('starting', 'running', 'stopping', 'stopped', 'suspended', 'failed', 'deleting')",
            name=op.f("ck_bot_observed_state"),
        ),
    )


def _runs() -> None:
    op.create_table(
        "bot_runs",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("bot_id", sa.Uuid(), nullable=False),
        sa.Column("tenant_id", sa.Uuid(), nullable=False),
        sa.Column("size", sa.Text(), nullable=False),
        sa.Column("started_at", MOMENT, nullable=False),
        sa.Column("seen_at", MOMENT, nullable=False),
        sa.Column("ended_at", MOMENT, nullable=True),
        sa.Column("charged_until", MOMENT, nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_bot_runs"),
        sa.CheckConstraint("seen_at >= started_at AND charged_until >= started_at", name=op.f("ck_bot_runs_order")),
    )
    op.create_index("ix_bot_runs_bot_id", "bot_runs", ["bot_id"])
    op.create_index(
        "ix_bot_runs_uncharged",
        "bot_runs",
        ["bot_id"],
        postgresql_where=sa.text("ended_at IS NULL OR charged_until < seen_at"),
    )


def downgrade() -> None:
    for table in ("bot_runs", "bot_observed", "bots"):
        op.drop_table(table)
