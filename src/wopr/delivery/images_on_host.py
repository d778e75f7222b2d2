"""Images on the host of a release: fetched by digest with the operator's credentials, checked, and given back later."""

import asyncio
import base64
import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

from wopr.delivery import commands
from wopr.delivery.context import Context
from wopr.delivery.errors import HostFailed, Refused, refuse_away
from wopr.delivery.hosts import Host
from wopr.delivery.lock import Fence
from wopr.delivery.release import Judgement, Release
from wopr.fleet.runtimes.node_agent import is_held

PULL_SECONDS_MAX = 1800.0
RELEASES_KEPT = 5
REFERENCE = re.compile(r"^(sha256:[0-9a-f]{64}|[\w.-]+(:\d+)?(/[\w.-]+)*(:[\w.-]+)?(@sha256:[0-9a-f]{64})?)$")
# The numbers only as a status: they may stand in a digest or a port as well.
NO_ACCESS = re.compile(
    r"unauthorized|denied|no basic auth|authentication required|forbidden|(status|code|http)[^\n]{0,20}\b40[13]\b",
    re.IGNORECASE,
)
PUBLIC_REGISTRY = "docker.io"
AROUND = ("POSTGRES_IMAGE", "CADDY_IMAGE")
PLATFORM_PROGRAM, BOT_PROGRAM = "wopr", "wopr.bot"


async def fetch(fence: Fence, settings: Mapping[str, str], image: str) -> str:
    """Have the image on the host; its reference by digest (or its id, for one that came from no registry).

    The registry's credentials are in these `settings` of `.env`. What is there already is not asked for again, so that
    a release works with the registry offline. Refused for a name that can't be one, HostFailed when it can't be pulled.
    """
    refuse_no_name(image)
    pinned = "@sha256:" in image or image.startswith("sha256:")
    described = await _described(fence.host, image)
    if pinned:
        if described is None:
            await _pull(fence, settings, image, present=False)
        return image
    if described is None or _digest(image, described):
        await _pull(fence, settings, image, present=described is not None)
        described = await _described(fence.host, image)
    if described is None:
        raise HostFailed(f"{image} was pulled and is not there.", remedy="docker image ls")
    return _pinned(image, described)


async def fetch_around(ctx: Context) -> None:
    """Have the images around the slots that lie in our own registry: compose, which fetches all others at their first
    start, would ask for them without credentials. One that is there stays as it is."""
    for name in AROUND:
        image = ctx.settings.get(name, "")
        if not image or registry_of(image) != ctx.settings.get("REGISTRY_SERVER"):
            continue
        if await _described(ctx.host, image) is None:
            await _pull(ctx.fence, ctx.settings, image, present=False)
            ctx.step("pulled", image=image)


def refuse_no_name(image: str) -> None:
    """Refused for a name that no image can have."""
    if not REFERENCE.match(image):
        raise Refused(f"{image!r} is no image name.", remedy="Write it as ghcr.io/owner/name@sha256:…, or with a tag.")


async def unfit(ctx: Context, image: str, program: str = PLATFORM_PROGRAM) -> str:
    """Why an image can't run this program here; nothing when it can."""
    described, engine = await asyncio.gather(_described(ctx.host, image), ctx.host.run(commands.architecture()))
    if described is None:
        return "it is not on the host"
    if engine.ok and described.get("Architecture") != engine.text:
        return f"it is built for {described.get('Architecture')}, and this host is {engine.text}"
    entry = " ".join((described.get("Config") or {}).get("Entrypoint") or ())
    return "" if program in entry else f"it does not start {program} (its entrypoint is {entry or 'empty'})"


async def give_back(ctx: Context, releases: Sequence[Release]) -> None:
    """Remove images of releases to which nobody will go back: all but those of the newest good ones.

    One that bots hold is theirs: the fleet lets it go when no bot needs it.
    """
    good = [one for one in releases if one.verdict == Judgement.GOOD][-RELEASES_KEPT:]
    kept = {image for one in good for image in (one.platform, one.bot)}
    newest = releases[-RELEASES_KEPT:]  # a failed one may be looked at by the operator
    kept |= {image for one in newest for image in (one.platform, one.bot)}
    for image in sorted({image for one in releases for image in (one.platform, one.bot) if image} - kept):
        described = await _described(ctx.host, image)
        if described is not None and not is_held(described):
            await ctx.fence.run(commands.remove_image(image))  # one that a container needs stays


async def _pull(fence: Fence, settings: Mapping[str, str], image: str, *, present: bool) -> None:
    server, user = settings.get("REGISTRY_SERVER", ""), settings.get("REGISTRY_USERNAME", "")
    config = ""
    try:
        if user and registry_of(image) == (server or "ghcr.io"):
            config = fence.place.registry_config
            await fence.write(f"{config}/config.json", credentials(settings))
        pulled = await fence.run(commands.pull(image, config), timeout=PULL_SECONDS_MAX)
    finally:
        if config:
            await fence.run(commands.remove_files(config))
    if pulled.ok:
        return
    problem = HostFailed(f"{image} can't be pulled: {pulled.complaint}")
    if problem.no_room:
        remedy = "Make room: docker system df, then docker image prune."
    elif NO_ACCESS.search(pulled.complaint):
        remedy = "Set REGISTRY_SERVER, REGISTRY_USERNAME and REGISTRY_PASSWORD in .env: they are missing or wrong."
    else:
        remedy = "Is the name right, and does the registry answer?"
    if present and "@" not in image:
        remedy += " The host has an image of this name: release it by its digest or id."
    raise HostFailed(problem.message, remedy=remedy)


def credentials(settings: Mapping[str, str]) -> bytes:
    """The client's configuration with the registry's credentials."""
    pair = f"{settings.get('REGISTRY_USERNAME', '')}:{settings.get('REGISTRY_PASSWORD', '')}"
    auth = base64.b64encode(pair.encode()).decode()
    return json.dumps({"auths": {settings.get("REGISTRY_SERVER") or "ghcr.io": {"auth": auth}}}).encode()


def registry_of(image: str) -> str:
    """The registry of an image: what stands before the first slash when it looks like a host."""
    first, slash, _ = image.partition("/")
    return first if slash and ("." in first or ":" in first or first == "localhost") else PUBLIC_REGISTRY


def name_of(image: str) -> str:
    """The image's name without tag and digest."""
    bare = image.partition("@")[0]
    head, slash, last = bare.rpartition("/")
    return f"{head}{slash}{last.partition(':')[0]}"


async def _described(host: Host, image: str) -> dict[str, Any] | None:
    got = await host.run(commands.inspect_image(image))
    if not got.ok:
        refuse_away(got.complaint, host.describe())
        return None
    found: list[dict[str, Any]] = json.loads(got.out)
    return found[0] if found else None


def _pinned(image: str, described: Mapping[str, Any]) -> str:
    """The reference by digest under the same name; the id where no registry knows it by that."""
    return _digest(image, described) or str(described["Id"])


def _digest(image: str, described: Mapping[str, Any]) -> str:
    """The reference by digest under the same name. Empty for what was built or loaded here, wherever it was pushed."""
    digests: list[str] = described.get("RepoDigests") or []
    return next((one for one in digests if _familiar(one) == _familiar(image)), "")


def _familiar(image: str) -> str:
    """The name as the engine writes it: without what the public registry has by default."""
    return name_of(image).removeprefix(f"{PUBLIC_REGISTRY}/").removeprefix("library/")
