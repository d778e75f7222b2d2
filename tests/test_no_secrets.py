"""Nothing secret is in the repository: no key of a company, no private key, no file that holds settings."""

import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from wopr.ops.redaction import SECRET_NAME

ROOT = Path(__file__).parent.parent
# What companies give out, and we do: a prefix, then what is drawn by lot.
GIVEN_OUT = re.compile(
    r"(?:wopr_(?:read|write|admin|bot|node|join)_|[srp]k_(?:live|test)_|whsec_|\bre_|gh[pousr]_|github_pat_|glpat-|"
    r"dckr_pat_|do[por]_v1_|\bsk-(?:proj-)?|\bhf_|\bAKIA|\bxox[abprs]-|\beyJ[\w-]+\.)([\w+/=-]{16,})"
)
PRIVATE_KEY = re.compile(r"-----BEGIN [A-Z ]*PRIVATE KEY-----\s+[A-Za-z0-9+/=]{40}")
VARIABLE = re.compile(r"^(?:export )?([A-Z][A-Z0-9_]+)=(\S+)", re.MULTILINE)
FORBIDDEN_FILE = re.compile(
    r"(?:^|/)(?:\.env|\.env\.[\w.]+|id_[a-z0-9]+|\.netrc|\.pypirc|[\w.-]+\.(?:pem|key|p12|pfx))$"
)
# Each with where it comes from.
KNOWN = {
    "5dZ1XrVyFHCrQZ0ArvhFz": "the beginning of the example in the documentation of the mail company's webhooks",
    "k3Jd82hQpXv7LmN4tYs9RbWc": "a key as pages show it, made up",
}


def drawn(text: str) -> bool:
    """Whether it looks drawn by lot: digits, small and capital letters, or many hexadecimal digits in no order."""
    if re.fullmatch(r"[0-9a-f]{32,}", text):
        return len(set(text)) > 10 and text[:10] not in ("0123456789", "1234567890")
    return all(re.search(kind, text) for kind in (r"\d", r"[a-z]", r"[A-Z]")) and len(set(text)) > 10


def secrets_in(text: str) -> Iterator[str]:
    """What in it looks like a secret that somebody uses."""
    yield from (found for found in GIVEN_OUT.findall(text) if drawn(found) and found not in KNOWN)
    yield from PRIVATE_KEY.findall(text)


def tracked() -> list[str]:
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True)
    return [name for name in listed.stdout.split("\0") if name and (ROOT / name).is_file()]


def test_no_file_holds_a_secret() -> None:
    found = {name: list(secrets_in((ROOT / name).read_text(encoding="utf-8", errors="replace"))) for name in tracked()}
    assert {name: secrets for name, secrets in found.items() if secrets} == {}


def test_no_file_of_settings_or_keys_is_tracked() -> None:
    assert [name for name in tracked() if FORBIDDEN_FILE.search(name) and not name.endswith(".example")] == []


@pytest.mark.parametrize("name", [name for name in tracked() if name.endswith(".example")])
def test_examples_of_settings_leave_secrets_out(name: str) -> None:
    given = dict(VARIABLE.findall((ROOT / name).read_text(encoding="utf-8")))
    assert {name: value for name, value in given.items() if SECRET_NAME.search(name) and drawn(value)} == {}


@pytest.mark.parametrize(
    "text",
    [
        "STRIPE=sk_live_" + "51Hq8ZbLkd93jXv7QmN4tYs9",
        "token: dop_v1_" + "9c1f0a77be43d2586e1f0a9b3c4d5e6f9c1f0a77be43d2586e1f0a9b3c4d5e6f",
        "key = 'ghp_" + "wZ8kQ3mV1xT6yR4nB7cL2pD9'",
        "-----BEGIN OPENSSH PRIVATE " + "KEY-----\nb3BlbnNzaC1rZXktdjEAAAAABG5vbmUAAAAEbm9uZQAAAAAAAAABAAAAMwAA",
    ],
)
def test_what_is_one_is_found(text: str) -> None:
    assert list(secrets_in(text))


@pytest.mark.parametrize("name", [".env", "deploy/.env.production", "keys/id_ed25519", "tls/server.key", "a.pem"])
def test_files_that_hold_them_are_known(name: str) -> None:
    assert FORBIDDEN_FILE.search(name)
