"""Commands are lists, so that a test compares lists; files of settings are read alike by everyone who reads them."""

import io
import subprocess
from pathlib import Path

import pytest
from dotenv import dotenv_values
from hypothesis import given
from hypothesis import strategies as st

from wopr.delivery import commands
from wopr.delivery.commands import PLUGIN, STANDALONE, Filling
from wopr.delivery.place import Place

PLACE = Place("/srv/wopr", "acme")


def test_one_slot_is_started_and_nothing_else() -> None:
    command = commands.up_slot(PLUGIN, PLACE, "/srv/wopr/releases/0003/compose.yaml", "green")
    assert command[-6:] == ("up", "-d", "--no-deps", "--no-build", "api-green", "ui-green")
    assert command[command.index("-p") + 1] == "acme"
    assert command[command.index("--env-file") + 1] == "/srv/wopr/stack.env"
    assert command[command.index("-f") + 1] == "/srv/wopr/releases/0003/compose.yaml"


@pytest.mark.parametrize(("compose", "program"), [(PLUGIN, ("docker", "compose")), (STANDALONE, ("docker-compose",))])
def test_both_composes_are_called_alike_and_hide_the_callers_environment(
    compose: commands.Compose, program: tuple[str, ...]
) -> None:
    command = compose.call(PLACE, "f", "config")
    assert command[0] == "env"
    start = command.index(program[0])
    assert command[start : start + len(program)] == program
    hidden = command[1:start]
    assert hidden == tuple(part for name in commands.INTERPOLATED for part in ("-u", name))


def test_what_compose_interpolates_names_both_slots_and_the_operators_choices() -> None:
    settings = {"HTTP_PORT": "8080", "POSTGRES_PASSWORD": "p$1", "STRIPE_SECRET_KEY": "sk"}
    blue, green = Filling("a@sha256:1", 4, "f00"), Filling("b@sha256:2", 5, "ba5")
    text = commands.stack_env(PLACE, settings, {"blue": blue, "green": green}, "b@sha256:2")
    read = commands.parsed_env(text)
    assert read["WOPR_BLUE_IMAGE"] == "a@sha256:1"
    assert read["WOPR_GREEN_RELEASE"] == "5"
    assert read["WOPR_BLUE_MADE"] == "f00"
    assert read["WOPR_GREEN_ENV"] == "/srv/wopr/slots/green.env"
    assert read["HTTP_PORT"] == "8080"
    assert read["POSTGRES_PASSWORD"] == "p$1"
    assert "STRIPE_SECRET_KEY" not in read, "compose needs no secret but the database's"


def test_compose_interpolates_only_what_it_is_given() -> None:
    compose = (Path(__file__).parents[2] / "deploy" / "compose.yaml").read_text()
    asked = {name.split("-")[0].rstrip(":?") for name in _interpolated(compose)}
    assert asked <= set(commands.INTERPOLATED)


def test_a_slot_has_the_operators_settings_and_defaults_only_where_they_say_nothing() -> None:
    written = commands.slot_env({"DATABASE_URL": "postgresql://mine"}, {"DATABASE_URL": "ours", "TRUSTED_PROXIES": "x"})
    assert commands.parsed_env(written) == {"DATABASE_URL": "postgresql://mine", "TRUSTED_PROXIES": "x"}


values = st.text(st.characters(codec="ascii", exclude_categories=("Cc",)), max_size=40).filter(lambda v: v == v.strip())


@given(values)
def test_a_value_survives_being_written_and_read(value: str) -> None:
    assert commands.parsed_env(f"A={commands.quoted(value)}\n") == {"A": value}


@given(values.filter(lambda value: "'" not in value))
def test_compose_reads_a_value_as_we_wrote_it(value: str) -> None:
    line = f"A={commands.quoted(value)}\n"
    if "\\" not in value:  # its reader takes escapes even in single quotes
        assert dotenv_values(stream=io.StringIO(line)) == {"A": value}


def test_settings_are_read_as_shells_write_them() -> None:
    text = '# a comment\nexport A=1\nB=\'two words\'\nC="say \\"hi\\""\nD=x # why\nE=\nF=a#b\n'
    assert commands.parsed_env(text) == {"A": "1", "B": "two words", "C": 'say "hi"', "D": "x", "E": "", "F": "a#b"}


def test_no_value_stands_inside_a_script() -> None:
    evil = Place("/srv/$(touch /tmp/x)", "a b;c")
    for command in (
        commands.observe(evil),
        commands.remove_slot(evil, "blue"),
        commands.free_kilobytes(evil.dir),
        commands.copy_from_api(evil, "/x"),
    ):
        assert command[:2] == ("sh", "-c")
        assert "touch" not in command[2]
        assert "a b" not in command[2]


def test_the_room_that_is_left_is_read(tmp_path: Path) -> None:
    done = subprocess.run(commands.free_kilobytes(str(tmp_path)), capture_output=True, text=True, check=True)
    assert int(done.stdout) > 0


def _interpolated(text: str) -> list[str]:
    import re

    return re.findall(r"\$\{([A-Z_]+)", text)


@pytest.mark.parametrize(("answers", "code", "said"), [(("no", "no", "yes"), 0, ""), (("no",), 1, "still starting")])
def test_a_container_that_starts_is_asked_until_it_answers(
    tmp_path: Path, answers: tuple[str, ...], code: int, said: str
) -> None:
    """Each run of the probe takes a word away while there is more than one."""
    words = tmp_path / "words"
    words.write_text("\n".join(answers) + "\n")
    probe = tmp_path / "wopr-probe"
    script = f'[ "$1" = /ready ] || exit 9; read now < {words}; [ $(wc -l < {words}) = 1 ] || sed -i 1d {words}'
    probe.write_text(f'#!/bin/sh\n{script}; [ $now = yes ] || {{ echo "still starting"; exit 1; }}\n')
    probe.chmod(0o755)
    _, _, container, *inside = commands.probe_patiently("acme-api-blue", "/ready")
    assert container == "acme-api-blue"
    done = subprocess.run(inside, capture_output=True, text=True, env={"PATH": f"{tmp_path}:/usr/bin:/bin"})
    assert (done.returncode, done.stdout.strip()) == (code, said)


def test_compose_comes_up_on_a_network_that_is_made_once(tmp_path: Path) -> None:
    """The stand-in for docker knows the networks that were made, and compose is only called when there is one."""
    docker = tmp_path / "docker"
    docker.write_text(
        f'#!/bin/sh\necho "$@" >>{tmp_path}/said\n'
        f"case $2 in inspect) [ -e {tmp_path}/net-$3 ] ;; create) : >{tmp_path}/net-$5 ;; esac\n"
    )
    docker.chmod(0o755)
    command = commands.up_slot(PLUGIN, PLACE, "f", "blue")
    for _ in range(2):
        subprocess.run(command, check=True, env={"PATH": f"{tmp_path}:/usr/bin:/bin"})
    said = [line for line in (tmp_path / "said").read_text().splitlines() if not line.startswith("network inspect")]
    assert said[0] == "network create --label com.docker.compose.project=acme acme-platform"
    assert [line.split()[0] for line in said[1:]] == ["compose", "compose"]
