"""Takes a bot through its move to another image, one step a call; which step it is, the planner has said.

Nothing of it is remembered here: the stage stands in the database, and each step may be taken again from its beginning.
"""

import asyncio
from collections.abc import Awaitable, Callable
from datetime import timedelta

import httpx
import structlog

from wopr.bot import contract
from wopr.core.platform import Platform
from wopr.fleet import updates
from wopr.fleet.look import Sight
from wopr.fleet.models import BotUpdate
from wopr.fleet.plan import Action, Stage
from wopr.fleet.runtimes.protocol import Copies, Instance, Runtime, RuntimeFailed

MOVES = (Action.LET_FINISH, Action.COPY, Action.ACCEPT, Action.RESTORE)
ENGINE_AWAY, ENGINE_REFUSED = "engine_away", "engine_refused"
BUSY_POLL_SECONDS = 0.5
BUSY_REQUEST_SECONDS = 2.0

log = structlog.get_logger(__name__)


class Updater:
    """The hands of the reconciler for updates."""

    def __init__(self, platform: Platform, runtime: Runtime, http: httpx.AsyncClient) -> None:
        self._platform = platform
        self._runtime = runtime
        self._http = http

    async def act(self, sight: Sight, action: Action) -> None:
        """Take one step. Raises `RuntimeFailed` where it must be taken again."""
        row, copies = sight.update, self._runtime.copies
        if row is None:
            return
        if copies is None:
            # Another way to run bots was chosen in the middle: what they kept is where only the other one finds it.
            await self._leave(row, Stage(row.stage), "Bots do not run in containers any more.")
        elif action is Action.LET_FINISH:
            await self._let_finish(sight, row)
        elif action is Action.COPY:
            await self._copy(sight, row, copies)
        elif action is Action.ACCEPT:
            await self._accept(row)
        elif action is Action.RESTORE:
            await self._restore(sight, row, copies)

    async def _let_finish(self, sight: Sight, row: BotUpdate) -> None:
        """Fetch the image while the bot goes on; then wait for the end of what it is saying, but not for ever."""
        try:
            await self._runtime.prepare(sight.bot_id, row.image_to)
        except RuntimeFailed as error:
            if error.code == ENGINE_AWAY:
                raise
            await self._leave(row, Stage.WAITING, error.message)
            return
        patience = timedelta(seconds=self._platform.settings.bot_update_wait_seconds)
        hurry = self._platform.clock.now() >= row.began_at + patience
        if not hurry and sight.instance is not None and await self._is_busy(sight.instance):
            await asyncio.sleep(BUSY_POLL_SECONDS)
            return
        async with self._platform.db.begin() as session:
            await updates.advance(session, row.bot_id, Stage.WAITING, Stage.COPYING)

    async def _is_busy(self, instance: Instance) -> bool:
        headers = {"authorization": f"Bearer {instance.token}"}
        try:
            answer = await self._http.get(
                instance.url + contract.ROUTE_TURNS, headers=headers, timeout=BUSY_REQUEST_SECONDS
            )
            return answer.status_code == httpx.codes.OK and contract.TurnsView.from_json(answer.json()).running > 0
        except (httpx.HTTPError, ValueError):  # a bot that doesn't answer says nothing that could be cut off
            return False

    async def _copy(self, sight: Sight, row: BotUpdate, copies: Copies) -> None:
        async with self._platform.db.begin() as session:
            if not await updates.note_copy(session, row.bot_id, sight.bot.generation):
                return
        try:
            await _with_either(row, lambda image: copies.make(sight.bot_id, sight.bot.generation, image))
        except RuntimeFailed as error:
            if error.code == ENGINE_AWAY:
                raise
            await self._leave(row, Stage.COPYING, error.message)
            return
        async with self._platform.db.begin() as session:
            await updates.try_new(session, row)
        log.info("bot.copied", bot_id=str(row.bot_id), image=row.image_to, generation=sight.bot.generation)

    async def _accept(self, row: BotUpdate) -> None:
        keep = timedelta(hours=self._platform.settings.bot_copy_hours)
        async with self._platform.db.begin() as session:
            done = await updates.accept(session, row, self._platform.clock.now() + keep)
        if done:
            log.info("bot.updated", bot_id=str(row.bot_id), image=row.image_to, before=row.image_from)

    async def _restore(self, sight: Sight, row: BotUpdate, copies: Copies) -> None:
        generation = row.copy_generation
        if generation is not None:
            await _with_either(row, lambda image: copies.restore(sight.bot_id, generation, image))
        async with self._platform.db.begin() as session:
            done = await updates.settle_back(session, row, self._platform.clock.now())
        if done:
            log.error("bot.update_failed", bot_id=str(row.bot_id), image=row.image_to, error=row.error)

    async def _leave(self, row: BotUpdate, stage: Stage, error: str) -> None:
        log.error("bot.update_left", bot_id=str(row.bot_id), image=row.image_to, error=error)
        async with self._platform.db.begin() as session:
            await updates.leave(session, row.bot_id, stage, error, self._platform.clock.now() + updates.RETRY_PAUSE)


async def _with_either(row: BotUpdate, copying: Callable[[str], Awaitable[None]]) -> None:
    """Copy with the image that is known to work; with the other one when that is not on the machine any more."""
    try:
        await copying(row.image_from)
    except RuntimeFailed as error:
        if error.code != ENGINE_REFUSED:
            raise
        await copying(row.image_to)
