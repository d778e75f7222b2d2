"""Structured logs: JSON lines for machines, aligned text on a terminal; secrets are blacked out by name."""

import logging
import re
import sys

import structlog
from structlog.typing import EventDict, Processor, WrappedLogger

SECRET_NAMES = re.compile(r"(password|secret|token|authorization|cookie|api_key|database_url)", re.IGNORECASE)
SECRET_VALUES = re.compile(r"\b(wopr_(?:read|write|admin|bot)_|sk_live_|sk_test_|whsec_|re_)[A-Za-z0-9_-]{6,}")
DOTS = "••••"


def configure_logs(level: str, form: str) -> None:
    """Send every log, the libraries' included, to stderr in one form: `json`, `text`, or `auto`."""
    as_json = form == "json" or (form == "auto" and not sys.stderr.isatty())
    shared: list[Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        redact,
    ]
    renderer: Processor = structlog.processors.JSONRenderer() if as_json else structlog.dev.ConsoleRenderer()
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
                structlog.processors.format_exc_info,
                renderer,
            ],
        )
    )
    logging.basicConfig(handlers=[handler], level=level.upper(), force=True)
    for noisy in ("httpx", "httpcore", "uvicorn.access", "aiohttp.access", "stripe"):
        logging.getLogger(noisy).setLevel(logging.WARNING)


def redact(_logger: WrappedLogger, _method: str, event: EventDict) -> EventDict:
    """Replace values whose name or shape says that they are secret."""
    for name, value in event.items():
        if SECRET_NAMES.search(name):
            event[name] = DOTS
        elif isinstance(value, str):
            event[name] = SECRET_VALUES.sub(lambda match: match.group(1) + DOTS, value)
    return event
