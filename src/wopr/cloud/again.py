"""Asking a company's API again when it could not answer: a few times, after the pause it asks for or one with jitter.

Only for what may be done twice without harm; who asks decides that.
"""

import random
from collections.abc import Awaitable, Callable
from typing import TypeVar

import httpx

from wopr.cloud.compute import CloudError

ATTEMPTS_MAX = 4
PAUSE_SECONDS = 0.5
PAUSE_SECONDS_MAX = 20.0
Answer = TypeVar("Answer")
Pause = Callable[[float], Awaitable[None]]


async def patiently(ask: Callable[[], Awaitable[Answer]], pause: Pause) -> Answer:
    """The answer of the first attempt that gets one; CloudError of the last one, or of one that says not to retry."""
    for attempt in range(1, ATTEMPTS_MAX):
        try:
            return await ask()
        except CloudError as error:
            if not error.retry:
                raise
            await pause(_pause_seconds(attempt, error.retry_after_seconds))
    return await ask()


def refuse_unready(company: str, answer: httpx.Response, *, uncertain: bool = False) -> None:
    """CloudError where the company has no time (429) or is broken (5xx); `uncertain`: it may have done it even so."""
    after = _retry_after(answer)
    if answer.status_code == httpx.codes.TOO_MANY_REQUESTS:
        raise CloudError(f"{company}'s limit of requests is reached.", retry=True, retry_after_seconds=after)
    if answer.is_server_error:
        said = f"{company} failed with {answer.status_code}."
        raise CloudError(said, retry=True, retry_after_seconds=after, uncertain=uncertain)


def _pause_seconds(attempt: int, asked: float | None) -> float:
    if asked is not None:
        return min(asked, PAUSE_SECONDS_MAX)
    longest: float = PAUSE_SECONDS * 2**attempt
    return longest * random.uniform(0.5, 1.0)  # noqa: S311 - only keeps many callers apart


def _retry_after(answer: httpx.Response) -> float | None:
    value = answer.headers.get("retry-after", "")
    return float(value) if value.isdigit() else None
