"""Alembic's entry: runs on the connection that `run.upgrade` hands over, and knows every slice's tables."""

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

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=Base.metadata,
    transaction_per_migration=True,
    compare_server_default=False,
)
with context.begin_transaction():
    context.run_migrations()
