"""What customers want of their bots: create, change, start, stop, delete. Only the desired state is written here.

Every change is told on `wopr_bots` with the bot's id, when and only when its transaction commits.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from uuid import UUID

from sqlalchemy import Select, func, select, text, update
from sqlalchemy.ext.asyncio import AsyncSession

from wopr.accounts import keys
from wopr.accounts.principal import Principal, Scope
from wopr.billing.prices import load_prices
from wopr.core.errors import Conflict, Forbidden, NotFound
from wopr.core.ids import BotId, TenantId, new_id
from wopr.core.money import Nanos
from wopr.core.notify import notify
from wopr.core.settings import Settings
from wopr.core.vault import Vault
from wopr.fleet import names
from wopr.fleet.choices import NO_CHOICES, Choices, refuse_unknown
from wopr.fleet.models import Bot, BotObserved
from wopr.fleet.plan import Channel, Desired, State
from wopr.fleet.standing import require_credit
from wopr.fleet.templates import DEFAULT_VOICE, template_of

BOTS_CHANNEL = "wopr_bots"
SIZE_DEFAULT = "standard"
PAGE_MAX = 200


@dataclass(frozen=True)
class Wishes:
    """What a customer says about a bot; None: nothing."""

    name: str | None = None
    template: str | None = None
    persona: str | None = None
    instructions: str | None = None
    model: str | None = None
    voice: str | None = None
    size: str | None = None


@dataclass(frozen=True)
class BotView:
    """A bot as its owners see it: what is wanted and what is."""

    id: UUID
    tenant_id: UUID
    name: str
    template: str | None
    persona: str
    instructions: str
    model: str
    voice: str
    size: str
    generation: int
    desired: Desired
    state: State
    reason: str
    restarts: int
    last_error: str | None
    operator_error: str | None
    created_at: datetime
    updated_at: datetime
    started_at: datetime | None
    price_month: Nanos
    channel: Channel
    image: str | None


@dataclass(frozen=True)
class Asking:
    """Who asks, under which settings, when, and what there is to choose from."""

    principal: Principal
    settings: Settings
    now: datetime
    choices: Choices = NO_CHOICES


async def create(session: AsyncSession, asking: Asking, wishes: Wishes) -> BotView:
    """A new bot that shall run.

    Forbidden without a verified address, PaymentRequired without credit, Conflict over the limit or for a taken name,
    Invalid for a model, voice, size or template that does not exist.
    """
    tenant_id = asking.principal.tenant_id
    await _require_standing(session, asking)
    fields = _clean(_from_template(wishes, asking))
    refuse_unknown(asking.choices, asking.settings, model=wishes.model, voice=wishes.voice, size=wishes.size)
    await _lock_names(session, tenant_id)
    await _require_room(session, tenant_id, asking.settings.bots_max)
    await _require_free_name(session, tenant_id, fields["name"], None)
    bot_id = new_id()
    key = await keys.issue(session, tenant_id, name=f"bot {fields['name']}", scope=Scope.WRITE, bot_id=BotId(bot_id))
    sealed = vault_of(asking.settings).seal(key.secret, bot_id.bytes)
    bot = Bot(
        id=bot_id,
        tenant_id=tenant_id,
        template=wishes.template,
        service_key=sealed,
        created_at=asking.now,
        updated_at=asking.now,
        **fields,
    )
    session.add(bot)
    await session.flush()
    session.add(BotObserved(bot_id=bot_id, state=State.STARTING.value))
    await session.flush()
    await notify(session, BOTS_CHANNEL, str(bot_id))
    return await get(session, asking.settings, tenant_id, bot_id)


async def change(session: AsyncSession, asking: Asking, bot_id: UUID, wishes: Wishes) -> BotView:
    """Change what was said; a running bot restarts to learn of it. Nothing changes when nothing differs."""
    tenant_id = asking.principal.tenant_id
    await _lock_names(session, tenant_id)
    bot = await _own(session, tenant_id, bot_id)
    said = replace(
        Wishes(bot.name, None, bot.persona, bot.instructions, bot.model, bot.voice, bot.size),
        **{name: value for name, value in vars(wishes).items() if value is not None and name != "template"},
    )
    fields = _clean(said)
    changed = {name: value for name, value in fields.items() if getattr(bot, name) != value}
    refuse_unknown(asking.choices, asking.settings, **{name: changed.get(name) for name in ("model", "voice", "size")})
    if changed:
        await _require_free_name(session, tenant_id, fields["name"], bot_id)
        for name, value in changed.items():
            setattr(bot, name, value)
        await _touch(session, bot, asking.now, generation=True)
    return await get(session, asking.settings, tenant_id, bot_id)


async def start(session: AsyncSession, asking: Asking, bot_id: UUID, *, again: bool = False) -> BotView:
    """Want it running, and forget its crashes; with `again` a running one is replaced by a fresh process."""
    bot = await _own(session, asking.principal.tenant_id, bot_id)
    await _require_standing(session, asking)
    bot.desired = Desired.RUNNING.value
    await session.execute(
        update(BotObserved)
        .where(BotObserved.bot_id == bot_id)
        .values(crashes=[], last_error=None, operator_error=None)
        .execution_options(synchronize_session=False)
    )
    await _touch(session, bot, asking.now, generation=again)
    return await get(session, asking.settings, asking.principal.tenant_id, bot_id)


async def stop(session: AsyncSession, asking: Asking, bot_id: UUID) -> BotView:
    """Want it stopped: it keeps its memory and costs nothing."""
    bot = await _own(session, asking.principal.tenant_id, bot_id)
    bot.desired = Desired.STOPPED.value
    await _touch(session, bot, asking.now, generation=False)
    return await get(session, asking.settings, asking.principal.tenant_id, bot_id)


async def delete(session: AsyncSession, asking: Asking, bot_id: UUID) -> None:
    """Want it gone with everything it kept. Its key is refused from now on; its name is free at once."""
    await want_gone(session, await _own(session, asking.principal.tenant_id, bot_id), asking.now)


async def want_gone(session: AsyncSession, bot: Bot, now: datetime) -> None:
    """What deleting means, whoever decided it: the key is refused from now on, the reconciler removes the rest."""
    bot.desired = Desired.DELETED.value
    bot.service_key = None
    await keys.revoke_for_bot(session, BotId(bot.id))
    await _touch(session, bot, now, generation=False)


async def get(session: AsyncSession, settings: Settings, tenant_id: TenantId, bot_id: UUID) -> BotView:
    """One bot of the tenant; NotFound for others and for those that are gone."""
    row = (
        await session.execute(
            _living().where(Bot.id == bot_id, Bot.tenant_id == tenant_id).execution_options(populate_existing=True)
        )
    ).one_or_none()
    if row is None:
        raise _missing()
    return _view(*row, settings)


async def list_own(session: AsyncSession, settings: Settings, tenant_id: TenantId) -> Sequence[BotView]:
    """Every bot of the tenant, oldest first, those that are being deleted included."""
    rows = await session.execute(_living().where(Bot.tenant_id == tenant_id).order_by(Bot.id))
    return [_view(*row, settings) for row in rows]


async def list_all(session: AsyncSession, settings: Settings, cursor: UUID | None, limit: int) -> Sequence[BotView]:
    """Bots of all tenants, newest first, for administrators."""
    query = _living().order_by(Bot.id.desc()).limit(min(limit, PAGE_MAX))
    if cursor is not None:
        query = query.where(Bot.id < cursor)
    return [_view(*row, settings) for row in (await session.execute(query))]


def shown_state(desired: Desired, state: State, reason: str) -> State:
    """The observed state as it makes sense beside what is wanted now, before the reconciler has looked again.

    One that is wanted and is being stopped for a reason is being suspended; without one it was stopped by hand before.
    """
    if desired is Desired.DELETED:
        return State.DELETING
    alive = state in (State.RUNNING, State.STARTING)
    if desired is Desired.STOPPED and alive:
        return State.STOPPING
    if desired is Desired.RUNNING and (state is State.STOPPED or (state is State.STOPPING and not reason)):
        return State.STARTING
    return state


def vault_of(settings: Settings) -> Vault:
    """The vault of bots' service keys; NotConfigured without PLATFORM_SECRET."""
    return Vault(settings.require("platform_secret", "Running bots"), "wopr bots service keys")


