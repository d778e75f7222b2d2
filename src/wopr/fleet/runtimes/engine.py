"""The one door to a container engine: the calls that the fleet needs, with errors that name the remedy.

Everything is asked of the engine itself, at the address in DOCKER_HOST; no client program and no configuration of a
user's client is involved.
"""

import asyncio
import base64
import contextlib
import json
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any  # the engine's JSON, which is read at once by whoever asked for it

import aiohttp
from aiodocker import Docker, DockerError

from wopr.fleet.runtimes.protocol import RuntimeFailed

CALL_SECONDS_MAX = 60.0
PULL_SECONDS_MAX = 900.0
CONNECTIONS_MAX = 2_000
UNIX = "unix://"
UNREACHABLE = 900  # the status that aiodocker gives to an engine that isn't there
NOT_MODIFIED, NOT_FOUND, CONFLICT = 304, 404, 409
REGISTRY_AUTH = "X-Registry-Auth"
Json = Mapping[str, Any]


class EngineAway(RuntimeFailed):
    """The engine can't be reached. Bots may well be running."""

    default_code = "engine_away"
    for_customers = "The bot's machine does not answer now. It is tried again by itself, and the operator was told."


class EngineRefused(RuntimeFailed):
    """The engine answered with an error; `http_status` is its own."""

    default_code = "engine_refused"

    def __init__(self, http_status: int, message: str) -> None:
        super().__init__(f"The container engine refused: {message}", remedy="Look at the engine's own log.")
        self.http_status = http_status
        self.reason = message


@dataclass(frozen=True)
class Output:
    """What a one-shot container left behind."""

    code: int
    text: str


