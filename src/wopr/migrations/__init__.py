"""Alembic's migrations: one linear chain with a single head, applied before a server serves."""
