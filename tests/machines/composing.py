"""Which compose the tests use: v2, as an operator has it, or 1.29, which Debian 12 packages as a program of its own.

v2 is this machine's, or the one that scripts/prepare-tests put into the tests' cache: a folder of the Docker client's
settings holds it as a plugin.
"""

import functools
import os
import shutil
import subprocess
from pathlib import Path

from tests.live import missing
from tests.machines.engine import Engine, cache_folder

PREPARED = "docker-compose-v2"
# The first plugin of a name that the client finds counts, also when it is of no use.
NO_PLUGIN = "#!/bin/sh\nexit 1\n"


def compose_environment(engine: Engine, folder: Path) -> dict[str, str]:
    """An environment in which `docker compose` is v2. The folder becomes the client's, when one is needed for that."""
    return {**engine.environment, "HOME": os.environ.get("HOME", "/"), **compose_variables(folder)}


def compose_variables(folder: Path, *, old: bool = False) -> dict[str, str]:
    """What makes `docker compose` v2; with `old` there is no such plugin, and `docker-compose` is 1.29."""
    plugin = folder / "cli-plugins" / "docker-compose"
    if old:
        if not _version("docker-compose").startswith("1."):
            missing("docker-compose 1.29")
        plugin.parent.mkdir(parents=True, exist_ok=True)
        plugin.write_text(NO_PLUGIN)
        plugin.chmod(0o755)
    elif not _version("docker", "compose").lstrip("v").startswith(tuple("23456789")):
        prepared = cache_folder() / PREPARED
        if not prepared.exists():
            missing("compose v2 (scripts/prepare-tests fetches it)")
        plugin.parent.mkdir(parents=True, exist_ok=True)
        plugin.unlink(missing_ok=True)
        plugin.symlink_to(prepared)
    else:
        return {}
    return {"DOCKER_CONFIG": str(folder)}


@functools.cache
def _version(*program: str) -> str:
    """What is installed here says of itself; empty when there is none."""
    if shutil.which(program[0]) is None:
        return ""
    return subprocess.run([*program, "version", "--short"], capture_output=True, text=True).stdout.strip()