async def _require_standing(session: AsyncSession, asking: Asking) -> None:
    if not asking.principal.email_verified:
        raise Forbidden(
            "The e-mail address is not verified yet.",
            code="email_unverified",
            remedy="Open the link in our mail, or ask for a new one on the account page.",
        )
    await require_credit(session, asking.principal.tenant_id, asking.settings, asking.now)


async def _require_room(session: AsyncSession, tenant_id: UUID, bots_max: int) -> None:
    count = await session.scalar(
        select(func.count()).where(Bot.tenant_id == tenant_id, Bot.desired != Desired.DELETED.value)
    )
    if (count or 0) >= bots_max:
        raise Conflict(
            f"The account has {count} bots, and {bots_max} is the most it may have.",
            code="too_many_bots",
            remedy="Delete one that is no longer needed.",
        )


async def _require_free_name(session: AsyncSession, tenant_id: UUID, name: str, own_id: UUID | None) -> None:
    holder = await session.scalar(
        select(Bot.id).where(
            Bot.tenant_id == tenant_id,
            func.lower(Bot.name) == func.lower(name),
            Bot.desired != Desired.DELETED.value,
        )
    )
    if holder is not None and holder != own_id:
        raise Conflict(f"There is a bot named {name} already.", code="name_taken", remedy="Choose another name.")


