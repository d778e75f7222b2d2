"""Alembic's entry: runs on the connection that `run.upgrade` hands over, and knows every slice's tables.

Without a connection (`run.revisions_sql`) the statements are written to the buffer that is handed over instead.
"""

import importlib

from alembic import context

from wopr.core.db import Base

MODELS = (
    "wopr.core.loops",
    "wopr.accounts.models",
    "wopr.billing.models",
    "wopr.inference.models",
    "wopr.fleet.models",
)

for name in MODELS:
    importlib.import_module(name)

attributes = context.config.attributes
# asyncpg's dialect in both cases: another one would double each percent sign in the text.
output = {"url": "postgresql+asyncpg://", "literal_binds": True, "output_buffer": attributes.get("buffer")}
context.configure(
    **({"connection": attributes["connection"]} if "connection" in attributes else output),
    target_metadata=Base.metadata,
    transaction_per_migration=True,
    compare_server_default=False,
)
with context.begin_transaction():
    context.run_migrations()
