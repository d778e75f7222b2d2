"""Credit in and credit back: payments, refunds, disputes and the operator's grants, as transfers with derived ids.

Every id comes from the id of the payment company's object, so the same fact in any order and any number of times
moves the money once. A payment settles debt first; what can't be taken back from credit becomes debt.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from uuid import NAMESPACE_URL, UUID, uuid5

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncSession

from wopr.billing import codes
from wopr.billing.book import Book, Transfer
from wopr.billing.charges import BALANCE_CHANNEL
from wopr.billing.ledger import open_book, settle_debt, write
from wopr.core.errors import Invalid
from wopr.core.ids import TenantId, new_id
from wopr.core.notify import notify

NAMESPACE = uuid5(NAMESPACE_URL, "https://wopr.bot/ledger")


@dataclass(frozen=True)
class Payment:
    """Money that came: `id` is Stripe's, `paid_cents` what was paid, `granted` the credit for it in nano-dollars."""

    id: str
    tenant_id: TenantId
    kind: str
    payment_intent_id: str | None
    paid_cents: int
    granted: int


@dataclass(frozen=True)
class Reversal:
    """Money that left again, or came back after all (`gone` False). `amount` in nano-dollars of credit."""

    id: str
    kind: str
    tenant_id: TenantId
    amount: int
    gone: bool


async def grant_payment(session: AsyncSession, payment: Payment) -> bool:
    """Credit a payment and settle debt from it; False when it was credited before."""
    tenant = payment.tenant_id
    transfer_id = uuid5(NAMESPACE, f"payment:{payment.id}")
    book = await _open(session, tenant, codes.STRIPE, [transfer_id])
    if transfer_id in book.known:
        return False
    await session.execute(
        text(
            "INSERT INTO stripe_payments (id, tenant_id, kind, payment_intent_id, paid_cents, granted) "
            "VALUES (:id, :tenant, :kind, :intent, :cents, :granted)"
        ),
        {
            "id": payment.id,
            "tenant": tenant,
            "kind": payment.kind,
            "intent": payment.payment_intent_id,
            "cents": payment.paid_cents,
            "granted": payment.granted,
        },
    )
    words = "Subscription" if payment.kind == "subscription" else "Top-up"
    credit = codes.customer(tenant)
    book.post(Transfer(transfer_id, codes.STRIPE, credit, payment.granted, payment.kind, payment.id, words))
    await _finish(session, book, tenant, cause=str(transfer_id))
    return True


async def reverse_payment(session: AsyncSession, reversal: Reversal) -> bool:
    """Bring the ledger to what is true of a refund or dispute now; False when it was so already."""
    key = uuid5(NAMESPACE, f"{reversal.kind}:{reversal.id}")
    from_credit, from_debt, back = uuid5(key, "credit"), uuid5(key, "debt"), uuid5(key, "back")
    book = await _open(session, reversal.tenant_id, codes.STRIPE, [from_credit, from_debt, back])
    taken = sum(book.known[part].transfer.amount for part in (from_credit, from_debt) if part in book.known)
    if reversal.gone == bool(taken) or back in book.known:
        return False
    credit, owing = codes.customer(reversal.tenant_id), codes.debt(reversal.tenant_id)
    words, about = reversal.kind.capitalize(), reversal.id
    if reversal.gone:
        borne = min(reversal.amount, max(book.accounts[credit].available, 0))
        if borne:
            book.post(Transfer(from_credit, credit, codes.STRIPE, borne, reversal.kind, about, words))
        if reversal.amount > borne:
            rest = reversal.amount - borne
            book.post(Transfer(from_debt, owing, codes.STRIPE, rest, reversal.kind, about, words))
    else:
        book.post(Transfer(back, codes.STRIPE, credit, taken, reversal.kind, about, f"{words} returned"))
    await _finish(session, book, reversal.tenant_id, cause=str(back if not reversal.gone else key))
    return True


async def grant_credit(session: AsyncSession, tenant_id: TenantId, amount: int, reason: str) -> UUID:
    """The operator gives (or with a negative amount takes) credit; the transfer's id.

    InsufficientCredit when more is to be taken than is free.
    """
    if amount == 0:
        raise Invalid("Nothing would be granted.", remedy="Give an amount other than zero.")
    transfer_id = new_id()
    book = await _open(session, tenant_id, codes.GRANTS, [transfer_id])
    sides = (codes.GRANTS, codes.customer(tenant_id)) if amount > 0 else (codes.customer(tenant_id), codes.GRANTS)
    if book.post(Transfer(transfer_id, *sides, abs(amount), "grant", "", reason)):
        await _finish(session, book, tenant_id, cause=str(transfer_id))
    return transfer_id


async def _open(session: AsyncSession, tenant_id: TenantId, house: str, ids: Sequence[UUID]) -> Book:
    return await open_book(session, [codes.customer(tenant_id), codes.debt(tenant_id), house], ids=ids)


async def _finish(session: AsyncSession, book: Book, tenant_id: TenantId, cause: str) -> None:
    settle_debt(book, tenant_id, cause)
    await write(session, book)
    await notify(session, BALANCE_CHANNEL, str(tenant_id))
