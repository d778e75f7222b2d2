"""The ledger, usage, plans and the inbox of payment events."""

revision = "0003_billing"
down_revision = "0002_accounts"


def upgrade() -> None:
    pass


def downgrade() -> None:
    pass
