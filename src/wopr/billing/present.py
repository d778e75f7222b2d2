"""From billing's values to the bodies of its routes: nano-dollars become decimal strings here and nowhere else."""

from typing import Any

from wopr.accounts.tenants import TenantView
from wopr.billing import bodies
from wopr.billing.entitlement import Entitlement
from wopr.billing.ledger import Balance
from wopr.billing.prices import ModelPrice, PriceSheet
from wopr.billing.statements import DaySpend, Movement, PlanView
from wopr.core.money import from_cents, to_usd_string


def balance_body(money: Balance) -> bodies.BalanceBody:
    """The balance."""
    return bodies.BalanceBody(
        available_usd=to_usd_string(money.available),
        held_usd=to_usd_string(money.held),
        debt_usd=to_usd_string(money.debt),
    )


def plan_body(plan: PlanView, sheet: PriceSheet) -> bodies.PlanBody:
    """The subscription, with its price."""
    return bodies.PlanBody(
        status=plan.status,
        price_usd=to_usd_string(sheet.plan.price),
        renews_at=plan.renews_at,
        cancels_at=plan.cancels_at,
    )


def entitlement_body(state: Entitlement) -> bodies.EntitlementBody:
    """The stage and the dates of what follows."""
    return bodies.EntitlementBody(
        state=state.state,
        warn_since=state.warn_since,
        suspends_at=state.suspends_at,
        archives_at=state.archives_at,
        deletes_at=state.deletes_at,
    )


def day_body(day: DaySpend) -> bodies.DayBody:
    """One day of spending."""
    return bodies.DayBody(
        date=day.day.isoformat(), inference_usd=to_usd_string(day.inference), runtime_usd=to_usd_string(day.runtime)
    )


def transaction_body(movement: Movement) -> bodies.TransactionBody:
    """One movement, signed."""
    return bodies.TransactionBody(
        id=movement.id,
        created_at=movement.created_at,
        kind=movement.kind,
        description=movement.description,
        amount_usd=to_usd_string(movement.amount),
    )


def usage_body(row: Any) -> bodies.UsageBody:  # a row of usage_records
    """One metered request."""
    fields = {name: getattr(row, name) for name in bodies.UsageBody.model_fields if name != "cost_usd"}
    return bodies.UsageBody(**fields, cost_usd=to_usd_string(row.cost))


def tenant_body(tenant: TenantView, money: Balance) -> bodies.TenantBody:
    """A customer as the operator sees it; debt counts against the credit."""
    return bodies.TenantBody(
        id=tenant.id,
        name=tenant.name,
        owner_email=tenant.owner_email,
        created_at=tenant.created_at,
        suspended=tenant.suspended_at is not None,
        available_usd=to_usd_string(money.available - money.debt),
    )


def prices_body(sheet: PriceSheet) -> bodies.PricesBody:
    """The price sheet without what we pay ourselves."""
    return bodies.PricesBody(
        currency="usd",
        plan=bodies.PlanPriceBody(
            name=sheet.plan.name,
            price_usd=to_usd_string(sheet.plan.price),
            credit_usd=to_usd_string(sheet.plan.credit),
        ),
        topups_usd=[to_usd_string(from_cents(cents)) for cents in sheet.topups_cents],
        topups_cents=list(sheet.topups_cents),
        bots=[bodies.BotPriceBody(size=s, month_usd=to_usd_string(bot.month)) for s, bot in sheet.bots.items()],
        models=[_model_body(model, sheet) for model in sheet.models.values()],
    )


def _model_body(model: ModelPrice, sheet: PriceSheet) -> bodies.ModelPriceBody:
    body = bodies.ModelPriceBody(
        name=model.name, kind=model.kind, aliases=[a for a, name in sheet.aliases.items() if name == model.name]
    )
    if model.kind in ("chat", "embedding"):
        body.prompt_per_million_usd = to_usd_string(model.price.prompt)
    if model.kind == "chat":
        body.completion_per_million_usd = to_usd_string(model.price.completion)
    if model.kind == "speech":
        body.per_million_characters_usd = to_usd_string(model.price.unit)
    if model.kind == "transcription":
        body.per_minute_usd = to_usd_string(model.price.unit)
    return body
