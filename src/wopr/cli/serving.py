"""Serves an application until a signal ends it; a port in use is named with its remedy."""

import gc
from typing import Any

import uvicorn

from wopr.cli import output
from wopr.cli.ports import holder_of_port


def serve(name: str, application: Any, host: str, port: int, drain_seconds: float) -> None:  # Any: what uvicorn takes
    """Run on uvicorn with uvloop and httptools; running requests get `drain_seconds` when it is stopped."""
    if (holder := holder_of_port(port, host)) is not None:
        output.fail(
            f"Port {port} is in use{holder}.", remedy=f"Stop that process, or: wopr {name} --port {port + 1000}"
        )
    # What was imported lives as long as the process: the collector need not look at it again and again.
    gc.collect()
    gc.freeze()
    output.say(f"wopr {name} listens on http://{host}:{port}")
    uvicorn.run(
        application,
        host=host,
        port=port,
        loop="uvloop",
        http="httptools",
        log_config=None,
        access_log=False,
        server_header=False,
        timeout_graceful_shutdown=max(1, round(drain_seconds)),
        proxy_headers=False,
    )
