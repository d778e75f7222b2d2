"""Looks at one service: does it answer `/health`, and, now and then, does it do its work?

Silence is judged with care, because busy looks like hung: whoever does not answer a cheap request is asked for its
counters twice, and the gateways' running requests are looked at. Only who does nothing at all counts as hung.
"""

import asyncio
import contextlib
import json
import struct
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

from wopr.inference.checks import Wrong, headers_of, request_of, size_of
from wopr.inference.nodes import Backend
from wopr.inference.sights import Check, Look, Memory, Trouble, told
from wopr.inference.wire import Ask, Reply, Unreachable, ask

HEALTH_SECONDS_MAX = 3.0
# A check is late after four times what it usually takes, but not before this; the first one may warm up an engine.
CHECK_SECONDS_LEAST = 2.5
CHECK_SECONDS_FIRST = 30.0
LATE_TIMES = 4.0
# Between the two looks at the counters of a service that is late.
VITALS_APART_SECONDS = 1.5
VITALS_SECONDS_MAX = 1.0
# With requests running that show no progress, as long a silence is work: a long prompt, a long recording.
WORK_SECONDS_MAX = 60.0
# Counters of these programs count work. Others' may count time, which goes on in a process that hangs.
COUNTERS = ("llamacpp:", "wopr_engine_", "vllm:")
# Requests that it works on, and those that wait for their turn as ours does.
OPEN_REQUESTS = ("requests_running", "requests_processing", "requests_waiting", "requests_deferred")
MODELS_MAX = 100
NAME_LENGTH_MAX = 128
ERROR_LENGTH_MAX = 300
SPEECH_SERVICE = "chatterbox"


@dataclass(frozen=True)
class Wish:
    """What a look is to find out, and what is known from elsewhere; that may change while the look lasts."""

    ask_models: bool = False
    check: bool = False
    usual_seconds: float | None = None  # of a check, when there was one
    running: Callable[[], int] = lambda: 0  # customers' requests there
    # For how long none of them got on, and for how long there was no sign of life at all.
    still_seconds: Callable[[], float] = lambda: float("inf")
    silent_seconds: Callable[[], float] = lambda: float("inf")


@dataclass(frozen=True)
class Vitals:
    """What a service counts: work that is done, requests that run or wait there."""

    work: tuple[tuple[str, str], ...]
    running: int


async def look(backend: Backend, memory: Memory, wish: Wish) -> Look:
    """One look. Never raises for what the service does."""
    service = backend.service
    began = time.monotonic()
    try:
        async with asyncio.timeout(HEALTH_SECONDS_MAX):
            health = await ask(Ask(f"{backend.base_url}/health", headers=headers_of(backend)))
    except TimeoutError:
        if _advancing(wish, time.monotonic() - began):
            return Look(service, advancing=True)
        return _silent(service, wish)
    except Unreachable as error:
        return _unreachable(service, error)
    if health.status != 200:
        trouble = {503: Trouble.LOADING, 401: Trouble.DENIED, 403: Trouble.DENIED}.get(health.status, Trouble.SICK)
        return Look(service, trouble, f"/health answered {health.status}")
    models = voices = None
    if wish.ask_models:
        models = await _listed(backend, "/v1/models", "data")
        voices = await _listed(backend, "/v1/audio/voices", "voices") if service == SPEECH_SERVICE else None
    if not wish.check:
        return Look(service, models=models, voices=voices)
    found = await _check(backend, told(memory, models, voices), wish)
    return replace(found, models=models, voices=voices)


def _silent(service: str, wish: Wish) -> Look:
    """Not even /health is answered. An engine that transcribes may hold everything else up for seconds."""
    silent = wish.silent_seconds()
    if wish.running() and silent < WORK_SECONDS_MAX:
        why = f"requests run there, and nothing was heard of it for {silent:.0f} s"
        return Look(service, Trouble.SLOW, why, silent_seconds=silent)
    return Look(service, Trouble.SILENT, f"no answer within {HEALTH_SECONDS_MAX:.0f} s")


async def _check(backend: Backend, memory: Memory, wish: Wish) -> Look:
    """A request, judged. An answer that is wrong, or an error, is asked for once more."""
    found = await _check_once(backend, memory, wish)
    if found.trouble in (Trouble.NONSENSE, Trouble.SICK):
        found = await _check_once(backend, memory, wish)
    return found


async def _check_once(backend: Backend, memory: Memory, wish: Wish) -> Look:
    service, began = backend.service, time.monotonic()
    limit = patience(wish.usual_seconds)
    request = asyncio.ensure_future(ask(request_of(backend, memory)))
    try:
        done, _ = await asyncio.wait([request], timeout=limit)
        if not done and (late := await _late(backend, request, wish, began)) is not None:
            return late
        reply = request.result()
    except Unreachable as error:
        return _unreachable(service, error)
    finally:
        request.cancel()
        with contextlib.suppress(asyncio.CancelledError, Unreachable):
            await request
    if reply.status == 503 and (wish.running() or ((vitals := await _vitals(backend)) and vitals.running)):
        return Look(service, advancing=True)  # its queue is full: it works
    return _judge(service, reply, memory, time.monotonic() - began)


