"""Options that are written once become options of each command that takes them."""

from dataclasses import dataclass
from typing import Annotated

import typer
from typer.testing import CliRunner

from wopr.cli.options import shared


@dataclass(frozen=True)
class Place:
    """Where it happens."""

    city: Annotated[str, typer.Option("--city", help="A city.")] = "Berlin"
    as_json: Annotated[bool, typer.Option("--json", help="As JSON.")] = False


@dataclass(frozen=True)
class Journey(Place):
    """A place, and how one gets there."""

    by: Annotated[str, typer.Option(help="A vehicle.")] = "train"


app = typer.Typer(rich_markup_mode=None)


@app.command("go")
@shared
def go(who: Annotated[str, typer.Argument(help="A person.")], journey: Journey, fast: bool = False) -> None:
    """Go somewhere."""
    typer.echo(f"{who} {journey.city} {journey.by} {journey.as_json} {fast}")


@app.command("stay")
@shared
def stay(place: Place) -> None:
    """Stay there."""
    typer.echo(place.city)


def run(*arguments: str) -> str:
    ended = CliRunner().invoke(app, arguments)
    assert ended.exit_code == 0, ended.output
    return ended.stdout


def test_each_field_is_an_option_with_its_default() -> None:
    assert run("go", "Ada") == "Ada Berlin train False False\n"
    assert run("go", "Ada", "--city", "Rome", "--by", "ship", "--json", "--fast") == "Ada Rome ship True True\n"
    assert run("stay", "--city", "Rome") == "Rome\n"


def test_help_shows_them_with_their_words() -> None:
    shown = run("go", "--help")
    for word in ("--city", "A city.", "--json", "--by", "A vehicle.", "--fast", "Go somewhere."):
        assert word in shown


def test_a_command_does_not_take_the_options_of_a_subclass() -> None:
    assert CliRunner().invoke(app, ["stay", "--by", "ship"]).exit_code == 2
