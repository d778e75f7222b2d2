"""Bots: desired and observed state."""

revision = "0005_fleet"
down_revision = "0004_inference"


def upgrade() -> None:
    pass


def downgrade() -> None:
    pass
