"""What a bot's process is told: its own name, character and key, where the gateway is, and nothing of the platform's.

The environment is built from an empty one. Names come from the contract that the bot itself imports.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

from wopr.bot import contract
from wopr.core.ids import BotId
from wopr.fleet.runtimes.protocol import Limits

MIB = 1024 * 1024

GIB = 1024 * MIB

# A bot idles at 40 MB. An interpreter with its threads reserves far more addresses than it uses memory.
LIMITS: Mapping[str, Limits] = {
    "small": Limits(
        memory_bytes=128 * MIB,
        address_bytes=768 * MIB,
        open_files=256,
        file_bytes=512 * MIB,
        data_bytes=1 * GIB,
        cpus=0.5,
        processes=64,
    ),
    "standard": Limits(
        memory_bytes=256 * MIB,
        address_bytes=1 * GIB,
        open_files=512,
        file_bytes=1 * GIB,
        data_bytes=2 * GIB,
        cpus=1.0,
        processes=128,
    ),
    "large": Limits(
        memory_bytes=1 * GIB,
        address_bytes=2 * GIB,
        open_files=1024,
        file_bytes=4 * GIB,
        data_bytes=8 * GIB,
        cpus=2.0,
        processes=256,
    ),
}


@dataclass(frozen=True)
class Character:
    """A bot as it describes itself to the model and to people."""

    bot_id: BotId
    name: str
    persona: str
    instructions: str
    model: str
    voice: str


@dataclass(frozen=True)
class Access:
    """How a bot reaches the platform: one address, one key that is good for nothing else, and what to ask for there."""

    gateway_url: str
    service_key: str = field(repr=False)
    embedding_model: str = "minilm"
    speech_model: str = "flite"
    transcription_model: str = "whisper-1"


def bot_environment(character: Character, access: Access) -> dict[str, str]:
    """Every variable of the process, except those that only its runtime knows (address, data folder, token)."""
    return {
        "PATH": "/usr/local/bin:/usr/bin:/bin",
        "LANG": "C.UTF-8",
        "TZ": "UTC",
        "PYTHONUTF8": "1",
        "PYTHONUNBUFFERED": "1",
        # glibc gives each thread an arena of its own otherwise, which costs an idle bot several megabytes.
        "MALLOC_ARENA_MAX": "2",
        contract.ENV_BOT_ID: str(character.bot_id),
        contract.ENV_NAME: character.name,
        contract.ENV_PERSONA: character.persona,
        contract.ENV_INSTRUCTIONS: character.instructions,
        contract.ENV_MODEL: character.model,
        contract.ENV_VOICE: character.voice,
        contract.ENV_EMBEDDING_MODEL: access.embedding_model,
        contract.ENV_SPEECH_MODEL: access.speech_model,
        contract.ENV_TRANSCRIPTION_MODEL: access.transcription_model,
        contract.ENV_GATEWAY_URL: access.gateway_url,
        contract.ENV_SERVICE_KEY: access.service_key,
    }


def limits_of(size: str) -> Limits:
    """The limits of a size; sizes that the operator added have those of the standard one."""
    return LIMITS.get(size, LIMITS["standard"])
