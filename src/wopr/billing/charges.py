"""Take money for something that was used already: from the credit, and what it can't bear as a debt."""

from dataclasses import dataclass
from uuid import UUID, uuid5

from wopr.billing import codes
from wopr.billing.book import Book, Transfer


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
