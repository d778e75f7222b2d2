"""The account's SSH keys: what a droplet's root lets in."""

import base64
import binascii
import hashlib

from wopr.emulators.digitalocean.errors import invalid, not_found
from wopr.emulators.digitalocean.world import World
from wopr.emulators.documents import Document

_TYPES = ("ssh-ed25519", "ssh-rsa", "ecdsa-sha2-nistp256", "ecdsa-sha2-nistp384", "ecdsa-sha2-nistp521")
_BAD_KEY = "Key invalid, key should be of the format `type key [comment]`"


def add(world: World, body: Document) -> Document:
    """A new key; the same key twice is refused."""
    name, public = body.get("name"), str(body.get("public_key") or "").strip()
    if not name:
        raise invalid("Name can't be blank")
    fingerprint = fingerprint_of(public)
    if world.every("key", fingerprint=fingerprint):
        raise invalid("SSH Key is already in use on your account")
    key: Document = {"object": "key", "id": str(world.number()), "name": str(name), "public_key": public}
    return world.documents.put(key | {"fingerprint": fingerprint, "created": world.now()})


def find(world: World, name: str) -> Document:
    """A key by its number or fingerprint."""
    found = world.documents.get(name, "key") or next(iter(world.every("key", fingerprint=name)), None)
    if found is None:
        raise not_found()
    return found


def chosen(world: World, wanted: object) -> list[str]:
    """The public keys that an order names; one that is too new is unknown still."""
    if not isinstance(wanted, list):
        raise invalid("ssh_keys must be an array.")
    known = world.every("key")
    usable = [key for key in known if world.now() - key["created"] >= world.settings.key_delay_seconds]
    by_name = {name: key["public_key"] for key in usable for name in (key["id"], key["fingerprint"])}
    strange = [str(name) for name in wanted if str(name) not in by_name]
    if strange:
        raise invalid(f"{', '.join(strange)} are invalid key identifiers for Droplet creation.")
    return [by_name[str(name)] for name in wanted]


def rename(world: World, key: Document, body: Document) -> Document:
    """Another name."""
    if not body.get("name"):
        raise invalid("Name can't be blank")
    return world.documents.put(key | {"name": str(body["name"])})


def shown(key: Document) -> Document:
    """A key as the API shows it."""
    answer = {name: key[name] for name in ("name", "public_key", "fingerprint")}
    return {"id": int(key["id"])} | answer


def fingerprint_of(public: str) -> str:
    """The MD5 fingerprint in pairs, which is how DigitalOcean names keys; Refusal for what is none."""
    parts = public.split()
    if len(parts) < 2 or parts[0] not in _TYPES or "\n" in public:
        raise invalid(_BAD_KEY)
    try:
        raw = base64.b64decode(parts[1], validate=True)
    except (binascii.Error, ValueError):
        raise invalid(_BAD_KEY) from None
    digest = hashlib.md5(raw, usedforsecurity=False).hexdigest()
    return ":".join(digest[i : i + 2] for i in range(0, len(digest), 2))
