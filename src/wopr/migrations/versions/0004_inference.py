"""GPU nodes, with the columns of the runbook."""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0004_inference"
down_revision = "0003_billing"

EPOCH_NOW = "(EXTRACT(epoch FROM now()))::bigint"
PORTS = '\'{"llama": 8080, "chatterbox": 8081, "whisper": 8082, "qwen": 8083}\'::jsonb'

# last_health_at and probe_state change with every probe and interest nobody but the watchdog.
TELL = """
CREATE FUNCTION gpu_nodes_tell() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
  IF TG_OP = 'UPDATE'
    AND (NEW.host, NEW.status, NEW.provision_stage, NEW.service_health, NEW.ports, NEW.api_key)
      IS NOT DISTINCT FROM
        (OLD.host, OLD.status, OLD.provision_stage, OLD.service_health, OLD.ports, OLD.api_key)
  THEN
    RETURN NULL;
  END IF;
  PERFORM pg_notify('wopr_nodes', CASE WHEN TG_OP = 'DELETE' THEN OLD.id ELSE NEW.id END);
  RETURN NULL;
END $$
"""


def upgrade() -> None:
    op.create_table(
        "gpu_nodes",
        sa.Column("id", sa.Text(), nullable=False),
        sa.Column("droplet_id", sa.Text(), nullable=True),
        sa.Column("host", sa.Text(), nullable=True),
        sa.Column("region", sa.Text(), nullable=False, server_default=sa.text("'local'")),
        sa.Column("size", sa.Text(), nullable=False, server_default=sa.text("'unknown'")),
        sa.Column("status", sa.Text(), nullable=False, server_default=sa.text("'provisioning'")),
        sa.Column("provision_stage", sa.Text(), nullable=False, server_default=sa.text("'creating'")),
        sa.Column("service_health", postgresql.JSONB(), nullable=False, server_default=sa.text("'{}'::jsonb")),
        sa.Column("monthly_cost_cents", sa.Integer(), nullable=False, server_default=sa.text("0")),
        sa.Column("last_health_at", sa.BigInteger(), nullable=True),
        sa.Column("last_error", sa.Text(), nullable=True),
        sa.Column("created_at", sa.BigInteger(), nullable=False, server_default=sa.text(EPOCH_NOW)),
        sa.Column("updated_at", sa.BigInteger(), nullable=False, server_default=sa.text(EPOCH_NOW)),
        sa.Column("ports", postgresql.JSONB(), nullable=False, server_default=sa.text(PORTS)),
        sa.Column("api_key", sa.Text(), nullable=True),
        sa.Column("probe_state", postgresql.JSONB(), nullable=False, server_default=sa.text("'{}'::jsonb")),
        sa.PrimaryKeyConstraint("id", name="pk_gpu_nodes"),
        sa.UniqueConstraint("droplet_id", name="uq_gpu_nodes_droplet_id"),
    )
    op.execute(TELL)
    op.execute(
        "CREATE TRIGGER gpu_nodes_tell AFTER INSERT OR UPDATE OR DELETE ON gpu_nodes "
        "FOR EACH ROW EXECUTE FUNCTION gpu_nodes_tell()"
    )


def downgrade() -> None:
    op.drop_table("gpu_nodes")
    op.execute("DROP FUNCTION gpu_nodes_tell()")
