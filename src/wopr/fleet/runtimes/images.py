"""Has a bot's image at hand: pulled once with explicit credentials, never when it is there already.

So a registry that is away or refuses stops nobody whose image is on the machine, and no pull depends on what somebody
once typed into `docker login`.
"""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field
from time import monotonic

import structlog

from wopr.fleet.runtimes.engine import CONFLICT, NOT_FOUND, Engine, EngineRefused
from wopr.fleet.runtimes.node_agent import mark_of, unneeded
from wopr.fleet.runtimes.protocol import RuntimeFailed

FAILURE_SECONDS = 10.0
DEFAULT_REGISTRY = "docker.io"
IMAGE_ID = "sha256:"  # how an engine's own name of an image begins
REFUSALS = ("unauthorized", "authentication required", "denied", "no basic auth", "forbidden")
UNKNOWN = ("manifest unknown", "not found", "no such image", "does not exist", "name unknown")
AWAY = (
    "connection refused",
    "no such host",
    "timeout",
    "timed out",
    "unreachable",
    "eof",
    "server misbehaving",
    "reset",
)

log = structlog.get_logger(__name__)


class PullFailed(RuntimeFailed):
    """The image is not here and could not be fetched; what runs goes on."""

    default_code = "pull_failed"
    for_customers = "The bot's program is not available now. It is tried again by itself, and the operator was told."


@dataclass(frozen=True)
class Credentials:
    """How we identify ourselves at one registry, and at no other."""

    server: str
    username: str = ""
    password: str = field(default="", repr=False)

    def auth_for(self, reference: str) -> dict[str, str] | None:
        """What to send along with a pull of this image; None for another registry, or when nothing is set."""
        if registry_of(reference) != self.server or not (self.username and self.password):
            return None
        return {"username": self.username, "password": self.password, "serveraddress": self.server}


class Images:
    """The images of one engine: concurrent wishes share a pull, and a failure is believed for some seconds.

    A pull goes on when whoever wished for it is interrupted: a pass of the reconciler is shorter than slow lines need.
    """

    def __init__(self, engine: Engine, installation: str, credentials: Credentials) -> None:
        self._engine = engine
        self._installation = installation
        self._credentials = credentials
        self._pulls: dict[str, asyncio.Task[None]] = {}
        self._failed: dict[str, tuple[float, PullFailed]] = {}

    async def ensure(self, reference: str) -> None:
        """Pull the image unless it is here. Raises `PullFailed` with who must do what."""
        if reference not in self._pulls:
            if await self._engine.image(reference) is not None:
                return
            failed = self._failed.get(reference)
            if failed is not None and monotonic() - failed[0] < FAILURE_SECONDS:
                raise failed[1]
        if reference not in self._pulls:
            task = asyncio.create_task(self._pull(reference), name=f"pull {reference}")
            self._pulls[reference] = task
            task.add_done_callback(lambda done: self._ended(reference, done))
        await asyncio.shield(self._pulls[reference])

    async def hold(self, reference: str) -> None:
        """Have a bot's image, and mark it as needed here: other installations on the engine then leave it alone."""
        await self.ensure(reference)
        repository, _, tag = mark_of(self._installation, reference).rpartition(":")
        if tag:
            await self._engine.call("POST", f"images/{reference}/tag", query={"repo": repository, "tag": tag})

    async def prune(self, needed: Sequence[str]) -> int:
        """Let go of old images of bots but for these; how many. One that a container has, or that is gone, is fine."""
        done = 0
        for mark in unneeded(await self._engine.call("GET", "images/json"), list(needed), self._installation):
            try:
                await self._engine.call("DELETE", f"images/{mark}")
            except EngineRefused as error:
                if error.http_status not in (CONFLICT, NOT_FOUND):
                    raise
                continue
            log.info("image.let_go", image=mark)
            done += 1
        return done

    async def close(self) -> None:
        """Give up what is being pulled."""
        pulls = list(self._pulls.values())
        for pull in pulls:
            pull.cancel()
        await asyncio.gather(*pulls, return_exceptions=True)

    def _ended(self, reference: str, task: asyncio.Task[None]) -> None:
        self._pulls.pop(reference, None)
        if not task.cancelled() and isinstance(error := task.exception(), PullFailed):
            self._failed[reference] = (monotonic(), error)

    async def _pull(self, reference: str) -> None:
        began = monotonic()
        try:
            await self._engine.pull(reference, self._credentials.auth_for(reference))
        except EngineRefused as error:
            failure = explain(reference, error.reason, self._credentials)
            log.error("image.pull_failed", image=reference, error=failure.message, remedy=failure.remedy)
            raise failure from error
        log.info("image.pulled", image=reference, seconds=round(monotonic() - began, 1))


async def ask_registry(engine: Engine, reference: str, credentials: Credentials) -> None:
    """Whether the image's registry would give it out; an engine's own id names none. Raises `PullFailed`."""
    if reference.startswith(IMAGE_ID):
        return
    try:
        await engine.call("GET", f"distribution/{reference}/json", auth=credentials.auth_for(reference))
    except EngineRefused as error:
        raise explain(reference, error.reason, credentials) from error


def registry_of(reference: str) -> str:
    """The host in an image's name; names without one belong to the public registry."""
    first, slash, _ = reference.partition("/")
    is_host = slash and ("." in first or ":" in first or first == "localhost")
    return first if is_host else DEFAULT_REGISTRY


def explain(reference: str, reason: str, credentials: Credentials, machine: str = "this machine") -> PullFailed:
    """What a registry's refusal to a machine means for the operator."""
    text, server = reason.lower(), registry_of(reference)
    if any(word in text for word in REFUSALS):
        return _refused(reference, server, credentials)
    if any(word in text for word in UNKNOWN):
        return PullFailed(
            f"The registry {server} has no image {reference}.",
            code="image_unknown",
            remedy="Correct BOT_IMAGE, or push the image with `wopr images push`.",
        )
    if any(word in text for word in AWAY):
        return PullFailed(
            f"The registry {server} can't be reached, and {reference} is not on {machine}: {reason}",
            code="registry_away",
            remedy="It is tried again; what runs goes on. Check the network and REGISTRY_SERVER.",
            retry_after_seconds=FAILURE_SECONDS,
        )
    return PullFailed(f"{reference} could not be pulled: {reason}", remedy="Try `docker pull` by hand for the details.")


def _refused(reference: str, server: str, credentials: Credentials) -> PullFailed:
    if server != credentials.server:
        return PullFailed(
            f"The registry {server} demands credentials for {reference}, and ours are for {credentials.server}.",
            code="registry_refused",
            remedy="Set REGISTRY_SERVER, REGISTRY_USERNAME and REGISTRY_PASSWORD to those of the image's registry.",
        )
    if not (credentials.username and credentials.password):
        return PullFailed(
            f"The registry {server} demands credentials for {reference}, and none are set.",
            code="registry_refused",
            remedy="Set REGISTRY_USERNAME and REGISTRY_PASSWORD.",
        )
    return PullFailed(
        f"The registry {server} refused the credentials of {credentials.username} for {reference}.",
        code="registry_refused",
        remedy="Correct REGISTRY_USERNAME and REGISTRY_PASSWORD; the token needs the right to read packages.",
    )
