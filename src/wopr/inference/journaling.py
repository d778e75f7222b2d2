"""Operations of the journal from coroutines: its disk is waited for in a thread."""

import asyncio
import contextlib
import sys
from collections.abc import AsyncIterator

from wopr.core.platform import Platform
from wopr.ops.journal import Journal, Operation


@contextlib.asynccontextmanager
async def journaled(platform: Platform, name: str, /, **data: str | int | None) -> AsyncIterator[Operation]:
    """Record an operation around the block, as `Journal.operation` does."""
    around = Journal(platform.settings.wopr_home).operation(name, **data)
    operation = await asyncio.to_thread(around.__enter__)
    try:
        yield operation
    except BaseException:
        # Shielded: who is cancelled here must still be told of in the journal.
        with contextlib.suppress(BaseException):
            await asyncio.shield(asyncio.to_thread(around.__exit__, *sys.exc_info()))
        raise
    await asyncio.to_thread(around.__exit__, None, None, None)
