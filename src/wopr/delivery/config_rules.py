"""The runbook's gotchas of compose files and Caddyfiles, each a pure rule that says where it bites and what to write.

They hold for any such file: the platform's own, the flat one, that of a GPU node, or one that somebody wrote by hand.
"""

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import pairwise
from urllib.parse import urlsplit

from wopr.core.errors import BadRequest
from wopr.delivery.compose_text import Service
from wopr.delivery.env_file import Fault
from wopr.delivery.env_rules import PATH_NAME
from wopr.delivery.registry_reference import Reference, parse_reference

MOVED = {"ggerganov/llama.cpp": "ghcr.io/ggml-org/llama.cpp:server-cuda"}
# Image, what its tag must hold where it shall use a GPU, and the tag that does.
GPU_TAGS = (
    ("chatterbox-tts-api", "gpu", "travisvn/chatterbox-tts-api:gpu"),
    ("faster-whisper-server", "cuda", "fedirz/faster-whisper-server:0.6.0-rc.3-cuda"),
    ("llama.cpp", "cuda", "ghcr.io/ggml-org/llama.cpp:server-cuda"),
)
FLASH_ATTENTION = ("--flash-attn", "-fa")
FLASH_ATTENTION_VALUES = ("on", "off", "auto", "0", "1")
MOVING_TAGS = ("latest", "staging", "main")
PRIVATE = re.compile(r"(?:^|/)wopr-(?:platform|bot)")
PUBLIC_SERVERS = ("docker.io",)
NO_GPU = ("cpu", "none")
BUILT_HERE = "local"

Values = Mapping[str, str]
Rule = Callable[[Service, Values], Iterator[Fault]]


def moved_images(service: Service, values: Values) -> Iterator[Fault]:
    """llama.cpp went to another owner: the old address answers no more."""
    for old, new in MOVED.items():
        if old in service.image:
            yield _fault(service, f"{service.image} has moved", f"image: {new}")


def gpu_tags(service: Service, values: Values) -> Iterator[Fault]:
    """An image that was built for the CPU starts on a GPU node, and is unusably slow."""
    image = _reference(service.image)
    if image is None or _without_gpu(service, values):
        return
    for name, word, good in GPU_TAGS:
        if image.name.endswith(name) and not image.digest and word not in image.tag:
            yield _fault(service, f"{service.image} is for the CPU only", f"image: {good}")


def flash_attention(service: Service, values: Values) -> Iterator[Fault]:
    """llama.cpp takes the flag with a value only; without one it takes the next flag for it and does not start."""
    for word, following in pairwise([*service.command, ""]):
        name, sign, value = word.partition("=")
        if name in FLASH_ATTENTION and (value if sign else following) not in FLASH_ATTENTION_VALUES:
            yield _fault(service, f"{name} has no value", f"{name} off, or on, or auto")


def login(service: Service, values: Values) -> Iterator[Fault]:
    """Private images can't be pulled without credentials (WOP-991)."""
    image = _reference(service.image)
    if image is None or not PRIVATE.search(image.name) or image.server in PUBLIC_SERVERS or _at_home(image):
        return
    if not (values.get("REGISTRY_USERNAME") and values.get("REGISTRY_PASSWORD")):
        says = f"{image.server} wants a login for {image.name}"
        yield _fault(service, says, "Set REGISTRY_USERNAME and REGISTRY_PASSWORD in .env")


def moving_tags(service: Service, values: Values) -> Iterator[Fault]:
    """A moving tag runs whatever was pulled last, which may be months old, and can't be gone back to."""
    image = _reference(service.image)
    if image and PRIVATE.search(image.name) and not image.digest and image.tag in MOVING_TAGS:
        says = f"{service.image} moves: nobody knows what runs, and there is nothing to go back to"
        yield _fault(service, says, "Name a digest or a commit's tag; wopr deploy records digests", refused=False)


def whole_paths(service: Service, values: Values) -> Iterator[Fault]:
    """A relative path means another place inside a container, and is lost with it."""
    for name, value in service.environment.items():
        relative = PATH_NAME.search(name) and value and not value.startswith("/")
        address = "://" in value or value.startswith("http")
        if relative and not address:
            yield _fault(service, f"{name}={value} is a relative path", f"{name}=/data/{value.lstrip('./')}")


def bare_sites(sites: Sequence[str]) -> Iterator[Fault]:
    """Caddy takes a bare local name for a public one, listens on 443 only and tries to get a certificate."""
    for site in sites:
        parts = urlsplit(site if "://" in site else f"//{site}")
        name = parts.hostname or ""
        local = name == "localhost" or name.endswith(".localhost") or re.fullmatch(r"[\d.]+", name)
        if local and not parts.scheme and _port(site) is None:
            yield Fault(0, site, f"the site {site} makes Caddy listen on 443 only", f"http://{site} {{ … }}")


IMAGES: Sequence[Rule] = (moved_images, gpu_tags)
FLAGS: Sequence[Rule] = (flash_attention,)
LOGIN: Sequence[Rule] = (login,)
TAGS: Sequence[Rule] = (moving_tags,)
PATHS: Sequence[Rule] = (whole_paths,)


def faults_of(services: Sequence[Service], values: Values, rules: Sequence[Rule]) -> list[Fault]:
    """What these rules say of all services."""
    return [fault for service in services for rule in rules for fault in rule(service, values)]


def _fault(service: Service, says: str, remedy: str, *, refused: bool = True) -> Fault:
    return Fault(0, service.name, f"{service.name}: {says}", remedy, refused)


def _reference(image: str) -> Reference | None:
    try:
        return parse_reference(image) if image else None
    except BadRequest:
        return None


def _without_gpu(service: Service, values: Values) -> bool:
    """Whether the operator said that this machine has none."""
    device = service.environment.get("DEVICE") or values.get("DEVICE", "")
    return device.lower() in NO_GPU or values.get("GPU_RUNTIME") == "runc"


def _at_home(image: Reference) -> bool:
    """Whether it comes from this machine: built here, or from a registry of its own."""
    return image.tag == BUILT_HERE or image.server.partition(":")[0] in ("localhost", "127.0.0.1")


def _port(site: str) -> int | None:
    found = re.search(r":(\d+)(?:/|$)", site)
    return int(found[1]) if found else None
