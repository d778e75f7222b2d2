"""`wopr ui`: the pages, a client of the API with no access to the database."""

import typer

from wopr.cli.ports import PORT_MAX

EXAMPLES = "Example: wopr ui --port 3000"


def ui(
    host: str = typer.Option("", help="Address to listen on; empty: UI_HOST."),
    port: int = typer.Option(0, min=0, max=PORT_MAX, help="Port to listen on; 0: UI_PORT (3000)."),
) -> None:
    """Run the UI. It reaches the API at API_INTERNAL_URL, or API_URL."""
    from wopr.cli.serving import Drain, begin_loading, serve

    begin_loading()
    from wopr.core.log import configure_logs
    from wopr.core.settings import load_settings
    from wopr.web import begin_drain, build_web

    settings = load_settings()
    configure_logs(settings.log_level, settings.log_format)
    pages = build_web(settings)
    drain = Drain(lambda: begin_drain(pages), settings.drain_lead_seconds, settings.drain_seconds)
    serve("ui", pages, host or settings.ui_host, port or settings.ui_port, drain)
