"""Refunds and disputes: money that goes back to the customer, asked for by us or by the customer's bank."""

from typing import Literal

from wopr.emulators.documents import Document
from wopr.emulators.stripe.calls import PAGE, Call, Endpoint, listing, retrieve
from wopr.emulators.stripe.catalog import merged_metadata
from wopr.emulators.stripe.errors import invalid, missing_parameter
from wopr.emulators.stripe.payments import book
from wopr.emulators.stripe.wire import BOOLEAN, METADATA, NOT_EMULATED, TEXT, Shape, choice, hash_of
from wopr.emulators.stripe.world import World

_REASONS = ("duplicate", "fraudulent", "requested_by_customer")
_DISPUTE_FEE_CENTS = 1500
_EVIDENCE_DAYS = 7
_OPEN = ("needs_response", "under_review", "warning_needs_response")


def refund_charge(
    world: World, charge: Document, amount: int | None, reason: str | None, metadata: dict[str, str] | None = None
) -> Document:
    """Give back `amount` cents of a charge, or all that is left; StripeError when that can't be."""
    left = charge["amount_captured"] - charge["amount_refunded"]
    if not charge["paid"]:
        raise invalid(f"Charge {charge['id']} was not successful, so it can't be refunded.", "charge")
    if charge["disputed"]:
        raise invalid(
            f"Charge {charge['id']} has been charged back; cannot issue a refund.", "charge", "charge_disputed"
        )
    if left == 0:
        raise invalid(f"Charge {charge['id']} has already been refunded.", "charge", "charge_already_refunded")
    wanted = left if amount is None else amount
    if wanted > left:
        message = f"Refund amount ({_dollars(wanted)}) is greater than unrefunded amount on charge ({_dollars(left)})"
        raise invalid(message, "amount")
    refund = world.new(
        "refund",
        "re_3",
        amount=wanted,
        charge=charge["id"],
        currency=charge["currency"],
        payment_intent=charge["payment_intent"],
        reason=reason,
        metadata=metadata or {},
        destination_details={
            "type": "card",
            "card": {"type": "refund", "reference_status": "pending", "reference_type": "acquirer_reference_number"},
        },
    )
    refund["created"] = world.now(charge["customer"])
    refund["balance_transaction"] = book(world, "refund", -wanted, refund | {"customer": charge["customer"]})["id"]
    refunded = charge["amount_refunded"] + wanted
    changed = charge | {"amount_refunded": refunded, "refunded": refunded == charge["amount"]}
    world.save(refund)
    world.save(changed)
    world.emit("refund.created", refund)
    world.emit("charge.refunded", changed, charge)
    return refund


def open_dispute(world: World, charge: Document, reason: str = "fraudulent") -> Document:
    """The customer's bank takes a charge back until the dispute is decided."""
    if charge["disputed"]:
        raise invalid(f"Charge {charge['id']} is disputed already.", "charge")
    if charge["amount_refunded"] == charge["amount"] or not charge["paid"]:
        raise invalid(f"Charge {charge['id']} holds no money that could be disputed.", "charge")
    now = world.now(charge["customer"])
    card = charge["payment_method_details"]["card"]
    dispute = world.new(
        "dispute",
        "du_1",
        amount=charge["amount"] - charge["amount_refunded"],
        charge=charge["id"],
        currency=charge["currency"],
        payment_intent=charge["payment_intent"],
        reason=reason,
        evidence_details={
            "due_by": now + _EVIDENCE_DAYS * 86400,
            "enhanced_eligibility": {},
            "has_evidence": False,
            "past_due": False,
            "submission_count": 0,
            "submission_method": "not_submitted",
        },
        payment_method_details={
            "type": "card",
            "card": {"brand": card["brand"], "case_type": "chargeback", "network_reason_code": "10.4"},
        },
    )
    dispute["created"] = now
    changed = charge | {"disputed": True}
    world.save(changed)
    world.emit("charge.dispute.created", world.save(dispute))
    entry = book(
        world, "adjustment", -dispute["amount"], dispute | {"customer": charge["customer"]}, _DISPUTE_FEE_CENTS
    )
    dispute["balance_transactions"] = [entry]
    world.emit("charge.dispute.funds_withdrawn", world.save(dispute))
    return dispute


