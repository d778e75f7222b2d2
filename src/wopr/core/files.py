"""The files of the home folder: their names, and writing them so that they are whole or absent, never a part."""

import os
import secrets
from pathlib import Path

SECRETS_FILE = "secrets.env"
# Left by a running `wopr up`, so that commands in another shell find what it started.
RUNNING_FILE = "run/up.env"
# The address of the embedded database, with its password.
DATABASE_URL_FILE = "postgres.url"
OWN_SECRETS = ("BETTER_AUTH_SECRET", "PLATFORM_SECRET", "GPU_NODE_SECRET")
OWNER_ONLY = 0o600


def replace_text(path: Path, text: str) -> None:
    """Write `text` as the whole content of `path`, readable by its owner only; a crash leaves the old or the new."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.new")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, OWNER_ONLY)
    with os.fdopen(descriptor, "w", encoding="utf-8") as stream:
        stream.write(text)
        stream.flush()
        os.fsync(stream.fileno())
    temporary.replace(path)


def read_secret(home: Path, name: str) -> str:
    """What `secrets.env` under the home folder says of one name; empty when nothing."""
    path = home / SECRETS_FILE
    lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
    pairs = [line.partition("=") for line in lines if not line.lstrip().startswith("#")]
    return next((value.strip().strip("\"'") for key, _, value in pairs if key.strip() == name), "")


def ensure_own_secrets(home: Path) -> None:
    """Generate the secrets that are ours alone, once, into `secrets.env` under the home folder; those there stay."""
    path = home / SECRETS_FILE
    present = path.read_text(encoding="utf-8") if path.exists() else ""
    names = {line.partition("=")[0].strip() for line in present.splitlines()}
    missing = [name for name in OWN_SECRETS if name not in names]
    if not missing:
        return
    if present and not present.endswith("\n"):
        present += "\n"
    replace_text(path, present + "".join(f"{name}={secrets.token_hex(32)}\n" for name in missing))
