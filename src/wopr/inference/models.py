"""The table of inference nodes, with the runbook's columns: its INSERT … ON CONFLICT and SELECT run on it unchanged.

What the runbook does not name has a default, so that a row written by hand is complete. Times are seconds since 1970,
as the runbook writes them.
"""

from typing import Any

from sqlalchemy import BigInteger, Integer, LargeBinary, SmallInteger, Text, text
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.orm import Mapped, mapped_column

from wopr.core.db import Base

EPOCH_NOW = "(EXTRACT(epoch FROM now()))::bigint"
PORTS_DEFAULT = '\'{"llama": 8080, "chatterbox": 8081, "whisper": 8082, "qwen": 8083}\'::jsonb'


class GpuNode(Base):
    """One machine that serves models. Changes that routing must know are announced on `wopr_nodes` by a trigger."""

    __tablename__ = "gpu_nodes"

    id: Mapped[str] = mapped_column(Text, primary_key=True)
    droplet_id: Mapped[str | None] = mapped_column(Text, unique=True)
    host: Mapped[str | None] = mapped_column(Text)
    region: Mapped[str] = mapped_column(Text, server_default=text("'local'"))
    size: Mapped[str] = mapped_column(Text, server_default=text("'unknown'"))
    status: Mapped[str] = mapped_column(Text, server_default=text("'provisioning'"))
    provision_stage: Mapped[str] = mapped_column(Text, server_default=text("'creating'"))
    # The runbook's map of service to true or false; what it rests on is in probe_state.
    service_health: Mapped[dict[str, bool]] = mapped_column(JSONB, server_default=text("'{}'::jsonb"))
    monthly_cost_cents: Mapped[int] = mapped_column(Integer, server_default=text("0"))
    last_health_at: Mapped[int | None] = mapped_column(BigInteger)
    last_error: Mapped[str | None] = mapped_column(Text)
    created_at: Mapped[int] = mapped_column(BigInteger, server_default=text(EPOCH_NOW))
    updated_at: Mapped[int] = mapped_column(BigInteger, server_default=text(EPOCH_NOW))
    # Ours beyond the runbook's.
    ports: Mapped[dict[str, int]] = mapped_column(JSONB, server_default=text(PORTS_DEFAULT))
    api_key: Mapped[str | None] = mapped_column(Text)
    # Per service what the watchdog remembers: failures in a row, since when, the last error. JSON has no narrower type.
    probe_state: Mapped[dict[str, Any]] = mapped_column(JSONB, server_default=text("'{}'::jsonb"))
    # What people want of it: serving, cordoned (nothing new is sent), drained (nothing runs either), gone.
    desired: Mapped[str] = mapped_column(Text, server_default=text("'serving'"))
    # The cloud whose machine this is; None for one that was registered by hand and is nobody's to destroy.
    provider: Mapped[str | None] = mapped_column(Text)
    # What the machine costs, in nano-dollars an hour, since it was made. None: nothing is known to run.
    hourly_cost_nanos: Mapped[int] = mapped_column(BigInteger, server_default=text("0"))
    machine_at: Mapped[int | None] = mapped_column(BigInteger)
    stage_at: Mapped[int | None] = mapped_column(BigInteger)
    # When the cloud was last asked for a machine whose id is not known yet: it may exist all the same.
    ordered_at: Mapped[int | None] = mapped_column(BigInteger)
    provision_error: Mapped[str | None] = mapped_column(Text)
    # Every stage that was reached, in order, as JSON: stage, at, detail.
    provision_log: Mapped[list[Any]] = mapped_column(JSONB, server_default=text("'[]'::jsonb"))
    token_hash: Mapped[str | None] = mapped_column(Text)
    token_expires_at: Mapped[int | None] = mapped_column(BigInteger)
    secret_hash: Mapped[str | None] = mapped_column(Text)
    # Where the ladder of repair stands, as JSON.
    repair: Mapped[dict[str, Any]] = mapped_column(JSONB, server_default=text("'{}'::jsonb"))


class CloudIdentity(Base):
    """The one row that says who we are at the cloud: the name in tags and names, and the key to our machines."""

    __tablename__ = "cloud_identity"

    id: Mapped[int] = mapped_column(SmallInteger, primary_key=True)
    name: Mapped[str] = mapped_column(Text)
    public_key: Mapped[str] = mapped_column(Text)
    private_key: Mapped[bytes] = mapped_column(LargeBinary)  # sealed
