"""`wopr api`: the platform's API, the gateway and the background loops in one process."""

import typer

from wopr.cli import output

EXAMPLES = "Example: wopr api --port 3100"


def api(
    host: str = typer.Option("", help="Address to listen on; empty: API_HOST."),
    port: int = typer.Option(0, help="Port to listen on; 0: API_PORT (3100)."),
) -> None:
    """Run the API. Needs a database: DATABASE_URL, or the embedded one that `wopr up` started."""
    import gc

    import uvicorn

    from wopr.core.settings import load_settings
    from wopr.main import build_api
    from wopr.migrations.head import head_revision

    settings = load_settings()
    application = build_api(settings, head_revision())
    # What was imported lives as long as the process: the collector need not look at it again and again.
    gc.collect()
    gc.freeze()
    host, port = host or settings.api_host, port or settings.api_port
    output.say(f"wopr api listens on http://{host}:{port}")
    uvicorn.run(
        application,
        host=host,
        port=port,
        loop="uvloop",
        http="httptools",
        log_config=None,
        access_log=False,
        server_header=False,
        timeout_graceful_shutdown=max(1, round(settings.drain_seconds)),
        proxy_headers=False,
    )
