"""Why a bot did not start, in the operator's words: registries and users are no business of its customer."""

import sqlalchemy as sa
from alembic import op

revision = "0009_operator_error"
down_revision = "0008_node_lives"


def upgrade() -> None:
    op.add_column("bot_observed", sa.Column("operator_error", sa.Text(), nullable=True))
