"""The rules of double entry, without a database: locked accounts in, rows to write out.

`ledger.py` locks accounts, opens a Book on them, lets it decide, and writes what it collected. Nothing here waits or
fails half-way, so every rule can be tested in microseconds and the model of the property tests is not needed twice.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Literal
from uuid import UUID

from wopr.billing import codes
from wopr.core.errors import Conflict, Invalid, PaymentRequired
from wopr.core.money import NANOS_MAX, show, show_cost

Phase = Literal["immediate", "pending", "posted", "voided", "expired"]


class InsufficientCredit(PaymentRequired):
    """The account can't bear the amount."""

    default_code = "insufficient_credit"


@dataclass(frozen=True)
class Transfer:
    """One movement of `amount` nano-dollars, given its id by the caller: the same id moves money once.

    `pending_id` names the hold that this transfer resolves; `expires_at` ends a hold by itself.
    """

    id: UUID
    debit: str
    credit: str
    amount: int
    kind: str
    reference: str = ""
    description: str = ""
    pending_id: UUID | None = None
    expires_at: datetime | None = None


@dataclass(frozen=True)
class Row:
    """A transfer with what it does: the form in which it is kept."""

    transfer: Transfer
    phase: Phase


@dataclass(frozen=True)
class Hold:
    """A pending transfer that is open."""

    id: UUID
    debit: str
    credit: str
    amount: int
    expires_at: datetime | None = None


@dataclass
class Account:
    """The four running sums of one account, in nano-dollars."""

    code: str
    debits_pending: int = 0
    debits_posted: int = 0
    credits_pending: int = 0
    credits_posted: int = 0

    @property
    def available(self) -> int:
        """Credit free to spend (of a customer's account)."""
        return self.credits_posted - self.debits_posted - self.debits_pending

    @property
    def owed(self) -> int:
        """What is owed (of a debt account)."""
        return self.debits_posted - self.credits_posted - self.credits_pending


@dataclass
class Book:
    """Accounts that this transaction has locked, and the rows that it decided to write."""

    accounts: Mapping[str, Account]
    known: Mapping[UUID, Row] = field(default_factory=dict)
    holds: dict[UUID, Hold] = field(default_factory=dict)
    new: dict[UUID, Row] = field(default_factory=dict)
    changed: set[str] = field(default_factory=set)
    opened: dict[UUID, Hold] = field(default_factory=dict)
    closed: list[UUID] = field(default_factory=list)

    @property
    def rows(self) -> list[Row]:
        """What is to be written, in the order of the decisions."""
        return list(self.new.values())

    def post(self, transfer: Transfer) -> bool:
        """Move at once; False when this id did so before. InsufficientCredit, or Conflict for another content."""
        if self._seen(Row(transfer, "immediate")):
            return False
        self._require(transfer)
        self._account(transfer.debit).debits_posted += transfer.amount
        self._account(transfer.credit).credits_posted += transfer.amount
        self._add(Row(transfer, "immediate"))
        return True

    def hold(self, transfer: Transfer) -> bool:
        """Set the amount aside until it is posted, voided or expired; False when this id did so before."""
        if self._seen(Row(transfer, "pending")):
            return False
        self._require(transfer)
        self._account(transfer.debit).debits_pending += transfer.amount
        self._account(transfer.credit).credits_pending += transfer.amount
        held = Hold(transfer.id, transfer.debit, transfer.credit, transfer.amount, transfer.expires_at)
        self.holds[transfer.id] = held
        self.opened[transfer.id] = held
        self._add(Row(transfer, "pending"))
        return True

    def resolve(self, transfer: Transfer, phase: Literal["posted", "voided", "expired"]) -> bool:
        """Post up to the held amount and free the rest, or free it all. False when this id did so before.

        Conflict when the hold is not open (resolved by another transfer already), Invalid when the amount is more
        than was held.
        """
        if self._seen(Row(transfer, phase)):
            return False
        held = self.holds.get(transfer.pending_id) if transfer.pending_id else None
        if held is None:
            raise Conflict(f"The hold {transfer.pending_id} is not open.", code="hold_closed")
        if not 0 < transfer.amount <= held.amount:
            raise Invalid(f"A hold of {held.amount} can't be resolved with {transfer.amount}.", code="over_hold")
        debit, credit = self._account(held.debit), self._account(held.credit)
        debit.debits_pending -= held.amount
        credit.credits_pending -= held.amount
        if phase == "posted":
            debit.debits_posted += transfer.amount
            credit.credits_posted += transfer.amount
        del self.holds[held.id]
        if self.opened.pop(held.id, None) is None:
            self.closed.append(held.id)
        self._add(Row(replace(transfer, debit=held.debit, credit=held.credit), phase))
        return True

    def _seen(self, row: Row) -> bool:
        earlier = self.known.get(row.transfer.id) or self.new.get(row.transfer.id)
        if earlier is None:
            return False
        if not same_content(earlier, row):
            raise Conflict(
                f"The transfer {row.transfer.id} exists with other content.",
                code="transfer_exists",
                remedy="Use a new id for a new transfer.",
            )
        return True

    def _require(self, transfer: Transfer) -> None:
        if not 0 < transfer.amount <= NANOS_MAX:
            raise Invalid(f"A transfer moves a positive amount, not {transfer.amount}.", code="amount")
        if transfer.debit == transfer.credit:
            raise Invalid("A transfer needs two accounts.", code="accounts")
        account = self._account(transfer.debit)
        if codes.kind_of(transfer.debit) == "customer" and account.available < transfer.amount:
            raise InsufficientCredit(
                f"{show_cost(transfer.amount)} are needed and {show(account.available)} are there.",
                remedy="Add credit under Billing.",
            )
        if codes.kind_of(transfer.credit) == "debt" and self._account(transfer.credit).owed < transfer.amount:
            raise Invalid("A debt can't be overpaid.", code="overpaid")

    def _account(self, code: str) -> Account:
        try:
            return self.accounts[code]
        except KeyError:
            raise Invalid(f"The account {code} was not locked.", code="accounts") from None

    def _add(self, row: Row) -> None:
        self.new[row.transfer.id] = row
        self.changed.update((row.transfer.debit, row.transfer.credit))


def same_content(one: Row, other: Row) -> bool:
    """Whether two rows move the same money for the same reason. Wording and accounts of a resolution may differ."""
    left, right = one.transfer, other.transfer
    same = (one.phase, left.amount, left.pending_id) == (other.phase, right.amount, right.pending_id)
    if left.pending_id is not None:
        return same
    return same and (left.debit, left.credit, left.kind) == (right.debit, right.credit, right.kind)


def accounts_of(transfers: Iterable[Transfer]) -> list[str]:
    """The accounts that the transfers touch, in the one order in which everybody locks them."""
    return sorted({code for transfer in transfers for code in (transfer.debit, transfer.credit)})
