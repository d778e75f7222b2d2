"""Passwords: which are accepted, and how they are hashed.

argon2id with the parameters of OWASP's Password Storage Cheat Sheet, in threads so that the event loop goes on, and few
at a time so that a flood of sign-ins can take neither all cores nor all memory.
"""

import asyncio
import functools
import threading
import unicodedata
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from importlib import resources
from typing import TypeVar

from argon2 import PasswordHasher, Type
from argon2.exceptions import InvalidHashError, VerificationError

from wopr.core.errors import Invalid, Unavailable

CHARACTERS_MIN = 12
CHARACTERS_MAX = 256
DIFFERENT_CHARACTERS_MIN = 5
REPEATED_UNIT_CHARACTERS_MAX = 4
SEQUENCE_SHARE_MAX = 0.75
DERIVED_PART_CHARACTERS_MIN = 4
HASHES_AT_ONCE_MAX = 2
HASHES_WAITING_MAX = 64
BUSY_RETRY_SECONDS = 2.0

SEQUENCES = (
    "abcdefghijklmnopqrstuvwxyz",
    "01234567890",
    "qwertyuiop",
    "asdfghjkl",
    "zxcvbnm",
    "qwertzuiop",
    "azertyuiop",
)
LEET = str.maketrans("013457@$!", "oieastasi")
SIGNS = "0123456789 !\"#$%&'()*+,-./:;<=>?@[\\]^_`{|}~"
SEPARATORS = str.maketrans("", "", " -_.,:;/+*#&~|=")

_hasher = PasswordHasher(time_cost=2, memory_cost=19_456, parallelism=1, hash_len=32, salt_len=16, type=Type.ID)
_threads = ThreadPoolExecutor(HASHES_AT_ONCE_MAX, thread_name_prefix="argon2")
_room = threading.BoundedSemaphore(HASHES_WAITING_MAX)
# Compared with when there is no account or no password, so that it takes the same time; nothing hashes to it.
_DECOY = "$argon2id$v=19$m={0.memory_cost},t={0.time_cost},p={0.parallelism}${1}${2}".format(
    _hasher, "A" * 22, "A" * 43
)

Result = TypeVar("Result")


def check_strength(password: str, email: str) -> None:
    """Invalid, with what to do instead, unless the password is long enough and not easily guessed."""
    problem = weakness(password, email)
    if problem:
        raise Invalid(problem, code="weak_password", remedy="Take four or five words that have nothing to do together.")


def weakness(password: str, email: str) -> str | None:
    """Why a password is refused, as a sentence; None when it is fine. Follows NIST SP 800-63B, 5.1.1.2."""
    if len(password) < CHARACTERS_MIN:
        return f"A password needs at least {CHARACTERS_MIN} characters."
    if len(password) > CHARACTERS_MAX:
        return f"A password may have at most {CHARACTERS_MAX} characters."
    plain = unicodedata.normalize("NFKC", password).casefold()
    if plain in _common("passwords") or _is_common(plain):
        return "This password is among the most common ones."
    if len(set(plain)) < DIFFERENT_CHARACTERS_MIN or _is_repetition(plain):
        return "This password repeats the same characters."
    if _sequence_share(plain) > SEQUENCE_SHARE_MAX:
        return "This password is a sequence of the alphabet, of numbers or of the keyboard."
    if _is_derived(plain, email.casefold()):
        return "This password is made from your address."
    return None


async def hash_password(password: str) -> str:
    """The argon2id hash to keep. Unavailable when too many wait already."""
    return await _in_thread(functools.partial(_hasher.hash, _normal(password)))


async def verify_password(kept: str | None, password: str) -> bool:
    """Whether the password belongs to the kept hash; without one it takes as long and is False."""
    matches = await _in_thread(functools.partial(_matches, kept or _DECOY, _normal(password)))
    return matches and kept is not None


def is_outdated(kept: str) -> bool:
    """Whether the hash was made with other parameters than today's."""
    return _hasher.check_needs_rehash(kept)


async def _in_thread(work: Callable[[], Result]) -> Result:
    if not _room.acquire(blocking=False):
        raise Unavailable(
            "Too many people are signing in at this moment.",
            code="busy",
            remedy="Try again in a few seconds.",
            retry_after_seconds=BUSY_RETRY_SECONDS,
        )
    future = _threads.submit(work)
    future.add_done_callback(lambda _: _room.release())
    return await asyncio.wrap_future(future)


def _matches(kept: str, password: str) -> bool:
    try:
        return _hasher.verify(kept, password)
    except (VerificationError, InvalidHashError):
        return False


def _normal(password: str) -> str:
    # The same characters typed on different systems arrive composed differently (NIST SP 800-63B).
    return unicodedata.normalize("NFKC", password[: CHARACTERS_MAX * 2])


@functools.cache
def _common(kind: str) -> frozenset[str]:
    text = (resources.files("wopr.accounts") / "data" / f"common_{kind}.txt").read_text(encoding="utf-8")
    return frozenset(line for line in text.splitlines() if line and not line.startswith("#"))


def _is_common(plain: str) -> bool:
    """Whether a common one is all there is, however often it stands there, but for digits and signs.

    `footballfootball`, `Password1 Password2`, `p-a-s-s-w-o-r-d 2026`.
    """
    compact = plain.translate(SEPARATORS)
    readings = ((compact.translate(LEET), _common("words")), (compact, _common("passwords")))
    return any(
        not _letters_left(compact, reading.replace(known, "\0" * len(known)))
        for reading, common in readings
        for known in common
        if known in reading
    )


def _letters_left(compact: str, rest: str) -> bool:
    return any(left != "\0" and character not in SIGNS for character, left in zip(compact, rest, strict=True))


def _is_repetition(plain: str) -> bool:
    return any(
        plain == (plain[:unit] * len(plain))[: len(plain)] for unit in range(1, REPEATED_UNIT_CHARACTERS_MAX + 1)
    )


def _sequence_share(plain: str) -> float:
    """The share of neighbouring characters that follow each other, forwards or backwards, in a known sequence."""
    follows = sum(
        any(pair in sequence or pair[::-1] in sequence for sequence in SEQUENCES)
        for pair in (plain[i : i + 2] for i in range(len(plain) - 1))
    )
    return follows / (len(plain) - 1)


def _is_derived(plain: str, email: str) -> bool:
    local, _, domain = email.partition("@")
    parts = [email, local, domain, *domain.split(".")[:-1], *local.replace("+", ".").replace("_", ".").split(".")]
    rest = plain
    for part in sorted({part for part in parts if len(part) >= DERIVED_PART_CHARACTERS_MIN}, key=len, reverse=True):
        rest = rest.replace(part, "")
    left = sum(character not in SIGNS for character in rest)
    return rest != plain and left < DERIVED_PART_CHARACTERS_MIN
