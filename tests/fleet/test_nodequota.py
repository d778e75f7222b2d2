"""What an agent says of volumes that take too much, read back."""

from wopr.fleet.runtimes.nodequota import parse
from wopr.fleet.runtimes.quota import Excess


def test_a_volume_is_full_from_when_it_is_said_until_it_is_said_to_fit() -> None:
    said = ["up", "full wopr-bot-a 4000 2000", "full wopr-bot-b 9 1", "fits wopr-bot-a", "full wopr-bot-b 10 1"]
    assert parse(said[:2]) == {"wopr-bot-a": Excess(4000, 2000)}
    assert parse(said) == {"wopr-bot-b": Excess(10, 1)}


def test_a_volume_that_grew_most_while_there_was_too_little_room_has_no_limit_to_blame() -> None:
    assert parse(["up", "greedy wopr-bot-a 4000"]) == {"wopr-bot-a": Excess(4000, 0)}
    assert parse(["greedy wopr-bot-a 4000", "fits wopr-bot-a"]) == {}


def test_other_lines_say_nothing_of_volumes() -> None:
    assert parse(["up", "full", "fits wopr-bot-a", "full wopr-bot-a many 1", "greedy wopr-bot-a", ""]) == {}
