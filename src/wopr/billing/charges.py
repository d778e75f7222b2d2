"""Take money for something that was used already: from the credit, and what it can't bear as a debt."""

from dataclasses import dataclass
from uuid import UUID, uuid5

from sqlalchemy.ext.asyncio import AsyncSession

from wopr.billing import codes
from wopr.billing.book import Book, Transfer
from wopr.core.notify import notify

# Told when a tenant's credit runs out or comes back, so that stages and bots follow at once. The payload is the tenant.
BALANCE_CHANNEL = "wopr_billing"


@dataclass(frozen=True)
class Charge:
    """Nano-dollars that a tenant owes for `source` (inference or runtime); `cause` makes the transfers' ids."""

    cause: UUID
    tenant_id: UUID
    source: str
    amount: int
    reference: str
    description: str


def charge(book: Book, due: Charge) -> int:
    """Post the charge; the part that became debt. The book must hold the tenant's accounts and its revenue's."""
    revenue = codes.revenue(due.source, due.tenant_id)
    credit = book.accounts[codes.customer(due.tenant_id)]
    borne = min(due.amount, max(credit.available, 0))
    if borne > 0:
        transfer_id = uuid5(due.cause, "credit")
        book.post(Transfer(transfer_id, credit.code, revenue, borne, due.source, due.reference, due.description))
    owed = due.amount - borne
    if owed > 0:
        transfer_id, debtor = uuid5(due.cause, "debt"), codes.debt(due.tenant_id)
        book.post(Transfer(transfer_id, debtor, revenue, owed, due.source, due.reference, due.description))
    return owed


def is_out(book: Book, tenant_id: UUID) -> bool:
    """Whether nothing is left: credit, what is held counted in and debt counted off."""
    credit, owing = book.accounts[codes.customer(tenant_id)], book.accounts[codes.debt(tenant_id)]
    return credit.available + credit.debits_pending - owing.owed <= 0


async def tell_when_out(session: AsyncSession, book: Book, tenant_id: UUID, was_out: bool) -> None:
    """Wake whoever follows the balance, at the moment when it ran out and not at every charge after."""
    if not was_out and is_out(book, tenant_id):
        await notify(session, BALANCE_CHANNEL, str(tenant_id))
