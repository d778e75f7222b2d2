"""The image of all machines: built once from Debian's packages, and again when its recipe or its base changes."""

import hashlib
from pathlib import Path

from wopr.emulators.digitalocean.docker import DockerRefused, docker

FOLDER = Path(__file__).parent / "machine"
BASE_IMAGE = "debian:bookworm-slim"
REPOSITORY = "wopr-machine"
_BUILD_SECONDS = 1_800.0


def image_name(base_image: str = BASE_IMAGE) -> str:
    """The image's name, which tells what it is made from."""
    digest = hashlib.sha256(base_image.encode())
    for path in sorted(FOLDER.iterdir()):
        digest.update(path.name.encode() + b"\0" + path.read_bytes())
    return f"{REPOSITORY}:{digest.hexdigest()[:16]}"


async def ensure_image(base_image: str = BASE_IMAGE) -> str:
    """Build the image unless the engine has it; its name. Takes minutes the first time."""
    name = image_name(base_image)
    try:
        await docker("image", "inspect", "--format", "{{.Id}}", name)
    except DockerRefused:
        command = ("build", "--quiet", "--tag", name, "--build-arg", f"BASE_IMAGE={base_image}", str(FOLDER))
        await docker(*command, seconds=_BUILD_SECONDS)
    return name
