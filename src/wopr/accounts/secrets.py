"""Random secrets and their hashes. They carry 256 bits, so one round of SHA-256 is enough at rest."""

import hashlib
import secrets

SECRET_BYTES = 32


def new_secret() -> str:
    """256 random bits, safe in addresses and headers."""
    return secrets.token_urlsafe(SECRET_BYTES)


def fingerprint(secret: str) -> bytes:
    """What is kept of a secret, and what it is found by."""
    return hashlib.sha256(secret.encode()).digest()
