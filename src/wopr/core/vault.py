"""Secrets at rest: sealed with AES-256-GCM under a key derived from PLATFORM_SECRET, bound to the row that holds them.

A sealed value is version (1 byte), id of the key (4), nonce (12), ciphertext. `context` names the row and is
authenticated: a value copied into another row does not open. PLATFORM_SECRET may list several secrets by comma: the
first seals, all open.
"""

import hashlib
import os

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

VERSION = b"\x01"
KEY_ID_BYTES = 4
NONCE_BYTES = 12


class VaultError(Exception):
    """A sealed value can't be opened: another platform secret, another row, or damage."""


class Vault:
    """Seals and opens for one `purpose`, so that values of one table mean nothing in another."""

    def __init__(self, platform_secret: str, purpose: str) -> None:
        secrets = [part.strip() for part in platform_secret.split(",") if part.strip()]
        if not secrets:
            raise ValueError("a vault needs a secret")
        keys = [HKDF(SHA256(), 32, salt=None, info=purpose.encode()).derive(secret.encode()) for secret in secrets]
        self._first = _key_id(keys[0])
        self._keys = {_key_id(key): AESGCM(key) for key in keys}

    def seal(self, secret: str, context: bytes) -> bytes:
        """The secret as it may be stored; each call gives another value."""
        return self.seal_bytes(secret.encode(), context)

    def open(self, sealed: bytes, context: bytes) -> str:
        """The secret; raises `VaultError`."""
        return self.open_bytes(sealed, context).decode()

    def seal_bytes(self, plain: bytes, context: bytes) -> bytes:
        """Any bytes as they may be stored."""
        nonce = os.urandom(NONCE_BYTES)
        return VERSION + self._first + nonce + self._keys[self._first].encrypt(nonce, plain, context)

    def open_bytes(self, sealed: bytes, context: bytes) -> bytes:
        """What `seal_bytes` was given; raises `VaultError`."""
        key = self._keys.get(sealed[1 : 1 + KEY_ID_BYTES])
        if sealed[:1] != VERSION or key is None:
            raise VaultError("sealed with a secret that is not among the present ones")
        start = 1 + KEY_ID_BYTES
        try:
            return key.decrypt(sealed[start : start + NONCE_BYTES], sealed[start + NONCE_BYTES :], context)
        except (InvalidTag, ValueError) as error:
            raise VaultError("damaged, or sealed for another row") from error


def _key_id(key: bytes) -> bytes:
    return hashlib.sha256(b"key id" + key).digest()[:KEY_ID_BYTES]
