"""What the commands of `wopr nodes` share: one transaction on the configured database, the journal, the result."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any, TypeVar

from wopr.cli.output import json_document, result

if TYPE_CHECKING:
    from sqlalchemy.ext.asyncio import AsyncSession

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


async def _in_transaction(work: "Work[Result]") -> Result:
    from wopr.core.db import Database
    from wopr.core.settings import database_url, load_settings

    db = Database(database_url(load_settings()), pool_size=2)
    try:
        async with db.begin() as session:
            return await work(session)
    finally:
        await db.dispose()
