"""What an agent says of volumes that hold too much, read back."""

from wopr.fleet.runtimes.nodequota import parse


def test_a_volume_is_full_from_when_it_is_said_until_it_is_said_to_fit() -> None:
    said = ["up", "full wopr-bot-a 4000 2000", "full wopr-bot-b 9 1", "fits wopr-bot-a", "full wopr-bot-b 10 1"]
    assert parse(said[:2]) == {"wopr-bot-a": 4000}
    assert parse(said) == {"wopr-bot-b": 10}


def test_other_lines_say_nothing_of_volumes() -> None:
    assert parse(["up", "full", "fits wopr-bot-a", "full wopr-bot-a many 1", ""]) == {}
