"""Keeps the certificate of an installation valid: looks now and then, and fetches a new one before the old one ends."""

import asyncio
import random
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

from wopr.cloud import certificate as certificates
from wopr.core.errors import NotConfigured, WoprError
from wopr.core.settings import Settings
from wopr.delivery.certificates import Attempts, authority_of, obtain, read_attempts, stored, wait_seconds, wanted_names
from wopr.delivery.commands import parsed_env
from wopr.delivery.edge import EdgeSettings, edge_settings
from wopr.delivery.place import Place
from wopr.ops.journal import Journal

LOOK_SECONDS = 3600.0
Tell = Callable[[str, str], None]


async def keep(place: Place, settings: Settings, tell: Tell) -> None:
    """Look for ever. The settings are read anew each time, so that a changed token needs no restart."""
    while True:
        try:
            await look(place, settings, tell)
        except WoprError as error:
            tell("failed", f"{error.message} {error.remedy}".strip())
        wait = wait_seconds(_attempts(place), datetime.now(UTC))
        # Apart from each other, so that not everybody's certificate is asked for on the hour.
        await asyncio.sleep((wait or LOOK_SECONDS) * random.uniform(1.0, 1.1))  # noqa: S311


async def look(place: Place, settings: Settings, tell: Tell) -> bool:
    """Fetch a certificate when one is due and the last failure is long enough ago; whether one was fetched."""
    edge = settings_of(place, settings)
    reason = certificates.due(stored(place), wanted_names(edge.require_domain()), datetime.now(UTC))
    if not reason or wait_seconds(_attempts(place), datetime.now(UTC)):
        return False
    await renew(place, settings, reason, tell)
    return True


async def renew(place: Place, settings: Settings, reason: str, tell: Tell) -> None:
    """Fetch a certificate now, journalled with the reason."""
    edge = settings_of(place, settings)
    theirs = _variables(place)
    with Journal(Path(place.dir)).operation("certs.renew", domain=edge.domain, reason=reason) as operation:
        operation.hide(theirs)

        def step(what: str, detail: str) -> None:
            operation.step(what, detail=detail)
            tell(what, detail)

        made = await obtain(place, edge, authority_of(theirs, settings), step)
        operation.outcome.update(until=made.not_after.isoformat(), serial=made.serial)


def settings_of(place: Place, settings: Settings) -> EdgeSettings:
    """What the installation in a folder of this machine says."""
    if not Path(place.env).exists():
        raise NotConfigured(f"{place.env} does not exist.", remedy="wopr deploy --set WOPR_DOMAIN=example.com")
    return edge_settings(_variables(place), settings, place.name)


def _attempts(place: Place) -> Attempts:
    file = Path(place.attempts)
    return read_attempts(file.read_text(encoding="utf-8") if file.exists() else "")


def _variables(place: Place) -> dict[str, str]:
    file = Path(place.env)
    return parsed_env(file.read_text(encoding="utf-8", errors="replace") if file.exists() else "")
