"""The newest migration that this code knows, without loading Alembic, which a server would keep."""

from pathlib import Path

VERSIONS = Path(__file__).parent / "versions"


def head_revision() -> str:
    """Its id. Files are named by their revision, in order; a test compares this with Alembic's own answer."""
    return max(file.stem for file in VERSIONS.glob("[0-9]*.py"))
