"""`wopr api`: the platform's API, the gateway and the background loops in one process."""

import typer

from wopr.cli.ports import PORT_MAX

EXAMPLES = "Example: wopr api --port 3100"


def api(
    host: str = typer.Option("", help="Address to listen on; empty: API_HOST."),
    port: int = typer.Option(0, min=0, max=PORT_MAX, help="Port to listen on; 0: API_PORT (3100)."),
) -> None:
    """Run the API. Needs a database: DATABASE_URL, or the embedded one that `wopr up` started."""
    from wopr.cli.serving import Drain, begin_loading, serve

    begin_loading()
    from wopr.core.settings import load_settings
    from wopr.fleet.runtimes.addresses import listen_addresses
    from wopr.main import build_api
    from wopr.migrations.head import head_revision

    settings = load_settings()
    application = build_api(settings, head_revision())
    drain = Drain(application.drain, settings.drain_lead_seconds, settings.drain_seconds)
    serve("api", application, host or ",".join(listen_addresses(settings)), port or settings.api_port, drain)