async def _late(backend: Backend, request: "asyncio.Future[Reply]", wish: Wish, began: float) -> Look | None:
    """What it means that no answer came in time; None when it came after all."""
    before = await _vitals(backend)
    done, _ = await asyncio.wait([request], timeout=VITALS_APART_SECONDS)
    if done:
        return None
    after = await _vitals(backend)
    waited = time.monotonic() - began
    if _advancing(wish, waited) or (before and after and before.work != after.work):
        return Look(backend.service, advancing=True)
    silent = wish.silent_seconds()
    # One of those that it says it runs is our own.
    others = wish.running() or (after is not None and after.running > 1)
    if others and silent < WORK_SECONDS_MAX:
        why = f"requests run there, and nothing got on for {silent:.0f} s"
        return Look(backend.service, Trouble.SLOW, why, silent_seconds=silent)
    return Look(backend.service, Trouble.HUNG, f"answers /health, and nothing else within {waited:.1f} s")


def _judge(service: str, reply: Reply, memory: Memory, seconds: float) -> Look:
    status = reply.status
    if status in (401, 403):
        return Look(service, Trouble.DENIED, f"a request was refused with {status}: it does not take our key")
    if status == 429:
        return Look(service, advancing=True)
    if status >= 500:
        return Look(service, Trouble.SICK, f"a request was answered with {status}")
    if status >= 400:
        return Look(service, check=Check(seconds, memory.size))
    try:
        return Look(service, check=Check(seconds, size_of(service, reply.body, memory)))
    except (Wrong, ArithmeticError, struct.error) as error:  # a number beyond all bounds, a header that was cut off
        return Look(service, Trouble.NONSENSE, f"{error}"[:ERROR_LENGTH_MAX])


def patience(usual_seconds: float | None) -> float:
    """For how long the answer to a check may take before it is late."""
    if usual_seconds is None:
        return CHECK_SECONDS_FIRST
    return max(CHECK_SECONDS_LEAST, min(CHECK_SECONDS_FIRST, usual_seconds * LATE_TIMES))


def _advancing(wish: Wish, seconds: float) -> bool:
    """Whether a customer's request got on there while we waited."""
    return wish.still_seconds() <= seconds


async def _vitals(backend: Backend) -> Vitals | None:
    """Its counters; None when it has none, or does not tell them."""
    for path, read in (("/metrics", read_metrics), ("/slots", read_slots)):
        with contextlib.suppress(TimeoutError, Unreachable, ValueError, ArithmeticError, RecursionError):
            async with asyncio.timeout(VITALS_SECONDS_MAX):
                reply = await ask(Ask(f"{backend.base_url}{path}", headers=headers_of(backend)))
            if reply.status == 200 and (vitals := read(reply.body)) is not None:
                return vitals
    return None


def read_metrics(body: bytes) -> Vitals | None:
    """Vitals from Prometheus' text; None when none of its counters is of work."""
    work, running = [], 0.0
    for line in body.decode("utf-8", "replace").splitlines():
        name, _, value = line.rpartition(" ")
        bare = name.partition("{")[0]
        if not bare.startswith(COUNTERS):
            continue
        if bare.endswith(("_total", "_sum")):
            work.append((name, value))
        elif bare.endswith(OPEN_REQUESTS):
            running += float(value)
    return Vitals(tuple(work), int(running)) if work else None


def read_slots(body: bytes) -> Vitals | None:
    """Vitals from llama.cpp's slots: whatever changes in them is work."""
    slots = json.loads(body)
    if not isinstance(slots, list):
        return None
    busy = sum(bool(slot.get("is_processing")) for slot in slots if isinstance(slot, dict))
    return Vitals((("slots", body.decode("utf-8", "replace")),), busy)


async def _listed(backend: Backend, path: str, member: str) -> tuple[str, ...] | None:
    """The names that the service lists; None when it lists none, which makes it no less healthy."""
    try:
        async with asyncio.timeout(HEALTH_SECONDS_MAX):
            answer = await ask(Ask(f"{backend.base_url}{path}", headers=headers_of(backend)))
        listed: Mapping[str, list[object]] = json.loads(answer.body)
        names = [item["id"] if isinstance(item, dict) else item for item in listed[member]]
    except (TimeoutError, Unreachable, ValueError, KeyError, TypeError, RecursionError):
        return None
    return tuple(name for name in names if isinstance(name, str) and 0 < len(name) <= NAME_LENGTH_MAX)[:MODELS_MAX]


def _unreachable(service: str, error: Unreachable) -> Look:
    return Look(service, Trouble.REFUSED if error.refused else Trouble.UNREACHABLE, f"{error}"[:ERROR_LENGTH_MAX])
