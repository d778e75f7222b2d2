"""Gives an installation a new secret of its own, so that what was signed or sealed with the old one stays valid."""

import secrets
from dataclasses import dataclass

from wopr.core.errors import Invalid
from wopr.delivery.commands import parsed_env
from wopr.delivery.hosts import Host
from wopr.delivery.lock import Waiting, hold
from wopr.delivery.place import Place
from wopr.delivery.setup import SECRET_BYTES, with_settings
from wopr.ops.journal import Journal

# Whether the old ones stay behind the new one, by comma: then nobody is signed out and everything can still be opened.
ROTATABLE = {"BETTER_AUTH_SECRET": True, "PLATFORM_SECRET": True, "GPU_NODE_SECRET": False}


@dataclass(frozen=True)
class Wish:
    """A new value for this secret; with `drop_old` only its old ones are forgotten."""

    name: str
    drop_old: bool = False


@dataclass(frozen=True)
class Rotated:
    """What was done; never a value. `kept` counts the old secrets that are still accepted."""

    name: str
    kept: int
    dropped: int


def turned(old: str, new: str, *, keeps: bool) -> str:
    """The setting with the new secret in front."""
    return ",".join((new, *_parts(old))) if keeps else new


def newest(value: str) -> str:
    """The setting without its old secrets."""
    return next(iter(_parts(value)), "")


def require_rotatable(name: str) -> None:
    """Invalid for a secret that is not ours to make."""
    if name not in ROTATABLE:
        remedy = f"wopr makes {', '.join(ROTATABLE)}; change others where they come from, then in .env."
        raise Invalid(f"{name} is not a secret that wopr can make.", code="not_rotatable", remedy=remedy)


async def rotate(host: Host, place: Place, journal: Journal, wish: Wish, waiting: Waiting | None = None) -> Rotated:
    """Change a secret in `.env`; it takes effect with the next release.

    Invalid for a secret that is not ours to make. Locked while a release runs.
    """
    name, drop_old = wish.name, wish.drop_old
    require_rotatable(name)
    async with hold(host, place, "secrets.rotate", waiting) as fence:
        with journal.operation("secrets.rotate", variable=name, host=host.describe(), drop_old=drop_old) as operation:
            text = (await host.read(place.env) or b"").decode()
            settings = parsed_env(text)
            operation.hide(settings)
            before = settings.get(name, "")
            made = secrets.token_hex(SECRET_BYTES)
            after = newest(before) if drop_old else turned(before, made, keeps=ROTATABLE[name])
            if after != before:
                await fence.write(place.env, with_settings(text, {name: after}).encode())
            kept = len(_parts(after)[1:])
            return Rotated(name, kept, len(set(_parts(before)) - set(_parts(after))))


def _parts(value: str) -> list[str]:
    return [part.strip() for part in value.split(",") if part.strip()]
