"""What a bot's process is told: its own name, character and key, where the gateway is, and nothing of the platform's.

The environment is built from an empty one. Names come from the contract that the bot itself imports.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

from wopr.bot import contract
from wopr.core.ids import BotId
from wopr.fleet.runtimes.protocol import Limits

EMBEDDING_MODEL = "minilm"
SPEECH_MODEL = "flite"
TRANSCRIPTION_MODEL = "whisper-1"
MIB = 1024 * 1024

# An interpreter with its threads reserves far more addresses than it uses memory, hence the distance to 40 MB.
LIMITS: Mapping[str, Limits] = {
    "small": Limits(memory_bytes=768 * MIB, open_files=256, file_bytes=512 * MIB),
    "standard": Limits(memory_bytes=1024 * MIB, open_files=512, file_bytes=1024 * MIB),
    "large": Limits(memory_bytes=2048 * MIB, open_files=1024, file_bytes=4096 * MIB),
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
    """How a bot reaches the platform: one address and one key that is good for nothing else."""

    gateway_url: str
    service_key: str = field(repr=False)


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
        contract.ENV_EMBEDDING_MODEL: EMBEDDING_MODEL,
        contract.ENV_SPEECH_MODEL: SPEECH_MODEL,
        contract.ENV_TRANSCRIPTION_MODEL: TRANSCRIPTION_MODEL,
        contract.ENV_GATEWAY_URL: access.gateway_url,
        contract.ENV_SERVICE_KEY: access.service_key,
    }


def limits_of(size: str) -> Limits:
    """The limits of a size; sizes that the operator added have those of the standard one."""
    return LIMITS.get(size, LIMITS["standard"])
