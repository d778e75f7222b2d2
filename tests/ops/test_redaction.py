"""No secret of the installation reaches the journal, its pages or its commits, however it is written."""

import base64
import json
import re
import subprocess
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import quote, quote_plus, unquote

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from wopr.ops.journal import Journal
from wopr.ops.logbook.history import keep
from wopr.ops.proof import damages
from wopr.ops.redaction import DOTS, holds_secret, known, redacted
from wopr.ops.secrets import known_secrets

PRINTABLE = "".join(chr(code) for code in range(33, 127))
SECRETS = st.text(PRINTABLE, min_size=10, max_size=40).filter(lambda text: len(set(text)) > 5)
WORDS = st.sampled_from(["release", "slot", "größe", "a b", "", "\u2028"])
NOISE = st.text(st.characters(codec="utf-8", exclude_characters="•"), max_size=12)


def folded(text: str) -> str:
    middle = len(text) // 2
    return f"{text[:3]}\n{text[3:middle]}\r\n  {text[middle:]}"


def wrapped(text: str) -> str:
    return "\n".join(text[at : at + 7] for at in range(0, len(text), 7))


SPELLINGS: Mapping[str, Callable[[str], str]] = {
    "as it is": str,
    "folded": folded,
    "percent": lambda s: quote(s, safe=""),
    "percent lower": lambda s: quote(s, safe="").lower() if s.lower() == s else quote(s),
    "percent all": lambda s: "".join(f"%{byte:02x}" for byte in s.encode()),
    "form": quote_plus,
    "percent twice": lambda s: quote(quote(s, safe=""), safe=""),
    "folded, percent": lambda s: quote(folded(s), safe=""),
    "base64": lambda s: base64.b64encode(s.encode()).decode(),
    "base64 url": lambda s: base64.urlsafe_b64encode(s.encode()).decode().rstrip("="),
    "base64 of a pair": lambda s: base64.b64encode(f"user:{s}".encode()).decode(),
    "base64 within": lambda s: base64.b64encode(f'{{"a":"{s}","b":1}}'.encode()).decode(),
    "base64 wrapped": lambda s: wrapped(base64.b64encode(f"ab{s}".encode()).decode()),
    "base64, percent": lambda s: quote(base64.b64encode(s.encode()).decode(), safe=""),
    "hexadecimal": lambda s: s.encode().hex(),
    "json in json": lambda s: json.dumps(json.dumps({"a": s})),
}


