"""Structured logs: JSON lines for machines, aligned text on a terminal; secrets are blacked out by name."""

import logging
import re
import sys
from collections.abc import Mapping
from typing import Any

import structlog
from structlog.typing import EventDict, Processor, WrappedLogger

from wopr.core.environment import environment

SECRET_NAMES = re.compile(r"(password|secret|token|authorization|cookie|api_key|database_url)", re.IGNORECASE)
SECRET_VALUES = re.compile(
    r"\b(wopr_(?:read|write|admin|bot)_|sk_live_|sk_test_|whsec_|re_)[A-Za-z0-9_-]{6,}"
    r"|(://[^\s/:@]+:)[^\s/@]+(?=@)|([?&]token=)[^\s&]+"
)
# Counts that only sound like secrets.
HARMLESS_NAMES = re.compile(r"_tokens$")
DOTS = "••••"


def configure_logs(level: str, form: str) -> None:
    """Send every log, the libraries' included, to stderr in one form: `json`, `text`, or `auto`."""
    as_json = form == "json" or (form == "auto" and not sys.stderr.isatty())
    shared: list[Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        structlog.processors.format_exc_info,
        redact,
    ]
    renderer: Processor = _renderer(as_json)
    structlog.configure(
        processors=[*shared, structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.stdlib.BoundLogger,
        cache_logger_on_first_use=True,
    )
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=shared,
            processors=[
                structlog.stdlib.ProcessorFormatter.remove_processors_meta,
                renderer,
            ],
        )
    )
    logging.basicConfig(handlers=[handler], level=level.upper(), force=True)
    for noisy in ("httpx", "httpcore", "uvicorn.access", "aiohttp.access", "stripe"):
        logging.getLogger(noisy).setLevel(logging.WARNING)


def _renderer(as_json: bool) -> Processor:
    if as_json:
        return structlog.processors.JSONRenderer()
    # Tracebacks are text by then: they were searched for secrets.
    colors = sys.stderr.isatty() and not environment().get("NO_COLOR")
    return structlog.dev.ConsoleRenderer(colors=colors, exception_formatter=structlog.dev.plain_traceback)


def redact(_logger: WrappedLogger, _method: str, event: EventDict) -> EventDict:
    """Replace values whose name or shape says that they are secret, at any depth and in tracebacks."""
    for name, value in event.items():
        event[name] = _redacted(name, value)
    return event


def _redacted(name: str, value: Any) -> Any:  # whatever is logged
    if SECRET_NAMES.search(name) and not HARMLESS_NAMES.search(name):
        return DOTS
    if isinstance(value, str):
        return SECRET_VALUES.sub(lambda match: "".join(part for part in match.groups() if part) + DOTS, value)
    if isinstance(value, Mapping):
        return {key: _redacted(str(key), each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [_redacted("", each) for each in value]
    return value
