"""The operator's `.env`: what is accepted means the same to every reader, and the rest is a fault with its line."""

import io
import subprocess
from pathlib import Path

import pytest
from dotenv import dotenv_values
from hypothesis import given
from hypothesis import strategies as st

from wopr.delivery.commands import parsed_env, slot_env
from wopr.delivery.env_file import Fault, read_env
from wopr.delivery.env_look import look_env, refuse_bad_env
from wopr.delivery.env_rules import faults_of, lacking
from wopr.delivery.errors import Refused
from wopr.delivery.hosts import LocalHost
from wopr.delivery.place import Place

NAMES = st.from_regex(r"[A-Za-z_][A-Za-z0-9_]{0,12}", fullmatch=True)
VALUES = st.text(st.characters(codec="utf-8", exclude_categories=("Cc", "Zl", "Zp", "Cs")), max_size=20)
LINE = st.text(st.sampled_from("AB=#'\"\\$ x\t"), max_size=14)


def test_a_file_as_operators_write_it_is_read_without_a_fault() -> None:
    text = '# ours\n\nexport A=one\nB = two  # why\nC=\'it is $5 \\n\'\nD="say \\"hi\\" it\'s"\nE=\n_F=a#b=c\n'
    read = read_env(text)
    assert read.faults == []
    assert read.values == {
        "A": "one", "B": "two", "C": "it is $5 \\n", "D": 'say "hi" it\'s', "E": "", "_F": "a#b=c",
    }  # fmt: skip
    assert read.lines["D"] == 6


@pytest.mark.parametrize(
    ("text", "line", "says"),
    [
        ("\ufeffA=1\n", 1, "byte order mark"),
        ("A=1\nB=2\r\n", 2, "Windows"),
        ("A=1\nB=2\nA=3\n", 3, "A is set in line 1 already"),
        ("A=1\nwhatever\n", 2, "no NAME=value"),
        ("2A=1\n", 1, "no name"),
        ("A-B=1\n", 1, "no name"),
        ("A='1\n2'\n", 1, "no closing quote"),
        ('A="1\n', 1, "no closing quote"),
        ("A='1' 2\n", 1, "goes on after its closing quote"),
        ('A="a\\tb"\n', 1, "backslash"),
        ("A= # nothing\n", 1, "begins with #"),
        ("A=a\x07b\n", 1, "can't be seen"),
        ('A="it\'s $5"\n', 1, "both ' and $"),
    ],
)
def test_what_readers_take_differently_is_refused_with_its_line(text: str, line: int, says: str) -> None:
    fault = read_env(text).faults[0]
    assert (fault.line, fault.refused) == (line, True)
    assert says in str(fault)
    assert fault.remedy


def test_a_dollar_sign_outside_of_single_quotes_is_only_a_warning() -> None:
    read = read_env("A=pa$word\n")
    assert read.values == {"A": "pa$word"}
    assert [fault.refused for fault in read.faults] == [False]


def test_bytes_that_are_no_utf_8_are_a_fault_and_never_an_error() -> None:
    assert "UTF-8" in str(read_env(b"A=\xff\xfe\n").faults[0])


def test_the_value_of_a_fault_is_never_told() -> None:
    for text in ("SECRET='geheim\n", "SECRET=geheim\x07\n", 'SECRET="geheim" x\n', "SECRET=1\nSECRET=geheim\n"):
        assert "geheim" not in "".join(f"{fault}{fault.remedy}" for fault in read_env(text).faults)


@given(st.dictionaries(NAMES, VALUES, max_size=4))
def test_what_a_release_writes_is_read_back_as_it_was(settings: dict[str, str]) -> None:
    writable = {name: value for name, value in settings.items() if not {"'", "$"} <= set(value)}
    read = read_env(slot_env(writable, {}))
    assert [fault for fault in read.faults if fault.refused] == []
    assert read.values == writable


@given(st.lists(LINE, max_size=5).map("\n".join))
def test_whatever_is_accepted_means_the_same_to_every_reader(text: str) -> None:
    read = read_env(text)
    if any(fault.refused for fault in read.faults):
        return
    assert parsed_env(text) == read.values
    assert dict(dotenv_values(stream=io.StringIO(text), interpolate=False)) == read.values


@given(st.binary(max_size=60))
def test_no_file_can_break_the_reader(content: bytes) -> None:
    read_env(content)


GOOD = {
    "WOPR_DOMAIN": "wopr.bot",
    "BETTER_AUTH_URL": "https://api.wopr.bot",
    "UI_URL": "https://wopr.bot",
    "COOKIE_DOMAIN": ".wopr.bot",
    "BETTER_AUTH_SECRET": "a" * 32,
    "STRIPE_WEBHOOK_SECRET": "whsec_x",
    "STRIPE_SECRET_KEY": "sk",
    "STRIPE_DEFAULT_PRICE_ID": "price",
    "MODELS_DIR": "/opt/models",
}


def faults(**changed: str) -> list[Fault]:
    return faults_of(read_env("".join(f"{name}={value}\n" for name, value in {**GOOD, **changed}.items())))


def test_settings_for_the_public_are_sound() -> None:
    assert faults() == []


def test_settings_of_a_machine_of_ones_own_are_sound() -> None:
    local = {"WOPR_DOMAIN": "localhost", "WOPR_SCHEME": "http://", "COOKIE_DOMAIN": "", "BETTER_AUTH_SECRET": "short"}
    assert faults(**local, BETTER_AUTH_URL="http://api.localhost:8080", UI_URL="http://localhost:8080") == []
    assert faults(WOPR_DOMAIN="lan.example", WOPR_SCHEME="http://", BETTER_AUTH_URL="http://api.lan.example",
                  UI_URL="http://lan.example", COOKIE_DOMAIN=".lan.example") == []  # fmt: skip