def reveals(text: str, secret: str) -> bool:
    """Whether a reader could get the secret out of this text. Written independently of what is tested."""
    queue, seen = [text], set()
    while queue:
        now = queue.pop()
        if now in seen or len(seen) > 60:
            continue
        seen.add(now)
        bare = re.sub(r"\s+|\\[nrt]", "", now)
        if secret in now or secret in bare:
            return True
        queue += [unquote(bare)] if "%" in bare else []
        queue += [re.sub(r"\\(.)", r"\1", bare)] if "\\" in bare else []
        for run in re.findall(r"[A-Za-z0-9+/_-]{8,}", bare):
            for start in range(4):
                piece = run[start : start + (len(run) - start) // 4 * 4].replace("-", "+").replace("_", "/")
                queue_text = base64.b64decode(piece).decode("latin-1")
                if secret in queue_text:
                    return True
            if (
                re.fullmatch(r"[0-9a-fA-F]+", run)
                and len(run) % 2 == 0
                and secret in bytes.fromhex(run).decode("latin-1")
            ):
                return True
    return False


def containers(text: str) -> st.SearchStrategy[Any]:  # whatever json can write
    """The text somewhere within nested lists and mappings, as a value or as a key."""
    leaf = st.one_of(st.just(text), NOISE, st.integers(), st.none(), st.booleans())
    inner = st.recursive(
        leaf, lambda part: st.one_of(st.lists(part, max_size=3), st.dictionaries(NOISE, part, max_size=3))
    )
    return st.one_of(
        st.builds(lambda noise, key: {noise: {f"a {text} b": key}}, NOISE, inner),
        st.builds(lambda key, more: {key: [more, {"deep": [text]}]}, NOISE, inner),
        st.builds(lambda before, after: {"text": f"{before} {text} {after}"}, NOISE, NOISE),
        st.builds(lambda more: {"lines": text.split("\n"), "more": more}, inner),
    )


@pytest.mark.parametrize("spelling", SPELLINGS)
@given(data=st.data(), secret=SECRETS)
@settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_a_known_secret_is_found_however_it_is_written(spelling: str, data: st.DataObject, secret: str) -> None:
    value = data.draw(containers(SPELLINGS[spelling](secret)))
    clean = redacted(value, known([secret]))
    assert not any(reveals(text, secret) for text in texts(clean))
    assert DOTS in json.dumps(clean, ensure_ascii=False)


def texts(value: Any) -> list[str]:  # whatever json can write
    """Every text within, a list of texts also as one."""
    if isinstance(value, Mapping):
        return [text for key, item in value.items() for text in (str(key), *texts(item))]
    if isinstance(value, list):
        joined = ["\n".join(value)] if all(isinstance(item, str) for item in value) else []
        return joined + [text for item in value for text in texts(item)]
    return [str(value)]


@given(NOISE, NOISE, SECRETS)
@settings(max_examples=40, deadline=None)
def test_what_stands_around_a_secret_stays(before: str, after: str, secret: str) -> None:
    spaced = f"seen {before.replace(secret, '')} | {secret} | {after.replace(secret, '')} end"
    clean = redacted(spaced, known([secret]))
    assert clean.startswith("seen ")
    assert clean.endswith(" end")
    assert secret not in clean


@given(st.recursive(st.one_of(NOISE, st.integers(), st.none()), lambda x: st.lists(x) | st.dictionaries(WORDS, x)))
@settings(max_examples=50, deadline=None)
def test_what_holds_no_secret_is_written_as_it_is(value: Any) -> None:  # whatever json can write
    secretless = {"value": value}
    assert json.dumps(redacted(secretless, known(["Tr0ub4dor&3!!"]))) == json.dumps(secretless)


@pytest.mark.parametrize(
    ("text", "kept"),
    [
        ("POSTGRES_PASSWORD=hunter22 is wrong", "is wrong"),
        ("docker login --username ada --password hunter22 ghcr.io", "ghcr.io"),
        ('{"registry_token": "hunter22", "user": "ada"}', "ada"),
        ("Authorization: Bearer hunter22abc", "Authorization"),
        ("postgresql://wopr:hunter22@db/wopr", "@db/wopr"),
        ("https://hunter22hunter22hunter22@github.com/x", "github.com"),
        ("-----BEGIN OPENSSH PRIVATE KEY-----\nhunter22\n", ""),
        ("token xoxb-hunter22-hunter22", "token"),
        ("$argon2id$v=19$m=65536,t=3$hunter22$hunter22", ""),
    ],
)
def test_a_secret_is_known_by_its_shape_and_by_the_name_beside_it(text: str, kept: str) -> None:
    clean = redacted(text)
    assert "hunter22" not in clean
    assert kept in clean


def test_an_environment_as_container_engines_write_it_is_clean() -> None:
    clean = redacted({"env": [{"name": "DB_PASSWORD", "value": "hunter2"}, {"name": "PORT", "value": "80"}]})
    assert clean == {"env": [{"name": "DB_PASSWORD", "value": DOTS}, {"name": "PORT", "value": "80"}]}
    assert redacted(["docker", "login", "--password", "hunter2"]) == ["docker", "login", "--password", DOTS]


def test_keys_that_become_alike_stay_apart() -> None:
    clean = redacted({"swordfish-1": 1, "swordfish-2": 2}, known(["swordfish-1", "swordfish-2"]))
    assert sorted(clean.values()) == [1, 2]


def test_numbers_that_are_secrets_are_blacked_out_and_others_stay_numbers() -> None:
    assert redacted({"pin": 12345678, "port": 5432}, known(["12345678"])) == {"pin": DOTS, "port": 5432}


@pytest.mark.parametrize("word", ["x", "token", "-", "a--", "a=token", "://", "'"])
def test_data_without_an_end_is_looked_through_in_no_time(word: str) -> None:
    # Where the work grew with the square of its length, this would take hours.
    assert redacted([word * 400_000, "--token hidden"])[1] == f"--token {DOTS}"


def test_a_private_key_over_several_lines_is_found_line_by_line() -> None:
    key = "MIIEvQIBADANBgkqhkiG9w0BAQ\nEFAASCBKcwggSjAgEAAoIBAQ\nDZx7QkLmPq"
    clean = redacted({"log": ["begin", *key.split("\n")[:2], "end"]}, known([key]))
    assert clean["log"][0] == "begin"
    assert clean["log"][3] == "end"
    assert not any(line in str(clean) for line in key.split("\n")[:2])


def test_every_secret_of_the_installation_is_known_and_nothing_else(tmp_path: Path) -> None:
    (tmp_path / "slots").mkdir()
    (tmp_path / "releases" / "0003").mkdir(parents=True)
    (tmp_path / "secrets.env").write_text("PLATFORM_SECRET=from-secrets-env\n", encoding="utf-8")
    (tmp_path / ".env").write_text(
        'RESEND_API_KEY="from the dot env"\nREGISTRY_USERNAME=adalovelace\nBETTER_AUTH_URL=https://api.example.com\n'
        "DATABASE_URL=postgresql://wopr:p%40ss-of-url@db/wopr\nBETTER_AUTH_SECRET=first-of-two,second-of-two\n"
        "POSTGRES_PASSWORD=postgres\n",
        encoding="utf-8",
    )
    (tmp_path / "slots" / "blue.env").write_text("DO_API_TOKEN=of-the-blue-slot\n", encoding="utf-8")
    (tmp_path / "releases" / "0003" / "env").write_text("DO_API_TOKEN=of-an-old-release\n", encoding="utf-8")
    (tmp_path / "postgres.url").write_text("postgresql://postgres:of-the-embedded@/x\n", encoding="utf-8")
    secrets = known_secrets(tmp_path, ("of-another-host",))
    for value in (
        "from-secrets-env", "from the dot env", "p%40ss-of-url", "p@ss-of-url", "first-of-two", "second-of-two",
        "of-the-blue-slot", "of-an-old-release", "of-the-embedded", "of-another-host",
    ):  # fmt: skip
        assert holds_secret(f"it was {value}.", secrets), value
    for value in ("adalovelace", "https://api.example.com", "postgres:16-alpine", "wopr"):
        assert not holds_secret(value, secrets), value


def test_secrets_of_the_environment_are_known(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STRIPE_SECRET_KEY", "of-the-environment")
    Journal(tmp_path).append("op", "test", "note", {"seen": "of-the-environment"})
    assert "of-the-environment" not in Journal(tmp_path).path.read_text(encoding="utf-8")


def test_a_secret_that_is_changed_is_known_at_once(tmp_path: Path) -> None:
    journal = Journal(tmp_path)
    file = tmp_path / "secrets.env"
    for value in ("the-first-value", "the-second-value"):
        file.write_text(f"PLATFORM_SECRET={value}\n", encoding="utf-8")
        journal.append("op", "test", "note", {"seen": value})
        assert value not in journal.path.read_text(encoding="utf-8")


@given(st.data(), SECRETS, st.sampled_from(sorted(SPELLINGS)))
@settings(max_examples=8, deadline=None)
def test_neither_journal_nor_pages_nor_commits_hold_a_secret(data: st.DataObject, secret: str, spelling: str) -> None:
    written = SPELLINGS[spelling](secret)
    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder)
        journal = Journal(home, more_secrets=(secret,))
        journal.append(f"op {written}", f"deploy {written}", "begin", data.draw(containers(written)))
        journal.append(f"op {written}", "deploy", "step", {"step": written, written: written})
        journal.append("incident-1", "incident", "begin", {"title": written, "severity": written})
        journal.append("n", "nodes.register", "begin", {"node": written})
        keep(home)
        log = subprocess.run(["git", "-C", f"{home}/logbook", "log", "-p"], capture_output=True, check=True)
        everything = [path.read_text(encoding="utf-8") for path in home.rglob("*") if path.suffix in (".md", ".jsonl")]
        everything += [log.stdout.decode(), *(path.name for path in home.rglob("*"))]
        for text in everything:
            assert not reveals(text, secret)
        assert damages(journal) == []


def test_a_value_that_became_a_secret_later_is_reported_without_being_said(tmp_path: Path) -> None:
    journal = Journal(tmp_path)
    with journal.operation("deploy", note="correct-horse-battery"):
        pass
    (tmp_path / "secrets.env").write_text("PLATFORM_SECRET=correct-horse-battery\n", encoding="utf-8")
    found = damages(journal)
    assert "line 1" in f"line {found[0].line}"
    assert {damage.reason for damage in found if damage.line} == {"holds a secret of this installation"}
    assert not any("correct-horse" in damage.reason for damage in found)
