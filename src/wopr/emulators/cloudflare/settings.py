"""What the Cloudflare stand-in is told when it starts."""

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class CloudflareSettings:
    """Where the state lies, which tokens count and which zones there are from the start.

    `api_token` None accepts every token of the right form. Cloudflare's limit is `requests_max` in `window_seconds`.
    """

    state: Path | None = None
    api_token: str | None = None
    zones: tuple[str, ...] = ("wopr.bot",)
    requests_max: int = 1200
    window_seconds: float = 300.0
