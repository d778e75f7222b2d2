"""Puts the bot together, serves until a signal, and takes it apart within three seconds."""

import asyncio
import os
import signal
import sqlite3
import time
from collections.abc import Coroutine
from concurrent.futures import ThreadPoolExecutor

from aiohttp import web

from wopr.bot import footprint, turns
from wopr.bot.answer import Means
from wopr.bot.claim import FolderInUse, claimed
from wopr.bot.contract import STOP_SECONDS_MAX
from wopr.bot.database import Database
from wopr.bot.gateway import Gateway
from wopr.bot.log import adopt_library_logs, log
from wopr.bot.readiness import Readiness, watch_gateway
from wopr.bot.remember import remember_forever
from wopr.bot.routes import Routes
from wopr.bot.settings import Settings
from wopr.bot.turn_queue import TurnQueue

DATABASE_FILE = "bot.db"
THREADS_MAX = 2
REST_SECONDS = 30.0
LISTENERS_END_SECONDS = 0.5
KEEPALIVE_SECONDS = 75.0
BACKLOG = 128


def run(settings: Settings) -> int:
    """Serves until SIGTERM or SIGINT; returns the exit code."""
    adopt_library_logs()
    # The terminal or the platform that started the bot may go; the bot stays and is adopted later.
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    os.umask(0o077)  # conversations are nobody else's business
    try:
        with claimed(settings.data):
            return asyncio.run(_serve(settings))
    except FolderInUse as error:
        log("start_failed", "error", error=str(error), fix="stop the other process of this bot, or let it go on")
    except OSError as error:
        log("start_failed", "error", error=str(error), fix="free the port or correct the data folder, then start again")
    except sqlite3.Error as error:
        log("start_failed", "error", error=str(error), fix="restore the data folder from its snapshot")
    return 1


async def _serve(settings: Settings) -> int:
    begun = time.monotonic()
    loop = asyncio.get_running_loop()
    loop.set_default_executor(ThreadPoolExecutor(max_workers=THREADS_MAX, thread_name_prefix="work"))
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)

    readiness, turn_finished = Readiness(), asyncio.Event()
    means = Means(settings, Database(settings.data / DATABASE_FILE), Gateway(settings))
    queue = TurnQueue(means, turn_finished)
    runner = web.AppRunner(
        Routes(means, queue, readiness).application(),
        access_log=None,
        handle_signals=False,
        shutdown_timeout=LISTENERS_END_SECONDS,
        keepalive_timeout=KEEPALIVE_SECONDS,
    )
    try:
        await runner.setup()
        site = web.TCPSite(runner, settings.host, settings.port, backlog=BACKLOG)
        await site.start()
        log("listening", bot_id=settings.bot_id, host=settings.host, port=runner.addresses[0][1])
        await means.database.open()
        interrupted = await means.database.run(turns.interrupt_running, durable=True)
        readiness.database_open = True
        log("started", interrupted_turns=interrupted, start_ms=round((time.monotonic() - begun) * 1000))
        footprint.settle_after_start()
        background = [
            _background(watch_gateway(means.gateway, readiness)),
            _background(remember_forever(means, turn_finished)),
            _background(_rest(queue)),
        ]
        await stop.wait()
        await _stop(queue, readiness, background)
    finally:
        await runner.cleanup()
        await means.gateway.close()
        await means.database.close()
    log("stopped")
    return 0


async def _stop(queue: TurnQueue, readiness: Readiness, background: list[asyncio.Task[None]]) -> None:
    log("stopping")
    readiness.stopping = True
    for task in background:
        task.cancel()
    try:
        async with asyncio.timeout(STOP_SECONDS_MAX - 2 * LISTENERS_END_SECONDS):
            await queue.stop()
            await asyncio.wait(background)
    except TimeoutError:
        log("stop_incomplete", "warning")  # the next start closes what is left as interrupted


async def _rest(queue: TurnQueue) -> None:
    """Gives the memory of finished work back when nothing is under way."""
    finished = queue.finished
    while True:
        await asyncio.sleep(REST_SECONDS)
        if not queue.busy and queue.finished != finished:
            finished = queue.finished
            await asyncio.to_thread(footprint.give_back)


def _background(work: Coroutine[object, object, None]) -> asyncio.Task[None]:
    task = asyncio.create_task(work)
    task.add_done_callback(_report)
    return task


def _report(task: asyncio.Task[None]) -> None:
    error = None if task.cancelled() else task.exception()
    if error is not None:
        log("background_crashed", "error", error=type(error).__name__)
