"""The hard parts without a server: form encoding, checks of cards, and the store's promises."""

from datetime import UTC, datetime
from pathlib import Path

import pytest
import stripe
from hypothesis import given
from hypothesis import strategies as st

from wopr.emulators.documents import Documents, Query
from wopr.emulators.stripe.cards import TEST_CARDS, CardInput, check, luhn_valid
from wopr.emulators.stripe.errors import StripeError
from wopr.emulators.stripe.events import signature
from wopr.emulators.stripe.wire import METADATA, TEXT, decode, hash_of, list_of, read

NOW = datetime(2026, 11, 23, tzinfo=UTC)


def test_brackets_nest_and_lists_may_be_numbered_or_not() -> None:
    pairs = [("a[0][b]", "1"), ("a[0][c][d]", "2"), ("e[]", "x"), ("e[]", "y"), ("f", "z")]
    assert decode(pairs) == {"a": {"0": {"b": "1", "c": {"d": "2"}}}, "e": {"0": "x", "1": "y"}, "f": "z"}
    shapes = {"a": list_of(hash_of(b=TEXT, c=hash_of(d=TEXT))), "e": list_of(TEXT), "f": TEXT}
    assert read(shapes, decode(pairs)) == {"a": [{"b": "1", "c": {"d": "2"}}], "e": ["x", "y"], "f": "z"}


@given(st.lists(st.tuples(st.text(alphabet="ab[]0", max_size=30), st.text(max_size=5)), max_size=8))
def test_no_form_can_break_the_decoder(pairs: list[tuple[str, str]]) -> None:
    try:
        decoded = decode(pairs)
    except StripeError:
        return  # refused in Stripe's words, which is fine too
    assert isinstance(decoded, dict)


def test_an_empty_value_clears_and_metadata_has_limits() -> None:
    assert read({"name": TEXT, "metadata": METADATA}, {"name": "", "metadata": ""}) == {"name": None, "metadata": {}}
    for bad in ({"k" * 41: "v"}, {"k": "v" * 501}, {str(i): "v" for i in range(51)}):
        with pytest.raises(StripeError):
            read({"metadata": METADATA}, {"metadata": bad})


@pytest.mark.parametrize("number", TEST_CARDS)
def test_every_documented_card_passes_the_checks_of_the_form(number: str) -> None:
    assert luhn_valid(number)
    cvc = "1234" if number.startswith("37") else "123"
    card, problems = check(CardInput(number, "12 / 30", cvc, "Ada"), NOW)
    assert problems == {}
    assert card is not None
    assert (card.exp_month, card.exp_year) == (12, 2030)


@given(st.integers(10**12, 10**17), st.integers(0, 17))
def test_a_mistyped_digit_is_noticed(prefix: int, position: int) -> None:
    valid = next(f"{prefix}{digit}" for digit in range(10) if luhn_valid(f"{prefix}{digit}"))
    index = position % len(valid)
    wrong = valid[:index] + str((int(valid[index]) + 1) % 10) + valid[index + 1 :]
    assert not luhn_valid(wrong)


def test_the_signature_satisfies_the_official_library_with_the_whole_secret_only() -> None:
    payload = b'{"id": "evt_1", "object": "event"}'
    header = signature("whsec_abc", payload, 1700000000)
    assert stripe.Webhook.construct_event(payload, header, "whsec_abc", tolerance=0).id == "evt_1"
    with pytest.raises(stripe.SignatureVerificationError):
        stripe.Webhook.construct_event(payload, signature("abc", payload, 1700000000), "whsec_abc", tolerance=0)


def test_a_transaction_that_fails_leaves_nothing(tmp_path: Path) -> None:
    store = Documents(tmp_path / "state.sqlite3")

    def fail_after_writing() -> None:
        with store.transaction():
            store.put({"id": "a", "object": "thing"})
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail_after_writing()
    assert store.get("a") is None
    store.close()


def test_documents_are_found_by_fields_within(tmp_path: Path) -> None:
    store = Documents(tmp_path / "state.sqlite3")
    store.put({"id": "a", "object": "thing", "inner": {"open": True, "name": None}})
    store.put({"id": "b", "object": "thing", "inner": {"open": False, "name": "x"}})
    assert [d["id"] for d in store.select(Query("thing"))] == ["b", "a"]
    assert [d["id"] for d in store.select(Query("thing", {"inner.open": True}))] == ["a"]
    assert [d["id"] for d in store.select(Query("thing", {"inner.name": None}))] == ["a"]
    store.close()
    again = Documents(tmp_path / "state.sqlite3")
    assert again.count("thing") == 2
    again.close()
