"""Asking a company's API again when it could not answer: a few times, after the pause it asks for or one of our own.

A longer pause than one can wait here is told to who asks: to ask earlier would spend every attempt for nothing.

What may not be done twice is asked again only where certainly nothing was done; who asks says which of both it is.
"""

import random
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from typing import TypeVar

import httpx

from wopr.cloud.compute import CloudError
from wopr.core.retry_after import retry_after_seconds

ATTEMPTS_MAX = 4
PAUSE_SECONDS = 0.5
PAUSE_SECONDS_MAX = 20.0
LONGER_MAX = 1.2  # many callers are told the same moment, and shall not all come in it
Answer = TypeVar("Answer")
Pause = Callable[[float], Awaitable[None]]


async def patiently(ask: Callable[[], Awaitable[Answer]], pause: Pause) -> Answer:
    """The answer of the first attempt that gets one.

    CloudError of the last one, or of one that says not to retry, or not before long, or that it may have been done.
    """
    for attempt in range(1, ATTEMPTS_MAX):
        try:
            return await ask()
        except CloudError as error:
            too_long = (error.retry_after_seconds or 0.0) > PAUSE_SECONDS_MAX
            if not error.retry or error.uncertain or too_long:
                raise
            await pause(_pause_seconds(attempt, error.retry_after_seconds))
    return await ask()


def refuse_unready(company: str, answer: httpx.Response, *, uncertain: bool = False) -> None:
    """CloudError where the company has no time (429) or is broken (5xx); `uncertain`: it may have done it even so."""
    after = retry_after_seconds(answer.headers.get("retry-after"), datetime.now(UTC))
    remedy = "" if after is None else f"Try again in {after:.0f} s."
    if answer.status_code == httpx.codes.TOO_MANY_REQUESTS:
        said = f"{company}'s limit of requests is reached."
        raise CloudError(said, remedy=remedy, retry=True, retry_after_seconds=after)
    if answer.is_server_error:
        said = f"{company} failed with {answer.status_code}."
        raise CloudError(said, remedy=remedy, retry=True, retry_after_seconds=after, uncertain=uncertain)


def _pause_seconds(attempt: int, asked: float | None) -> float:
    if asked is not None:
        return min(asked * random.uniform(1.0, LONGER_MAX), PAUSE_SECONDS_MAX)  # noqa: S311 - keeps callers apart
    longest: float = PAUSE_SECONDS * 2**attempt
    return longest * random.uniform(0.5, 1.0)  # noqa: S311 - only keeps many callers apart
