"""What the Resend stand-in is told when it starts."""

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class ResendSettings:
    """Where the mails lie and which keys and senders count.

    `api_key` None accepts every `re_…` key. `strict` refuses senders whose domain was not verified, as Resend does;
    `verified_domains` are verified from the start.
    """

    state: Path | None = None
    api_key: str | None = None
    strict: bool = False
    verified_domains: tuple[str, ...] = ("wopr.bot",)
