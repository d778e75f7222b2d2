"""Keeps the memory of an idle bot under 40 MB, since one small machine holds many bots.

Measured on Python 3.11: a bare interpreter 8 MB, aiohttp's server and client 39 MB. Two things come off: OpenSSL
(7 MB), which a bot that reaches its gateway over plain HTTP on the own network never uses, and what the imports left
unused in the C heap (2 to 3 MB).
"""

import contextlib
import ctypes
import gc
import sys

M_ARENA_MAX = -8  # malloc.h


def leave_out_tls(gateway_url: str) -> bool:
    """Keeps OpenSSL out of the process when the gateway is plain HTTP; says whether it did.

    Must run before asyncio or aiohttp are imported. Both run on a Python built without OpenSSL, and None in
    `sys.modules` is how the import system spells "not there".
    """
    if not gateway_url.startswith("http://") or "ssl" in sys.modules:
        return False
    for name in ("ssl", "_ssl", "_hashlib"):
        sys.modules[name] = None  # type: ignore[assignment]
    return True


def share_one_heap() -> None:
    """Lets all threads allocate from one heap: our two or three gain nothing from one each. Only glibc knows it."""
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).mallopt(M_ARENA_MAX, 1)


def settle_after_start() -> None:
    """Takes what start-up left out of the collector's sight and gives unused memory back to the system."""
    gc.collect()
    gc.freeze()
    give_back()


def give_back() -> None:
    """Returns free pages of the C heap to the system. Only glibc needs and has it."""
    gc.collect()
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).malloc_trim(0)
