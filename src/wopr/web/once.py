"""A form that is sent twice does its work once: a double click, a reload of the answer, a browser that tries again.

Each form that is shown holds a mark of its own. The Idempotency-Key is made of the mark and of what was typed, so that
going back, typing something else and sending that is a new wish and no misuse of the key.
"""

import hashlib
import secrets


def new_mark() -> str:
    """For the hidden field `once` of a form that is shown now."""
    return secrets.token_urlsafe(12)


def once_key(mark: str, *typed: str) -> str | None:
    """The Idempotency-Key of a form that came back; None for one that holds no mark."""
    return hashlib.sha256("\0".join((mark, *typed)).encode()).hexdigest() if mark else None
