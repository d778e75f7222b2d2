"""What the DigitalOcean stand-in is told when it starts."""

from dataclasses import dataclass
from pathlib import Path

DEFAULT_INSTALLATION = "local"


@dataclass(frozen=True)
class DigitalOceanSettings:
    """Where the state lies, which token counts, the account's limits, and how long things take.

    `token` None accepts every token. `action_seconds` is what an action takes at least, beyond what its machine takes;
    zero makes everything as quick as it can be. `gpus_by_tag` False reads the documentation strictly: lists show GPU
    droplets only when asked for `type=gpus`, which can't be combined with a tag. `key_delay_seconds` is how long a new
    SSH key is unknown to the creation of droplets, as happens at DigitalOcean. `trusted_roots` are certificates (PEM)
    that machines are told to trust besides the usual ones, for an authority of the local cloud's own.
    """

    state: Path | None = None
    token: str | None = None
    public_url: str | None = None
    installation: str = DEFAULT_INSTALLATION
    droplet_limit: int = 25
    requests_per_hour: int = 5_000
    requests_per_minute: int = 250
    action_seconds: float = 0.0
    key_delay_seconds: float = 0.0
    gpus_by_tag: bool = False
    trusted_roots: str = ""
