"""One bot with everything the planner asks about: what is wanted, what is, what its customer may have."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

from sqlalchemy import ARRAY, Uuid, and_, bindparam, func, select, update
from sqlalchemy.ext.asyncio import AsyncSession

from wopr.accounts import keys
from wopr.accounts.principal import Scope
from wopr.core.ids import BotId, TenantId
from wopr.core.notify import notify, notify_all
from wopr.core.settings import Settings
from wopr.core.vault import VaultError
from wopr.fleet import updates
from wopr.fleet.bots import vault_of
from wopr.fleet.changes import STATES_CHANNEL
from wopr.fleet.environment import Access, Character, bot_environment, limits_of
from wopr.fleet.facts import Facts
from wopr.fleet.models import Bot, BotObserved, BotRun, BotUpdate
from wopr.fleet.plan import CRASHES_MAX, Desired, Observed, Plan, State
from wopr.fleet.runs import Run, close_runs, open_run
from wopr.fleet.runtimes.addresses import gateway_url
from wopr.fleet.runtimes.protocol import BotSpec, Ended, Instance


@dataclass(frozen=True)
class Sight:
    """A bot at one moment."""

    bot: Bot
    observed: BotObserved
    update: BotUpdate | None
    instance: Instance | None
    waited_seconds: float = 0.0
    held: str = ""

    @property
    def bot_id(self) -> BotId:
        return BotId(self.bot.id)

    @property
    def facts(self) -> Facts:
        """What the rows say now."""
        bot, seen = self.bot, self.observed
        return Facts(
            bot.id,
            bot.tenant_id,
            bot.desired,
            bot.generation,
            seen.state,
            seen.reason,
            seen.instance_id,
            seen.ready_at,
            seen.crashes,
            image=bot.image,
            stage=self.update.stage if self.update is not None else None,
        )

    @property
    def ready(self) -> bool:
        """Whether the living instance is the one that answered."""
        return self.facts.ready(self.instance)

    @property
    def real(self) -> Observed:
        """What is."""
        return self.facts.real(self.instance, self.waited_seconds, self.held)

    def settled(self, step: Plan) -> bool:
        """Whether nothing is to be done or written."""
        return self.facts.settled(step, self.instance)


async def read(session: AsyncSession, bot_id: UUID) -> tuple[Bot, BotObserved, BotUpdate | None] | None:
    """The rows of a bot that is not gone; the third one only with an update."""
    query = select(Bot, BotObserved, BotUpdate).join(BotObserved, BotObserved.bot_id == Bot.id)
    query = query.outerjoin(BotUpdate, BotUpdate.bot_id == Bot.id)
    return (await session.execute(query.where(Bot.id == bot_id, Bot.deleted_at.is_(None)))).one_or_none()


async def read_all(session: AsyncSession) -> list[Facts]:
    """The facts of every bot that is not gone, in one statement and without an object a row."""
    seen = (BotObserved.state, BotObserved.reason, BotObserved.instance_id, BotObserved.ready_at, BotObserved.crashes)
    query = (
        select(Bot.id, Bot.tenant_id, Bot.desired, Bot.generation, *seen, BotRun.seen_at, Bot.image, BotUpdate.stage)
        .join(BotObserved, BotObserved.bot_id == Bot.id)
        .outerjoin(BotUpdate, BotUpdate.bot_id == Bot.id)
        .outerjoin(BotRun, and_(BotRun.id == BotObserved.instance_id, BotRun.ended_at.is_(None)))
        .where(Bot.deleted_at.is_(None))
    )
    return [Facts._make(row) for row in await session.execute(query)]


async def of_tenant(session: AsyncSession, tenant_id: UUID) -> list[UUID]:
    """The bots of a customer whose standing changed."""
    query = select(Bot.id).where(Bot.tenant_id == tenant_id, Bot.deleted_at.is_(None))
    return list(await session.scalars(query))


async def record_end(session: AsyncSession, sight: Sight, ended: Ended | None) -> bool:
    """Account for an instance that is gone without our doing; True when it counts as a crash.

    What ended while nobody watched (the machine or the whole platform was stopped) is no crash: it only starts again.
    """
    observed = sight.observed
    lost = observed.instance_id
    if lost is None or (sight.instance is not None and sight.instance.id == lost):
        return False
    observed.instance_id = observed.ready_at = None
    known = ended is not None and ended.instance_id == lost
    if ended is not None and known:
        add_crash(observed, ended.at, ended.reason)
        if sight.update is not None and not ended.machine:
            await updates.judge(session, sight.bot.id, ended.reason, ended.at)
            await session.refresh(sight.update)
    await session.flush()
    await close_runs(session, sight.bot.id, None, ended.at if ended is not None and known else None)
    return known


def add_crash(observed: BotObserved, at: datetime, reason: str, to_operators: str | None = None) -> None:
    """Remember a crash for the back-off. Customers read the reason; `to_operators` is what they must not."""
    observed.crashes = [*observed.crashes, at][-CRASHES_MAX:]
    observed.restarts += 1
    observed.last_error, observed.operator_error = reason, to_operators


async def record(session: AsyncSession, sight: Sight, step: Plan, now: datetime) -> None:
    """Write what is seen: the state to show, the living instance, and its run."""
    observed, instance = sight.observed, sight.instance
    if observed.state != step.state.value:
        await notify(session, STATES_CHANNEL, str(sight.bot.id))
    observed.state, observed.reason, observed.updated_at = step.state.value, step.reason, now
    observed.instance_id = instance.id if instance else None
    if instance is None:
        observed.ready_at = None
    await session.flush()
    if instance is not None and step.state is State.RUNNING:
        await open_run(session, Run(instance.id, sight.bot.id, sight.bot.tenant_id, sight.bot.size), now)


async def show(session: AsyncSession, bot_ids: Sequence[UUID], shown: tuple[State, str], now: datetime) -> None:
    """Have the owners of many bots read this state and reason. What is known of the instances stays as it is."""
    state, reason = shown
    changed = await session.scalars(
        update(BotObserved)
        .where(BotObserved.bot_id == func.any(bindparam("ids", list(bot_ids), ARRAY(Uuid))))
        .values(state=state.value, reason=reason, updated_at=now)
        .returning(BotObserved.bot_id)
        .execution_options(synchronize_session=False)
    )
    await notify_all(session, STATES_CHANNEL, [str(bot_id) for bot_id in changed])


async def mark_started(session: AsyncSession, instance: Instance) -> None:
    """The instance was started and has not answered yet."""
    await session.execute(
        update(BotObserved)
        .where(BotObserved.bot_id == instance.bot_id)
        .values(instance_id=instance.id, ready_at=None)
        .execution_options(synchronize_session=False)
    )


async def mark_ready(session: AsyncSession, instance: Instance, now: datetime) -> None:
    """The instance answered."""
    await session.execute(
        update(BotObserved)
        .where(BotObserved.bot_id == instance.bot_id)
        .values(instance_id=instance.id, ready_at=now)
        .execution_options(synchronize_session=False)
    )


async def mark_silent(session: AsyncSession, instance: Instance) -> None:
    """The instance does not answer any more; it must answer again before it counts as ready."""
    await session.execute(
        update(BotObserved)
        .where(BotObserved.bot_id == instance.bot_id, BotObserved.instance_id == instance.id)
        .values(ready_at=None)
        .execution_options(synchronize_session=False)
    )


async def mark_stopped(session: AsyncSession, bot_id: UUID, now: datetime) -> None:
    """We ended the instance, so that its absence is no crash."""
    await session.execute(
        update(BotObserved)
        .where(BotObserved.bot_id == bot_id)
        .values(instance_id=None, ready_at=None)
        .execution_options(synchronize_session=False)
    )
    await close_runs(session, bot_id, None, now)


async def mark_deleted(session: AsyncSession, bot_id: UUID, now: datetime) -> None:
    """Everything the bot kept is gone; of its row only what receipts need stays."""
    await mark_stopped(session, bot_id, now)
    await session.execute(
        update(Bot)
        .where(Bot.id == bot_id, Bot.desired == Desired.DELETED.value)
        .values(deleted_at=now, updated_at=now, persona="", instructions="", service_key=None)
        .execution_options(synchronize_session=False)
    )
    await updates.forget(session, bot_id)


async def spec_of(session: AsyncSession, bot: Bot, settings: Settings) -> BotSpec:
    """How to start the bot. A key that can't be opened any more (another platform secret) is replaced by a new one."""
    secret = await _service_key(session, bot, settings)
    character = Character(BotId(bot.id), bot.name, bot.persona, bot.instructions, bot.model, bot.voice)
    access = Access(
        f"{gateway_url(settings)}/v1",
        secret,
        embedding_model=settings.bot_embedding_model,
        speech_model=settings.bot_speech_model,
        transcription_model=settings.bot_transcription_model,
    )
    environment = bot_environment(character, access)
    return BotSpec(BotId(bot.id), bot.generation, bot.size, limits_of(bot.size), environment)


async def _service_key(session: AsyncSession, bot: Bot, settings: Settings) -> str:
    vault = vault_of(settings)
    if bot.service_key is not None:
        try:
            return vault.open(bot.service_key, bot.id.bytes)
        except VaultError:
            await keys.revoke_for_bot(session, BotId(bot.id))
    key = await keys.issue(
        session, TenantId(bot.tenant_id), name=f"bot {bot.name}", scope=Scope.WRITE, bot_id=BotId(bot.id)
    )
    bot.service_key = vault.seal(key.secret, bot.id.bytes)
    await session.flush()
    return key.secret
