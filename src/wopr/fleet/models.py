"""The tables of fleet. Used only inside the slice. Tenants are plain ids here: their table belongs to another slice."""

from datetime import datetime
from uuid import UUID

from sqlalchemy import CheckConstraint, DateTime, ForeignKey, Index, Integer, LargeBinary, Text, func, text
from sqlalchemy.dialects.postgresql import ARRAY
from sqlalchemy.orm import Mapped, mapped_column

from wopr.core.db import Base

NOW = text("now()")
ZERO = text("0")
NO_TEXT = text("''")
# Without `seen_at`, which is written all the time: an index that names it would be written with it.
UNCHARGED = "(bot_runs.ended_at IS NULL OR bot_runs.ended_at - bot_runs.charged_until >= interval '1 second')"


class Bot(Base):
    """What is wanted. `generation` grows with every change that only a new process can see."""

    __tablename__ = "bots"
    __table_args__ = (
        CheckConstraint("desired IN ('running', 'stopped', 'deleted')", name="desired"),
        CheckConstraint("channel IN ('pinned', 'stable', 'canary')", name="channel"),
        CheckConstraint("(channel = 'pinned') = (pinned_image IS NOT NULL)", name="pinned"),
        Index(
            "uq_bots_name",
            "tenant_id",
            func.lower(text("name")),
            unique=True,
            postgresql_where=text("desired <> 'deleted'"),
        ),
        Index("ix_bots_living", "id", postgresql_where=text("deleted_at IS NULL")),
    )

    id: Mapped[UUID] = mapped_column(primary_key=True)
    tenant_id: Mapped[UUID]
    name: Mapped[str] = mapped_column(Text)
    template: Mapped[str | None] = mapped_column(Text)
    persona: Mapped[str] = mapped_column(Text, server_default=NO_TEXT)
    instructions: Mapped[str] = mapped_column(Text, server_default=NO_TEXT)
    model: Mapped[str] = mapped_column(Text)
    voice: Mapped[str] = mapped_column(Text)
    size: Mapped[str] = mapped_column(Text)
    desired: Mapped[str] = mapped_column(Text, server_default=text("'running'"))
    generation: Mapped[int] = mapped_column(Integer, server_default=text("1"))
    # Which image it shall run on follows from the channel; `image` is the one that it starts with now.
    channel: Mapped[str] = mapped_column(Text, server_default=text("'stable'"))
    pinned_image: Mapped[str | None] = mapped_column(Text)
    image: Mapped[str | None] = mapped_column(Text)
    # Sealed by the vault with the bot's id as context.
    service_key: Mapped[bytes | None] = mapped_column(LargeBinary)
    created_at: Mapped[datetime] = mapped_column(DateTime(timezone=True), server_default=NOW)
    updated_at: Mapped[datetime] = mapped_column(DateTime(timezone=True), server_default=NOW)
    deleted_at: Mapped[datetime | None] = mapped_column(DateTime(timezone=True))


class BotObserved(Base):
    """What is. Written by the reconciler only, and by people who clear a bot's crashes by starting it again."""

    __tablename__ = "bot_observed"
    __table_args__ = (
        CheckConstraint(
            "state IN ('starting', 'running', 'stopping', 'stopped', 'suspended', 'failed', 'deleting')",
            name="state",
        ),
    )

    bot_id: Mapped[UUID] = mapped_column(ForeignKey("bots.id", ondelete="CASCADE"), primary_key=True)
    state: Mapped[str] = mapped_column(Text, server_default=text("'starting'"))
    reason: Mapped[str] = mapped_column(Text, server_default=NO_TEXT)
    # The instance that was started last and not stopped by us; another one or none in its place means that it ended.
    instance_id: Mapped[UUID | None]
    ready_at: Mapped[datetime | None] = mapped_column(DateTime(timezone=True))
    crashes: Mapped[list[datetime]] = mapped_column(
        ARRAY(DateTime(timezone=True)), server_default=text("'{}'::timestamptz[]")
    )
    restarts: Mapped[int] = mapped_column(Integer, server_default=ZERO)
    # What went wrong last: as its customer reads it, and what operators must know of it beside.
    last_error: Mapped[str | None] = mapped_column(Text)
    operator_error: Mapped[str | None] = mapped_column(Text)
    updated_at: Mapped[datetime] = mapped_column(DateTime(timezone=True), server_default=NOW)


class BotRun(Base):
    """A stretch of time in which an instance was seen running; what is charged is between `started_at` and `seen_at`.

    The id is the instance's, so that the same run is never opened twice, whoever observes it.
    """

    __tablename__ = "bot_runs"
    __table_args__ = (
        CheckConstraint("seen_at >= started_at AND charged_until >= started_at", name="order"),
        Index("ix_bot_runs_bot_id", "bot_id"),
        Index(
            "ix_bot_runs_uncharged",
            "bot_id",
            postgresql_where=text(UNCHARGED),
        ),
    )

    id: Mapped[UUID] = mapped_column(primary_key=True)
    bot_id: Mapped[UUID]
    tenant_id: Mapped[UUID]
    size: Mapped[str] = mapped_column(Text)
    started_at: Mapped[datetime] = mapped_column(DateTime(timezone=True))
    seen_at: Mapped[datetime] = mapped_column(DateTime(timezone=True))
    ended_at: Mapped[datetime | None] = mapped_column(DateTime(timezone=True))
    charged_until: Mapped[datetime] = mapped_column(DateTime(timezone=True))


class BotImage(Base):
    """An image that was set on a channel. Rows are only added: the newest of a channel holds, the others tell."""

    __tablename__ = "bot_images"
    __table_args__ = (CheckConstraint("channel IN ('stable', 'canary')", name="channel"),)

    id: Mapped[UUID] = mapped_column(primary_key=True)
    channel: Mapped[str] = mapped_column(Text)
    image: Mapped[str] = mapped_column(Text)
    set_at: Mapped[datetime] = mapped_column(DateTime(timezone=True))
    set_by: Mapped[str] = mapped_column(Text)


class BotImageFailure(Base):
    """How many bots came back from an image, and why the last one did."""

    __tablename__ = "bot_image_failures"

    image: Mapped[str] = mapped_column(Text, primary_key=True)
    failures: Mapped[int] = mapped_column(Integer)
    last_error: Mapped[str] = mapped_column(Text)
    last_bot_id: Mapped[UUID]
    last_at: Mapped[datetime] = mapped_column(DateTime(timezone=True))


class BotUpdate(Base):
    """A bot's move to another image; it stays until the copy of what the bot knew before is removed."""

    __tablename__ = "bot_updates"
    __table_args__ = (
        CheckConstraint(
            "stage IN ('waiting', 'copying', 'trying', 'returning', 'kept', 'returned')",
            name="stage",
        ),
    )

    bot_id: Mapped[UUID] = mapped_column(ForeignKey("bots.id", ondelete="CASCADE"), primary_key=True)
    stage: Mapped[str] = mapped_column(Text)
    image_from: Mapped[str] = mapped_column(Text)
    image_to: Mapped[str] = mapped_column(Text)
    # The generation that the bot was stopped in names the copy; None: none was made.
    copy_generation: Mapped[int | None]
    began_at: Mapped[datetime] = mapped_column(DateTime(timezone=True))
    error: Mapped[str] = mapped_column(Text, server_default=NO_TEXT)
    # When the copy goes, and until when the same image is not tried again.
    kept_until: Mapped[datetime | None] = mapped_column(DateTime(timezone=True))