@pytest.mark.parametrize(
    ("name", "value", "says"),
    [
        ("MODELS_DIR", "models", "relative path"),
        ("MODELS_DIR", "~/models", "relative path"),
        ("BILLING_DB_PATH", "./data/billing.db", "relative path"),
        ("WOPR_PRICES", "prices.toml", "relative path"),
        ("DATABASE_URL", "data/platform.db", "no address of PostgreSQL"),
        ("DATABASE_URL", "postgresql://u:p@localhost/x", "the container itself"),
        ("BETTER_AUTH_URL", "http://localhost:3100", "served over https"),
        ("BETTER_AUTH_URL", "http://api.wopr.bot", "served over https"),
        ("BETTER_AUTH_URL", "https://api.wopr.bot/api/auth", "no address like https://api.wopr.bot"),
        ("UI_URL", "wopr.bot", "no address"),
        ("WOPR_DOMAIN", "https://wopr.bot", "bare name"),
        ("WOPR_SCHEME", "https://", "neither empty nor http://"),
        ("COOKIE_DOMAIN", "", "does not cover api.wopr.bot"),
        ("COOKIE_DOMAIN", ".other.bot", "does not cover"),
        ("COOKIE_DOMAIN", "api.wopr.bot", "does not cover wopr.bot"),
        ("STRIPE_WEBHOOK_SECRET", "0123456789abcdef", "prefix whsec_"),
        ("BETTER_AUTH_SECRET", "x" * 40 + ",short", "shorter than 32"),
        ("HTTP_PORT", "eighty", "no port"),
        ("EDGE_PROXIES", "173.245.48.0/20,cloudflare", "no network"),
    ],
)  # fmt: skip
def test_a_setting_that_would_break_the_platform_refuses_the_release(name: str, value: str, says: str) -> None:
    found = [fault for fault in faults(**{name: value}) if fault.refused and fault.name == name]
    assert found, faults(**{name: value})
    assert any(says.removeprefix("no address like ") in f"{fault}{fault.remedy}" for fault in found)
    assert all(fault.remedy for fault in found)
    assert all(fault.line for fault in found), "each fault names its line"


def test_half_of_a_pair_and_an_address_without_a_site_are_warnings() -> None:
    assert [fault.refused for fault in faults(REGISTRY_USERNAME="me")] == [False]
    assert [fault.refused for fault in faults(BETTER_AUTH_URL="https://backend.wopr.bot")] == [False]


def test_what_is_not_there_is_listed_by_what_it_disables() -> None:
    assert lacking({}) == [
        "payments: STRIPE_SECRET_KEY, STRIPE_WEBHOOK_SECRET, STRIPE_DEFAULT_PRICE_ID",
        "mail: RESEND_API_KEY or SMTP_URL",
        "droplets for inference: DO_API_TOKEN",
        "DNS records and certificates by DNS-01: CLOUDFLARE_API_TOKEN",
        "private images: REGISTRY_USERNAME, REGISTRY_PASSWORD",
        "nodes that register themselves: GPU_NODE_SECRET",
        "pushes told by GitHub: GITHUB_WEBHOOK_SECRET",
    ]
    assert "mail: RESEND_API_KEY or SMTP_URL" not in lacking({"SMTP_URL": "smtp://x"})


def git(folder: Path, *arguments: str) -> None:
    identity = ("-c", "user.name=t", "-c", "user.email=t@example.com", "-c", "commit.gpgsign=false")
    subprocess.run(["git", "-C", str(folder), *identity, *arguments], check=True, capture_output=True)


async def test_a_file_that_git_has_or_could_get_is_told(tmp_path: Path) -> None:
    place = Place(str(tmp_path))
    path = tmp_path / ".env"
    path.write_text("A=1\n")
    path.chmod(0o640)

    async def state() -> str:
        looked = await look_env(LocalHost(), place)
        assert looked.mode == "640"
        return looked.git

    assert await state() == "outside"
    git(tmp_path, "init", "-q")
    assert await state() == "open"
    (tmp_path / ".gitignore").write_text(".env\n")
    assert await state() == "ignored"
    git(tmp_path, "add", "-f", ".env")
    assert await state() == "tracked"
    with pytest.raises(Refused, match="tracked by git"):
        await refuse_bad_env(LocalHost(), place, b"A=1\n")
    git(tmp_path, "commit", "-q", "-m", "oops")
    git(tmp_path, "rm", "-q", "--cached", ".env")
    git(tmp_path, "commit", "-q", "-m", "gone")
    assert await state() == "committed"


async def test_a_refusal_names_every_fault_with_its_line_and_no_value(tmp_path: Path) -> None:
    content = b"MODELS_DIR=models\nSTRIPE_WEBHOOK_SECRET=geheim\nBROKEN='geheim\n"
    (tmp_path / ".env").write_bytes(content)
    with pytest.raises(Refused) as refused:
        await refuse_bad_env(LocalHost(), Place(str(tmp_path)), content)
    for part in ("line 1: MODELS_DIR", "line 2: STRIPE_WEBHOOK_SECRET", "line 3: BROKEN"):
        assert part in refused.value.message
    assert "geheim" not in refused.value.message


async def test_no_file_is_no_fault(tmp_path: Path) -> None:
    assert (await look_env(LocalHost(), Place(str(tmp_path)))).faults == ()
