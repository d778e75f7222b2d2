"""`docker compose` as a person types it, where only compose 1.29 is installed: the plugin hands over to it."""

import os
import shutil
import subprocess
from pathlib import Path

from tests.machines.building import FOLDER
from tests.machines.engine import Engine

SHIM_END = "place=/tmp"


def compose_environment(engine: Engine, folder: Path) -> dict[str, str]:
    """An environment in which `docker compose` works: as it is, or with a plugin in a Docker folder of its own."""
    if subprocess.run(["docker", "compose", "version"], capture_output=True).returncode == 0:
        return engine.environment
    program = shutil.which("docker-compose")
    assert program is not None, "neither compose v2 nor 1.29 is installed"
    # The shim of the docker:27-cli stand-in, without the archive that it carries there.
    shim = (FOLDER / "docker-cli" / "compose-shim").read_text().partition(SHIM_END)[0]
    plugin = folder / "cli-plugins" / "docker-compose"
    plugin.parent.mkdir(parents=True, exist_ok=True)
    plugin.write_text(f'{shim}exec {program} "$@"\n')
    plugin.chmod(0o755)
    return {**engine.environment, "DOCKER_CONFIG": str(folder), "HOME": os.environ.get("HOME", "/")}
