"""What a bot may be called and what its texts may hold."""

import re
import unicodedata

from wopr.core.errors import Invalid

NAME_CHARACTERS_MAX = 40
PERSONA_CHARACTERS_MAX = 4_000
INSTRUCTIONS_CHARACTERS_MAX = 16_000
MODEL_CHARACTERS_MAX = 120
VOICE_CHARACTERS_MAX = 60
_NAME = re.compile(r"\w[\w .,'’&+()-]*")
_TOKEN = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:/-]*")


def clean_name(name: str) -> str:
    """The name in one spelling: composed characters, single spaces. Invalid when it breaks the rules."""
    cleaned = " ".join(unicodedata.normalize("NFC", name).split())
    if not cleaned:
        raise Invalid("A bot needs a name.", code="invalid_name", remedy="Give it one, such as “Ada”.")
    if len(cleaned) > NAME_CHARACTERS_MAX:
        raise Invalid(
            f"The name has {len(cleaned)} characters.",
            code="invalid_name",
            remedy=f"Use {NAME_CHARACTERS_MAX} at most.",
        )
    if _NAME.fullmatch(cleaned) is None:
        raise Invalid(
            "The name has a character that is not allowed.",
            code="invalid_name",
            remedy="Begin with a letter or digit; use letters, digits, spaces and . , ' & + ( ) -",
        )
    return cleaned


def clean_text(text: str, what: str, characters_max: int) -> str:
    """A text that may become part of a process' environment: limited, and without control characters."""
    cleaned = text.replace("\r\n", "\n").strip()
    if len(cleaned) > characters_max:
        raise Invalid(f"The {what} has {len(cleaned)} characters.", remedy=f"Use {characters_max} at most.")
    if any(unicodedata.category(char) in ("Cc", "Cs") and char not in "\n\t" for char in cleaned):
        raise Invalid(f"The {what} holds control characters.", remedy="Remove them.")
    return cleaned


def clean_token(text: str, what: str, characters_max: int) -> str:
    """The name of a model or a voice."""
    cleaned = text.strip()
    if not 0 < len(cleaned) <= characters_max or _TOKEN.fullmatch(cleaned) is None:
        raise Invalid(f"{text[:60]!r} is not the name of a {what}.", remedy=f"Choose a {what} from the list.")
    return cleaned