def close_dispute(world: World, dispute: Document, outcome: Literal["won", "lost"]) -> Document:
    """The bank's decision: won gives the money back to us, lost leaves it with the customer."""
    if dispute["status"] not in _OPEN:
        raise invalid(f"This dispute is already closed ({dispute['status']}).", "id")
    closed = dispute | {"status": outcome}
    if outcome == "won":
        entry = book(world, "adjustment", dispute["amount"], dispute)
        closed["balance_transactions"] = [*dispute["balance_transactions"], entry]
        world.emit("charge.dispute.funds_reinstated", closed, dispute)
    world.save(closed)
    world.emit("charge.dispute.closed", closed, dispute)
    return closed


def _create(world: World, call: Call) -> Document:
    charge_id = call.get("charge")
    if call.get("payment_intent"):
        intent = world.load("payment_intent", call.get("payment_intent"), "payment_intent", 400)
        if charge_id and charge_id != intent["latest_charge"]:
            raise invalid("The charge does not belong to the payment intent.", "charge")
        charge_id = intent["latest_charge"]
        if intent["status"] != "succeeded":
            raise invalid(
                f"This PaymentIntent ({intent['id']}) does not have a successful charge to refund.", "payment_intent"
            )
    if not charge_id:
        raise missing_parameter("payment_intent")
    charge = world.load("charge", charge_id, "charge", 400)
    return refund_charge(world, charge, call.get("amount"), call.get("reason"), call.get("metadata"))


def _update_refund(world: World, call: Call) -> Document:
    before = world.load("refund", call.id)
    refund = before | {"metadata": merged_metadata(before["metadata"], call.params.get("metadata"))}
    world.emit("refund.updated", refund, before)
    return world.save(refund)


def _update_dispute(world: World, call: Call) -> Document:
    """Evidence; Stripe's documented test texts decide: `winning_evidence` wins, `losing_evidence` loses."""
    before = world.load("dispute", call.id)
    if before["status"] not in _OPEN:
        raise invalid("This dispute is already closed, so its evidence can't be changed.", "id")
    evidence = before["evidence"] | {k: v for k, v in call.get("evidence", {}).items() if v is not None}
    details = before["evidence_details"] | {"has_evidence": bool(evidence)}
    dispute = before | {
        "evidence": evidence,
        "metadata": merged_metadata(before["metadata"], call.params.get("metadata")),
    }
    if call.get("submit", True) and evidence:
        details |= {"submission_count": details["submission_count"] + 1, "submission_method": "manual"}
        dispute["status"] = "under_review"
    dispute["evidence_details"] = details
    world.save(dispute)
    world.emit("charge.dispute.updated", dispute, before)
    verdict = {"winning_evidence": "won", "losing_evidence": "lost"}.get(evidence.get("uncategorized_text", ""))
    if dispute["status"] == "under_review" and verdict:
        return close_dispute(world, dispute, "won" if verdict == "won" else "lost")
    return dispute


def _close(world: World, call: Call) -> Document:
    return close_dispute(world, world.load("dispute", call.id), "lost")


def _dollars(cents: int) -> str:
    return f"${cents // 100}.{cents % 100:02d}"


_EVIDENCE = hash_of(
    **dict.fromkeys(
        ("uncategorized_text", "product_description", "customer_name", "customer_email_address", "access_activity_log"),
        TEXT,
    )
)
ENDPOINTS = (
    Endpoint(
        "POST",
        "/v1/refunds",
        _create,
        {
            "charge": TEXT,
            "payment_intent": TEXT,
            "amount": Shape("integer", minimum=1),
            "reason": choice(*_REASONS),
            "metadata": METADATA,
            "currency": NOT_EMULATED,
            "customer": NOT_EMULATED,
            "instructions_email": TEXT,
            "refund_application_fee": NOT_EMULATED,
            "reverse_transfer": NOT_EMULATED,
        },
    ),
    Endpoint(
        "GET",
        "/v1/refunds",
        listing("refund", "/v1/refunds", charge="charge", payment_intent="payment_intent"),
        {**PAGE, "charge": TEXT, "payment_intent": TEXT},
    ),
    Endpoint("GET", "/v1/refunds/{id}", retrieve("refund")),
    Endpoint("POST", "/v1/refunds/{id}", _update_refund, {"metadata": METADATA}),
    Endpoint(
        "GET",
        "/v1/disputes",
        listing("dispute", "/v1/disputes", charge="charge", payment_intent="payment_intent"),
        {**PAGE, "charge": TEXT, "payment_intent": TEXT},
    ),
    Endpoint("GET", "/v1/disputes/{id}", retrieve("dispute")),
    Endpoint(
        "POST", "/v1/disputes/{id}", _update_dispute, {"evidence": _EVIDENCE, "metadata": METADATA, "submit": BOOLEAN}
    ),
    Endpoint("POST", "/v1/disputes/{id}/close", _close),
)
