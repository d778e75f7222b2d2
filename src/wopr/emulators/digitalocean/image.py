"""The image of all machines: built once from Debian's packages, and again when its recipe or its base changes."""

import contextlib
import hashlib
import re
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path

from wopr.emulators.digitalocean.docker import DockerRefused, docker

FOLDER = Path(__file__).parent / "machine"
BASE_IMAGE = "debian:bookworm-slim"
REPOSITORY = "wopr-machine"
_BUILD_SECONDS = 1_800.0
_STEP = re.compile(r"(?:Step |#\d+ \[\s*)(\d+)/(\d+)(?: : |\] )(.+)")
_STEP_CHARACTERS = 40
Stage = Callable[[str], AbstractContextManager[object]]
"""Tells that something begins, and by its end how it ended."""


def image_name(base_image: str = BASE_IMAGE) -> str:
    """The image's name, which tells what it is made from."""
    digest = hashlib.sha256(base_image.encode())
    for path in sorted(FOLDER.iterdir()):
        digest.update(path.name.encode() + b"\0" + path.read_bytes())
    return f"{REPOSITORY}:{digest.hexdigest()[:16]}"


async def ensure_image(base_image: str = BASE_IMAGE, stage: Stage = contextlib.nullcontext) -> str:
    """Build the image unless the engine has it; its name. Takes minutes the first time: each step is a stage."""
    name = image_name(base_image)
    try:
        await docker("image", "inspect", "--format", "{{.Id}}", name)
    except DockerRefused:
        with contextlib.ExitStack() as step:

            def hear(line: str) -> None:
                if what := step_of(line):
                    step.close()
                    step.enter_context(stage(f"machines' image, {what}"))

            command = ("build", "--tag", name, "--build-arg", f"BASE_IMAGE={base_image}", str(FOLDER))
            await docker(*command, seconds=_BUILD_SECONDS, tell=hear)
    return name


def step_of(line: str) -> str:
    """The step of a build that begins with a line of its output, of whichever builder; empty when none does."""
    found = _STEP.match(line)
    if found is None:
        return ""
    number, of, what = found.groups()
    return f"step {number} of {of}: {what if len(what) <= _STEP_CHARACTERS else what[: _STEP_CHARACTERS - 1] + '…'}"
