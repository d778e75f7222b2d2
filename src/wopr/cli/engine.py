"""`wopr engine`: one of the four inference services, on a machine without a GPU."""

from pathlib import Path
from typing import Annotated

import typer

from wopr.cli import output
from wopr.cli.output import JsonOption, ProgressKind, ProgressOption
from wopr.cli.ports import PORT_MAX

EXAMPLES = "Example: wopr engine llama --port 8080"


def engine(
    name: Annotated[str, typer.Argument(help="llama (text), chatterbox (speech), whisper (transcription) or qwen.")],
    host: Annotated[str, typer.Option(help="Address to listen on; empty: ENGINE_HOST.")] = "",
    port: Annotated[
        int, typer.Option(min=0, max=PORT_MAX, help="Port to listen on; 0: the service's own, 8080 to 8083.")
    ] = 0,
    model: Annotated[Path | None, typer.Option(help="File or folder to serve instead of the one found.")] = None,
    models_dir: Annotated[Path | None, typer.Option(help="Folder to look in; empty: `models` under WOPR_HOME.")] = None,
    parallel: Annotated[int, typer.Option(min=1, max=64, help="Requests that work at once.")] = 2,
    progress: ProgressOption = ProgressKind.AUTO,
    as_json: JsonOption = False,
) -> None:
    """Serve text, speech, transcription or embeddings with the HTTP contract of a GPU node's images.

    Without a model of its own each serves what comes with WOPR: the handbook model, flite or espeak-ng, pocketsphinx,
    MiniLM. Runs until it is interrupted.
    """
    from wopr.core.log import configure_logs
    from wopr.core.settings import load_settings
    from wopr.inference.engines import ENGINES, EngineOptions, run

    if name not in ENGINES:
        output.fail(f"There is no engine {name!r}.", remedy=f"Name one of: {', '.join(ENGINES)}.", code=output.USAGE)
    settings = load_settings()
    configure_logs(settings.log_level, settings.log_format)
    options = EngineOptions(
        host=host or settings.engine_host,
        port=port or getattr(settings, f"{name}_port"),
        models_path=(models_dir or settings.models_path).expanduser().resolve(),
        model=model.expanduser().resolve() if model else None,
        api_key=settings.engine_api_key.get_secret_value() if settings.engine_api_key else None,
        parallel=parallel,
    )

    loading = output.progress(progress, as_json=as_json).stage("", f"load {name}", keep=False)

    def ready(address: str, served: str) -> None:
        loading.done(served)
        if as_json:
            output.json_line({"engine": name, "address": address, "model": served})
        else:
            output.say(f"wopr engine {name} serves {served} on {address}")

    with loading:
        run(name, options, ready)
