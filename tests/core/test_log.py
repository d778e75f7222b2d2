"""No secret reaches a log: by its name, by its shape, at any depth, in a traceback or in a statement's parameters."""

import io
import logging
from collections.abc import Iterator

import pytest
import structlog
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError

from wopr.core.db import Database
from wopr.core.log import DOTS, configure_logs, redact

SECRET = "wopr_write_abcdefghijklmnop"
URL = "postgresql://wopr:hunter2@127.0.0.1/x"


@pytest.fixture
def stream(monkeypatch: pytest.MonkeyPatch) -> Iterator[io.StringIO]:
    written = io.StringIO()
    monkeypatch.setattr("sys.stderr", written)
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    configure_logs("info", "json")
    yield written
    root.handlers[:] = handlers
    root.setLevel(level)
    structlog.reset_defaults()


def test_secrets_are_blacked_out_by_name_and_by_shape_at_any_depth() -> None:
    event = redact(
        None,
        "info",
        {"password": "x", "note": f"key {SECRET}", "body": {"token": "x", "lines": [SECRET]}, "url": URL, "tokens": 1},
    )
    assert event["password"] == event["body"]["token"] == DOTS
    assert SECRET not in str(event)
    assert "hunter2" not in str(event)
    assert "wopr_write_" in event["note"], "what kind of secret it was is worth knowing"


def test_counts_of_tokens_are_no_secrets() -> None:
    assert redact(None, "info", {"prompt_tokens": 12}) == {"prompt_tokens": 12}


def test_a_traceback_is_searched_too(stream: io.StringIO) -> None:
    try:
        raise RuntimeError(f"refused {SECRET} at {URL}")
    except RuntimeError:
        structlog.get_logger("ours").exception("failed")
        logging.getLogger("library").exception("failed")
    written = stream.getvalue()
    assert written.count("RuntimeError") >= 2
    assert SECRET not in written
    assert "hunter2" not in written


async def test_an_error_of_the_database_does_not_carry_what_was_written(db: Database) -> None:
    with pytest.raises(DBAPIError) as caught:
        async with db.begin() as session:
            await session.execute(text("SELECT CAST(:value AS uuid)::text || no_such_column"), {"value": SECRET})
    assert SECRET not in str(caught.value)