async def _lock_names(session: AsyncSession, tenant_id: UUID) -> None:
    # Counting and naming of one tenant take turns, so that two requests at once can't pass the same check.
    await session.execute(
        text("SELECT pg_advisory_xact_lock(hashtextextended(:name, 0))"), {"name": f"bots:{tenant_id}"}
    )


async def _own(session: AsyncSession, tenant_id: UUID, bot_id: UUID) -> Bot:
    query = select(Bot).where(Bot.id == bot_id, Bot.tenant_id == tenant_id, Bot.deleted_at.is_(None))
    bot = await session.scalar(query.with_for_update())
    if bot is None or bot.desired == Desired.DELETED.value:
        raise _missing()
    return bot


async def _touch(session: AsyncSession, bot: Bot, now: datetime, *, generation: bool) -> None:
    bot.updated_at = now
    if generation:
        bot.generation += 1
        # Until the reconciler has looked, "running" would be said of a process that is about to be replaced.
        await session.execute(
            update(BotObserved)
            .where(BotObserved.bot_id == bot.id, BotObserved.state == State.RUNNING.value)
            .values(state=State.STARTING.value)
            .execution_options(synchronize_session=False)
        )
    await session.flush()
    await notify(session, BOTS_CHANNEL, str(bot.id))


def _from_template(wishes: Wishes, asking: Asking) -> Wishes:
    template = template_of(wishes.template) if wishes.template else None
    return Wishes(
        name=wishes.name or (template.name if template else ""),
        persona=wishes.persona if wishes.persona is not None else (template.persona if template else ""),
        instructions=wishes.instructions
        if wishes.instructions is not None
        else (template.instructions if template else ""),
        model=wishes.model or asking.settings.bot_model,
        voice=wishes.voice or asking.choices.voice_or_another(template.voice if template else DEFAULT_VOICE),
        size=wishes.size or SIZE_DEFAULT,
    )


def _clean(wishes: Wishes) -> dict[str, str]:
    return {
        "name": names.clean_name(wishes.name or ""),
        "persona": names.clean_text(wishes.persona or "", "persona", names.PERSONA_CHARACTERS_MAX),
        "instructions": names.clean_text(wishes.instructions or "", "instructions", names.INSTRUCTIONS_CHARACTERS_MAX),
        "model": names.clean_token(wishes.model or "", "model", names.MODEL_CHARACTERS_MAX),
        "voice": names.clean_token(wishes.voice or "", "voice", names.VOICE_CHARACTERS_MAX),
        "size": wishes.size or SIZE_DEFAULT,
    }


def _living() -> Select[Bot, BotObserved]:
    return select(Bot, BotObserved).join(BotObserved, BotObserved.bot_id == Bot.id).where(Bot.deleted_at.is_(None))


def _view(bot: Bot, observed: BotObserved, settings: Settings) -> BotView:
    prices = load_prices(settings.wopr_prices)
    desired = Desired(bot.desired)
    state = shown_state(desired, State(observed.state), observed.reason)
    size = bot.size if bot.size in prices.bots else SIZE_DEFAULT
    return BotView(
        id=bot.id,
        tenant_id=bot.tenant_id,
        name=bot.name,
        template=bot.template,
        persona=bot.persona,
        instructions=bot.instructions,
        model=bot.model,
        voice=bot.voice,
        size=bot.size,
        generation=bot.generation,
        desired=desired,
        state=state,
        reason=observed.reason,
        restarts=observed.restarts,
        last_error=observed.last_error,
        operator_error=observed.operator_error,
        created_at=bot.created_at,
        updated_at=bot.updated_at,
        started_at=observed.ready_at if state is State.RUNNING else None,
        price_month=prices.bot_month(size),
        channel=Channel(bot.channel),
        image=bot.image,
    )


def _missing() -> NotFound:
    return NotFound("There is no such bot.", code="bot_not_found", remedy="Look at your list of bots.")
