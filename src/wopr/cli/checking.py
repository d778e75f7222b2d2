"""Which checks belong to what is checked: this machine as `wopr up` runs it, or an installation in a folder of a host.

What needs the database or the platform's code beside its data is looked at where that is: on this machine here, in an
installation inside the API's container, whose own `wopr check` is asked.
"""

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from wopr.cli.installation import DIR, Where

if TYPE_CHECKING:
    from wopr.core.settings import Settings
    from wopr.delivery.hosts import Host
    from wopr.delivery.place import Place
    from wopr.ops.checks import Check, Outcome
    from wopr.ops.journal import Journal

# What the API's container is asked; the rest of its checks are of what is outside of it.
INSIDE = ("database.", "billing.", "inference.", "loops.", "bots.registry")
INSIDE_SECONDS = 40.0


def meant(folder: str, host: str, name: str) -> Where | None:
    """The installation that is meant, or the one of this machine; None where there is none, but `wopr up`."""
    from wopr.core.settings import load_settings

    found = folder or (DIR if host else _folder_here(load_settings().wopr_home))
    return Where(found, host, name) if found else None


async def look(only: str, where: Where | None) -> "Sequence[Outcome]":
    """Every check whose name begins with `only`, of an installation, else of this machine."""
    from wopr.core.settings import load_settings

    settings = load_settings()
    return await (_installation(only, where, settings) if where else _here(only, settings))


def journal_of(where: Where | None) -> "Journal":
    """Where what was found is kept."""
    from wopr.core.settings import load_settings
    from wopr.ops.journal import Journal

    return where.journal() if where else Journal(load_settings().wopr_home)


async def _here(only: str, settings: "Settings") -> "Sequence[Outcome]":
    from wopr.cli.livechecks import LiveChecks
    from wopr.ops.checks import run_checks
    from wopr.ops.journal import Journal
    from wopr.ops.preflight import machine_checks

    live = LiveChecks(settings)
    try:
        every = [*_outside(settings, Journal(settings.wopr_home)), *machine_checks(settings), *live.checks()]
        return await run_checks([check for check in every if check.name.startswith(only)])
    finally:
        await live.close()


async def _installation(only: str, where: Where, ours: "Settings") -> "Sequence[Outcome]":
    from wopr.core.settings_given import settings_of
    from wopr.delivery.checks import checks as environment
    from wopr.delivery.config_checks import checks as configuration
    from wopr.delivery.edge import address_of
    from wopr.delivery.edge_checks import checks as edge
    from wopr.delivery.env_file import read_env
    from wopr.delivery.stack_checks import checks as stack
    from wopr.ops.checks import run_checks
    from wopr.ops.preflight import machine_checks

    host = where.machine()
    try:
        place = await where.place(host)
        theirs = settings_of(read_env(await host.read(place.env) or b"").values, ours.wopr_home)
        every: list[Check] = [*_outside(theirs, where.journal()), *environment(host, place)]
        every += [*configuration(host, place), *stack(host, place), *edge(host, place, ours, address_of(where.host))]
        if not where.host:
            every += machine_checks(ours)
        outcomes = await run_checks([check for check in every if check.name.startswith(only)])
        return [*outcomes, *(await _inside(host, place, only))]
    finally:
        await host.close()


def _outside(settings: "Settings", journal: "Journal") -> "Sequence[Check]":
    """What is asked of settings, records and outside companies, from wherever one looks."""
    from wopr.accounts.checks import checks as mail
    from wopr.billing.checks import checks as payments
    from wopr.delivery.registry_checks import checks as registry
    from wopr.ops.preflight import checks as preflight
    from wopr.ops.record_checks import checks as records

    return [*preflight(settings), *records(journal), *payments(settings), *mail(settings), *registry(settings)]


async def _inside(host: "Host", place: "Place", only: str) -> "Sequence[Outcome]":
    """What the API that serves says of its database, its money, its nodes, its loops and its bots' image."""
    from wopr.core.errors import WoprError
    from wopr.delivery.release import read_state
    from wopr.ops.checks import Finding, Outcome, Verdict, failed

    state = await read_state(host, place)
    if state.active is None or not any(prefix.startswith(only) or only.startswith(prefix) for prefix in INSIDE):
        return []
    api = place.container(f"api-{state.active.slot}")
    try:
        got = await host.run(("docker", "exec", api, "wopr", "check", "--json"), timeout=INSIDE_SECONDS)
        rows = json.loads(got.out)["checks"]
    except (WoprError, ValueError, KeyError) as error:
        finding = failed(f"{api} can't be asked: {error}", f"docker exec {api} wopr check")
        return [Outcome("database.reachable", "PostgreSQL answers", finding)]
    return [
        Outcome(row["name"], row["proves"], Finding(Verdict(row["verdict"]), row["evidence"], row["remedy"]))
        for row in rows
        if row["name"].startswith(INSIDE) and row["name"].startswith(only)
    ]


def _folder_here(home: Path) -> str:
    """The folder on this machine that an installation was released in; empty where there is none."""
    return next((str(folder) for folder in (home, Path(DIR)) if os.access(folder / ".env", os.R_OK)), "")
