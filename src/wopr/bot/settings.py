"""The bot's configuration, read once from the environment that the fleet writes (names in `contract.py`)."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

from wopr.bot import contract


class SettingsError(ValueError):
    """The environment can't start a bot; the message names the variable."""


@dataclass(frozen=True)
class Settings:
    """Everything that a bot knows about itself. The two secrets never show in a repr."""

    bot_id: str
    name: str
    host: str
    port: int
    data: Path
    gateway_url: str  # without a slash at the end
    model: str
    embedding_model: str  # empty: no recall
    voice: str
    speech_model: str
    transcription_model: str
    persona: str
    instructions: str
    token: str = field(repr=False)
    service_key: str = field(repr=False)


def load_settings(environment: Mapping[str, str]) -> Settings:
    """Raises `SettingsError` when something needed is missing or malformed."""

    def needed(name: str) -> str:
        value = environment.get(name, "").strip()
        if not value:
            raise SettingsError(f"{name} is not set; the bot can't start without it")
        return value

    def optional(name: str, default: str) -> str:
        return environment.get(name, default).strip()

    return Settings(
        bot_id=optional(contract.ENV_BOT_ID, "bot"),
        name=optional(contract.ENV_NAME, "") or "WOPR",
        host=optional(contract.ENV_HOST, "") or contract.DEFAULT_HOST,
        port=_port(optional(contract.ENV_PORT, str(contract.DEFAULT_PORT))),
        data=Path(optional(contract.ENV_DATA, "") or contract.DEFAULT_DATA),
        gateway_url=_gateway_url(needed(contract.ENV_GATEWAY_URL)),
        model=needed(contract.ENV_MODEL),
        embedding_model=optional(contract.ENV_EMBEDDING_MODEL, "text-embedding-3-small"),
        voice=optional(contract.ENV_VOICE, "") or "rms",
        speech_model=optional(contract.ENV_SPEECH_MODEL, "") or "tts-1",
        transcription_model=optional(contract.ENV_TRANSCRIPTION_MODEL, "") or "whisper-1",
        persona=optional(contract.ENV_PERSONA, ""),
        instructions=optional(contract.ENV_INSTRUCTIONS, ""),
        token=needed(contract.ENV_TOKEN),
        service_key=needed(contract.ENV_SERVICE_KEY),
    )


def _port(text: str) -> int:
    if not text.isdecimal() or int(text) > 65_535:
        raise SettingsError(f"{contract.ENV_PORT} must be a port number, 0 for any free one; it is {text!r}")
    return int(text)


def _gateway_url(text: str) -> str:
    parts = urlsplit(text)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise SettingsError(f"{contract.ENV_GATEWAY_URL} must be an http or https address")
    return text.rstrip("/")
