"""GPU nodes: what people want of them, which cloud they come from, how their making went, and their repair."""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0008_node_lives"
down_revision = "0007_bot_images"

EMPTY_MAP, EMPTY_LIST = "'{}'::jsonb", "'[]'::jsonb"
DESIRED = "desired IN ('serving', 'cordoned', 'drained', 'gone')"
# As in 0004, and what people want of a node: routing must know it at once.
TOLD = "host, status, provision_stage, service_health, ports, api_key"
TELL = """
CREATE OR REPLACE FUNCTION gpu_nodes_tell() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
  IF TG_OP = 'UPDATE' AND ({new}) IS NOT DISTINCT FROM ({old}) THEN
    RETURN NULL;
  END IF;
  PERFORM pg_notify('wopr_nodes', CASE WHEN TG_OP = 'DELETE' THEN OLD.id ELSE NEW.id END);
  RETURN NULL;
END $$
"""


def upgrade() -> None:
    op.add_column("gpu_nodes", sa.Column("desired", sa.Text(), nullable=False, server_default=sa.text("'serving'")))
    op.add_column("gpu_nodes", sa.Column("provider", sa.Text(), nullable=True))
    op.add_column("gpu_nodes", sa.Column("hourly_cost_nanos", sa.BigInteger(), nullable=False, server_default="0"))
    op.add_column("gpu_nodes", sa.Column("machine_at", sa.BigInteger(), nullable=True))
    op.add_column("gpu_nodes", sa.Column("stage_at", sa.BigInteger(), nullable=True))
    op.add_column("gpu_nodes", sa.Column("ordered_at", sa.BigInteger(), nullable=True))
    op.add_column("gpu_nodes", sa.Column("provision_error", sa.Text(), nullable=True))
    op.add_column(
        "gpu_nodes",
        sa.Column("provision_log", postgresql.JSONB(), nullable=False, server_default=sa.text(EMPTY_LIST)),
    )
    op.add_column("gpu_nodes", sa.Column("token_hash", sa.Text(), nullable=True))
    op.add_column("gpu_nodes", sa.Column("token_expires_at", sa.BigInteger(), nullable=True))
    op.add_column("gpu_nodes", sa.Column("secret_hash", sa.Text(), nullable=True))
    op.add_column(
        "gpu_nodes", sa.Column("repair", postgresql.JSONB(), nullable=False, server_default=sa.text(EMPTY_MAP))
    )
    op.create_check_constraint(op.f("ck_gpu_nodes_desired"), "gpu_nodes", DESIRED)
    op.execute(_tell(f"{TOLD}, desired"))
    op.create_table(
        "cloud_identity",
        sa.Column("id", sa.SmallInteger(), sa.CheckConstraint("id = 1", name="only_one"), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("public_key", sa.Text(), nullable=False),
        sa.Column("private_key", sa.LargeBinary(), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_cloud_identity")),
    )


def downgrade() -> None:
    op.drop_table("cloud_identity")
    op.execute(_tell(TOLD))
    op.drop_constraint(op.f("ck_gpu_nodes_desired"), "gpu_nodes", type_="check")
    for column in (
        *("repair", "secret_hash", "token_expires_at", "token_hash", "provision_log", "provision_error"),
        *("ordered_at", "stage_at", "machine_at", "hourly_cost_nanos", "provider", "desired"),
    ):
        op.drop_column("gpu_nodes", column)


def _tell(columns: str) -> str:
    names = columns.split(", ")
    return TELL.format(new=", ".join(f"NEW.{name}" for name in names), old=", ".join(f"OLD.{name}" for name in names))
