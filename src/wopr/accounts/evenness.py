"""Answers that take equally long whatever was found, so that nobody learns from the time who has an account."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from wopr.core.clock import Clock

QUANTUM_SECONDS = 0.15


@asynccontextmanager
async def even(clock: Clock) -> AsyncIterator[None]:
    """Stretch the block to a whole multiple of QUANTUM_SECONDS, failures too."""
    started = clock.monotonic()
    try:
        yield
    finally:
        await asyncio.sleep(-(clock.monotonic() - started) % QUANTUM_SECONDS)
