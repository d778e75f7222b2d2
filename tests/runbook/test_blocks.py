"""The runbook is taken apart rightly, and nothing in it is forgotten."""

from pathlib import Path

import pytest
from tests.runbook.blocks import blocks, commands
from tests.runbook.shell import Shell, of_flat_stack, of_two_machines, page
from tests.runbook.table import FOLLOWED, IN_PROSE_NOT_EXECUTED, NOT_EXECUTED, PAGE, SUBSTITUTIONS

EVERY = [command for block in page() for command in block.commands]


def test_the_two_flows_together_have_every_block() -> None:
    two, flat = of_two_machines(), of_flat_stack()
    assert [block for block in page() if block in two or block in flat] == page()
    assert {block.section.partition(" (")[0] for block in two} >= {
        "Rollback Procedure",
        "First-time setup",
        "DinD GPU Seeder",
    }
    assert {block.section for block in flat} >= {"Compose Profiles", "Health checks", "Teardown"}


def test_what_nobody_did_is_noticed() -> None:
    shell = Shell(Path("/"), {}, {})
    left = shell.left(of_flat_stack())
    assert "cp .env.local.example .env.local" in left
    assert not set(left) & set(NOT_EXECUTED)
    shell.done += left
    assert not shell.left(of_flat_stack())


def test_the_tables_name_only_what_the_runbook_has() -> None:
    for command in (*FOLLOWED, *NOT_EXECUTED):
        assert command in EVERY
    for command in IN_PROSE_NOT_EXECUTED:
        assert f"`{command}`" in Path(__file__).with_name(PAGE).read_text(encoding="utf-8")
    for one in SUBSTITUTIONS:
        assert any(one.what in command for command in EVERY), f"nothing needs {one.what!r} any more"
        assert one.why


def test_sql_is_never_substituted() -> None:
    statements = [command for command in EVERY if "INSERT INTO" in command or "SELECT " in command]
    assert len(statements) == 4
    for statement in statements:
        assert not [one.what for one in SUBSTITUTIONS if one.what in statement]


def test_commands_are_what_a_shell_runs_at_once() -> None:
    text = '# first\nmake it   # now\n\none | \\\n  two\nsay "a\nb"  \n'
    assert commands(text) == ("make it", "one | \\\n  two", 'say "a\nb"  ')


@pytest.mark.parametrize("text", ['echo "no end\n', "one | \\\n"])
def test_a_command_without_an_end_is_an_error(text: str) -> None:
    with pytest.raises(AssertionError, match="without an end"):
        commands(text)


def test_steps_count_where_a_section_has_no_block() -> None:
    text = "# A\n1. `one`\n2. then `two`\n## B\n1. `no`\n```sh\nthree\n```\n"
    assert [(block.section, block.commands) for block in blocks(text)] == [("A", ("one", "two")), ("B", ("three",))]
