"""How one engine runs: the same few choices for all four."""

from dataclasses import dataclass, field
from pathlib import Path

from wopr.core.errors import Unavailable


@dataclass(frozen=True)
class EngineOptions:
    """`model`: a file or folder to serve instead of the one found under `models_path`; `parallel`: requests at once."""

    host: str
    port: int
    models_path: Path
    model: Path | None = None
    api_key: str | None = field(default=None, repr=False)
    parallel: int = 2


def port_unavailable(options: EngineOptions, error: OSError) -> Unavailable:
    """The error of a port that can't be listened on."""
    return Unavailable(
        f"The engine can't listen on {options.host}:{options.port}: {error.strerror or error}.",
        remedy=f"Stop what uses the port (`ss -ltnp 'sport = :{options.port}'`), or choose another with --port.",
    )
