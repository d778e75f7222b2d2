"""Bots' images: release channels, what each bot runs on, which images failed, and updates that are under way."""

import sqlalchemy as sa
from alembic import op

revision = "0007_bot_images"
down_revision = "0006_once"

TIME = sa.DateTime(timezone=True)
STAGES = "'waiting', 'copying', 'trying', 'returning', 'kept', 'returned'"


def upgrade() -> None:
    op.add_column("bots", sa.Column("channel", sa.Text(), nullable=False, server_default=sa.text("'stable'")))
    op.add_column("bots", sa.Column("pinned_image", sa.Text(), nullable=True))
    op.add_column("bots", sa.Column("image", sa.Text(), nullable=True))
    op.create_check_constraint(op.f("ck_bots_channel"), "bots", "channel IN ('pinned', 'stable', 'canary')")
    op.create_check_constraint(op.f("ck_bots_pinned"), "bots", "(channel = 'pinned') = (pinned_image IS NOT NULL)")
    op.create_table(
        "bot_images",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("channel", sa.Text(), nullable=False),
        sa.Column("image", sa.Text(), nullable=False),
        sa.Column("set_at", TIME, nullable=False),
        sa.Column("set_by", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_bot_images"),
        sa.CheckConstraint("channel IN ('stable', 'canary')", name=op.f("ck_bot_images_channel")),
    )
    op.create_table(
        "bot_image_failures",
        sa.Column("image", sa.Text(), nullable=False),
        sa.Column("failures", sa.Integer(), nullable=False),
        sa.Column("last_error", sa.Text(), nullable=False),
        sa.Column("last_bot_id", sa.Uuid(), nullable=False),
        sa.Column("last_at", TIME, nullable=False),
        sa.PrimaryKeyConstraint("image", name="pk_bot_image_failures"),
    )
    op.create_table(
        "bot_updates",
        sa.Column("bot_id", sa.Uuid(), nullable=False),
        sa.Column("stage", sa.Text(), nullable=False),
        sa.Column("image_from", sa.Text(), nullable=False),
        sa.Column("image_to", sa.Text(), nullable=False),
        sa.Column("copy_generation", sa.Integer(), nullable=True),
        sa.Column("began_at", TIME, nullable=False),
        sa.Column("error", sa.Text(), nullable=False, server_default=sa.text("''")),
        sa.Column("kept_until", TIME, nullable=True),
        sa.PrimaryKeyConstraint("bot_id", name="pk_bot_updates"),
        sa.ForeignKeyConstraint(["bot_id"], ["bots.id"], name="fk_bot_updates_bot_id_bots", ondelete="CASCADE"),
        sa.CheckConstraint(f"stage IN ({STAGES})", name=op.f("ck_bot_updates_stage")),
    )


def downgrade() -> None:
    for table in ("bot_updates", "bot_image_failures", "bot_images"):
        op.drop_table(table)
    op.drop_constraint(op.f("ck_bots_pinned"), "bots", type_="check")
    op.drop_constraint(op.f("ck_bots_channel"), "bots", type_="check")
    for column in ("image", "pinned_image", "channel"):
        op.drop_column("bots", column)
