"""What the commands of `wopr nodes` share: a transaction on the configured database, the journal, costs, the result."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any, TypeVar

from wopr.cli.output import json_document, result

if TYPE_CHECKING:
    from sqlalchemy.ext.asyncio import AsyncSession

    from wopr.inference.nodes import Node

Result = TypeVar("Result")
Work = Callable[["AsyncSession"], Awaitable[Result]]


def say_result(document: dict[str, Any], text: str, *, as_json: bool) -> None:  # whatever json can write
    """The result, for a program or for a person."""
    if as_json:
        json_document(document)
    else:
        result(text)


def journal(name: str, **data: str) -> Any:  # a context manager of the journal's own type
    """An operation of this installation's journal."""
    from wopr.core.settings import load_settings
    from wopr.ops.journal import Journal

    return Journal(load_settings().wopr_home).operation(name, **data)


def run(work: "Work[Result]") -> Result:
    """Do the work in one transaction on the configured database."""
    return asyncio.run(_in_transaction(work))


def costs(node: "Node") -> dict[str, str]:
    """What the machine of a node costs in an hour, and has cost so far."""
    import time

    from wopr.inference.nodes import cost_so_far

    so_far = cost_so_far(node, int(time.time()))
    return {"hourly_usd": usd(node.making.hourly_cost_nanos), "cost_so_far_usd": usd(so_far)}


def usd(nanos: int) -> str:
    """What a machine costs is told to the cent, rounded up."""
    from wopr.core.money import NANOS_PER_CENT, to_usd_string

    return to_usd_string(-(-nanos // NANOS_PER_CENT) * NANOS_PER_CENT)


async def _in_transaction(work: "Work[Result]") -> Result:
    from wopr.core.database_url import database_url
    from wopr.core.db import Database
    from wopr.core.settings import load_settings

    db = Database(database_url(load_settings()), pool_size=2)
    try:
        async with db.begin() as session:
            return await work(session)
    finally:
        await db.dispose()