class Engine:
    """A connection to one engine, opened at the first call."""

    def __init__(self, address: str) -> None:
        self.address = address
        self._docker: Docker | None = None
        self._connector: aiohttp.BaseConnector | None = None

    async def close(self) -> None:
        docker, self._docker = self._docker, None
        connector, self._connector = self._connector, None
        if docker is not None:
            await docker.close()
        if connector is not None:
            await connector.close()

    async def call(
        self,
        method: str,
        path: str,
        *,
        query: Json | None = None,
        body: Json | None = None,
        auth: Mapping[str, str] | None = None,
    ) -> Any:
        """One request of the Engine API; its JSON. `auth` goes along for the image's registry.

        Raises `EngineAway`, `EngineRefused`.
        """
        headers = {REGISTRY_AUTH: auth_header(auth)} if auth else None
        with _errors(self.address):
            async with asyncio.timeout(CALL_SECONDS_MAX):
                # The library's sub-APIs lack some routes and parameters that are used here; this is what they stand on.
                return await self._client()._query_json(path, method, params=query, data=body, headers=headers)

    async def containers(self, labels: Mapping[str, str], *, stopped: bool = False) -> Sequence[Json]:
        """The containers with these labels; only running ones unless `stopped`."""
        query = {"filters": _filters(labels), "all": "true" if stopped else "false"}
        found: Sequence[Json] = await self.call("GET", "containers/json", query=query)
        return found

    async def inspect(self, name: str) -> Json | None:
        """A container by name or id."""
        return await self._maybe("GET", f"containers/{name}/json")

    async def create(self, name: str, config: Json) -> str:
        """Create a container; its id."""
        created = await self.call("POST", "containers/create", query={"name": name}, body=config)
        return str(created["Id"])

    async def start(self, container: str) -> None:
        await self.call("POST", f"containers/{container}/start")

    async def stop(self, container: str, grace_seconds: int) -> None:
        """Ask to end, then kill; what is stopped or gone is fine."""
        with _fine(NOT_FOUND, NOT_MODIFIED):
            await self.call("POST", f"containers/{container}/stop", query={"t": grace_seconds})

    async def rename(self, container: str, name: str) -> None:
        await self.call("POST", f"containers/{container}/rename", query={"name": name})

    async def remove(self, container: str) -> None:
        """Delete a container, running or not, with volumes that have no name; one that is gone or going is fine."""
        with _fine(NOT_FOUND, CONFLICT):
            await self.call("DELETE", f"containers/{container}", query={"force": "true", "v": "true"})

    async def image(self, reference: str) -> Json | None:
        """A local image."""
        return await self._maybe("GET", f"images/{reference}/json")

    async def pull(self, reference: str, auth: Mapping[str, str] | None) -> None:
        """Fetch an image with exactly these credentials. The reason of a refusal is in `EngineRefused.reason`."""
        with _errors(self.address):
            async with asyncio.timeout(PULL_SECONDS_MAX):
                async for _ in self._client().images.pull(reference, auth=auth, stream=True):
                    pass

    async def volumes(self, labels: Mapping[str, str]) -> Sequence[str]:
        """Names of the volumes with these labels."""
        found = await self.call("GET", "volumes", query={"filters": _filters(labels)})
        return [volume["Name"] for volume in found["Volumes"] or []]

    async def remove_volume(self, name: str) -> None:
        """Delete a volume with its data; one that is gone is fine."""
        with _fine(NOT_FOUND):
            await self.call("DELETE", f"volumes/{name}", query={"force": "true"})

    async def events(
        self, labels: Mapping[str, str], connected: Callable[[], None], since: float | None
    ) -> AsyncIterator[Json]:
        """What happens to containers with these labels, from now on or since a moment (seconds since the epoch).

        Ends when the engine goes away.
        """
        filters = json.dumps({"type": ["container"], "label": _pairs(labels), "event": ["start", "kill", "die"]})
        query = {"filters": filters} if since is None else {"filters": filters, "since": f"{since:.9f}"}
        timeout = aiohttp.ClientTimeout()
        with _errors(self.address):
            # The library leaves the response to its caller, hence it twice.
            async with self._client()._query("events", params=query, timeout=timeout) as response, response:
                connected()
                while line := await response.content.readline():
                    yield json.loads(line)

    async def log(
        self, name: str, query: Json, *, follow: bool, kind: str = "containers"
    ) -> AsyncIterator[tuple[int, bytes]]:
        """The log of a container (or of services, tasks) as the engine frames it: 1 or 2 for the stream, and bytes."""
        params = {"stdout": "true", "stderr": "true", "timestamps": "true", "follow": str(follow).lower(), **query}
        timeout = aiohttp.ClientTimeout(total=None if follow else CALL_SECONDS_MAX)
        with _errors(self.address), contextlib.suppress(asyncio.IncompleteReadError):
            path = f"{kind}/{name}/logs"
            async with self._client()._query(path, params=params, timeout=timeout) as response, response:
                while True:
                    head = await response.content.readexactly(8)
                    yield head[0], await response.content.readexactly(int.from_bytes(head[4:], "big"))

    async def run(self, config: Json) -> Output:
        """Run a container to its end and delete it."""
        container = str((await self.call("POST", "containers/create", body=config))["Id"])
        try:
            await self.start(container)
            ended = await self.call("POST", f"containers/{container}/wait")
            text = b"".join([part async for _, part in self.log(container, {"timestamps": "false"}, follow=False)])
        finally:
            await asyncio.shield(self.remove(container))
        return Output(int(ended["StatusCode"]), text.decode("utf-8", "replace"))

    def _client(self) -> Docker:
        if self._docker is None:
            # Everybody who follows a log holds a connection: they must not keep the reconciler from its own.
            if self.address.startswith(UNIX):
                self._connector = aiohttp.UnixConnector(self.address.removeprefix(UNIX), limit=CONNECTIONS_MAX)
                self._docker = Docker(url="http://localhost", connector=self._connector)
            else:
                self._docker = Docker(url=self.address)
        return self._docker

    async def _maybe(self, method: str, path: str) -> Json | None:
        try:
            found: Json = await self.call(method, path)
        except EngineRefused as error:
            if error.http_status == NOT_FOUND:
                return None
            raise
        return found


def auth_header(auth: Mapping[str, str]) -> str:
    """The value of X-Registry-Auth."""
    return base64.urlsafe_b64encode(json.dumps(auth).encode()).decode()


def _pairs(labels: Mapping[str, str]) -> list[str]:
    return [f"{name}={value}" for name, value in labels.items()]


def _filters(labels: Mapping[str, str]) -> str:
    return json.dumps({"label": _pairs(labels)})


@contextlib.contextmanager
def _errors(address: str) -> Iterator[None]:
    try:
        yield
    except DockerError as error:
        if error.status == UNREACHABLE:
            raise _away(address, error.message) from error
        raise EngineRefused(error.status, error.message) from error
    except (aiohttp.ClientError, TimeoutError, OSError) as error:
        raise _away(address, str(error) or type(error).__name__) from error


@contextlib.contextmanager
def _fine(*statuses: int) -> Iterator[None]:
    try:
        yield
    except EngineRefused as error:
        if error.http_status not in statuses:
            raise


def _away(address: str, why: str) -> EngineAway:
    return EngineAway(
        f"The container engine at {address} can't be reached: {why}.",
        remedy="Start Docker (systemctl start docker), or correct DOCKER_HOST. Bots that run go on.",
        retry_after_seconds=5,
    )
