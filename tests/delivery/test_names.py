"""What has to change in a zone, decided apart from doing it: only our own records, unless told otherwise."""

from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from wopr.cloud.dns import DnsRecord
from wopr.delivery.names import MARK, Plan, names_of, plan, wanted

WISHES = wanted("wopr.bot", "203.0.113.7", "wopr")
APEX, API = WISHES[0], WISHES[1]
THERE = [replace(wish, id=str(number)) for number, wish in enumerate(WISHES)]


def test_each_site_of_caddy_has_a_record_with_the_proxy_off() -> None:
    assert names_of("wopr.bot") == ("wopr.bot", "api.wopr.bot", "app.wopr.bot", "*.bots.wopr.bot")
    assert {(r.type, r.content, r.proxied) for r in WISHES} == {("A", "203.0.113.7", False)}


def test_an_empty_zone_gets_every_record_and_a_right_one_nothing() -> None:
    assert plan(WISHES, []) == Plan(create=list(WISHES))
    assert plan(WISHES, THERE) == Plan(kept=THERE)


def test_our_record_with_another_address_or_the_proxy_on_is_changed_in_place() -> None:
    for wrong in (replace(THERE[1], content="203.0.113.1"), replace(THERE[1], proxied=True)):
        found = plan(WISHES, [THERE[0], wrong, *THERE[2:]])
        assert (found.change, found.before, found.create, found.delete) == ([THERE[1]], [wrong], [], [])


def test_a_second_record_of_ours_and_one_for_a_name_of_before_go() -> None:
    second = replace(THERE[0], id="second", content="203.0.113.1")
    gone = replace(THERE[0], id="gone", name="old.wopr.bot")
    assert plan(WISHES, [second, *THERE, gone]).delete == [second, gone]


def test_records_of_others_are_reported_and_left() -> None:
    theirs = DnsRecord("api.wopr.bot", "CNAME", "shop.example.com", id="x", comment="do not touch")
    beside = [DnsRecord("wopr.bot", kind, "text", id=kind) for kind in ("TXT", "MX", "CAA")]
    elsewhere = DnsRecord("www.wopr.bot", "A", "198.51.100.1", id="www")
    found = plan(WISHES, [theirs, *beside, elsewhere])
    assert found.others == [theirs]
    assert [r.name for r in found.create] == ["wopr.bot", "app.wopr.bot", "*.bots.wopr.bot"]
    assert (found.change, found.delete) == ([], [])


def test_others_give_way_only_when_told() -> None:
    alias = DnsRecord("api.wopr.bot", "CNAME", "shop.example.com", id="alias")
    six = DnsRecord("wopr.bot", "AAAA", "2001:db8::1", id="six")
    four = DnsRecord("wopr.bot", "A", "198.51.100.1", id="four")
    found = plan(WISHES, [alias, six, four], replace_others=True)
    assert found.others == [six, four, alias]
    assert (found.delete, found.before) == ([six, alias], [four])
    assert found.change == [replace(APEX, id="four")]
    assert API in found.create


def test_a_right_record_that_somebody_made_by_hand_is_enough_and_never_removed() -> None:
    by_hand = replace(APEX, id="hand", comment="")
    assert plan(WISHES, [by_hand]).kept == [by_hand]
    assert plan([], [by_hand]).delete == []


def test_another_installation_on_the_same_domain_is_somebody_else() -> None:
    other = replace(API, content="203.0.113.99", comment=f"{MARK}second", id="o")
    assert plan(WISHES, [other]).others == [other]


records = st.builds(
    DnsRecord,
    name=st.sampled_from([*names_of("wopr.bot"), "www.wopr.bot"]),
    type=st.sampled_from(["A", "AAAA", "CNAME", "TXT"]),
    content=st.sampled_from(["203.0.113.7", "198.51.100.1"]),
    proxied=st.booleans(),
    comment=st.sampled_from(["", f"{MARK}wopr", f"{MARK}second"]),
    id=st.uuids().map(str),
)


@given(st.lists(records, max_size=12))
def test_a_plan_that_was_carried_out_leaves_nothing_to_do(existing: list[DnsRecord]) -> None:
    done = _carried_out(existing, plan(WISHES, existing, replace_others=True))
    again = plan(WISHES, done, replace_others=True)
    assert (again.changes, again.others) == (0, [])
    theirs = [r for r in existing if r.comment != f"{MARK}wopr" and (r.name == "www.wopr.bot" or r.type == "TXT")]
    assert all(record in done for record in theirs)


@given(st.lists(records, max_size=12))
def test_without_a_word_nothing_of_others_is_touched(existing: list[DnsRecord]) -> None:
    found = plan(WISHES, existing)
    touched = {record.id for record in (*found.before, *found.delete)}
    assert all(record.comment == f"{MARK}wopr" for record in existing if record.id in touched)


def _carried_out(existing: list[DnsRecord], made: Plan) -> list[DnsRecord]:
    changed = {record.id: record for record in made.change}
    gone = {record.id for record in made.delete}
    kept = [changed.get(record.id, record) for record in existing if record.id not in gone]
    return [*kept, *(replace(record, id=record.name) for record in made.create)]
