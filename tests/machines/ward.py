"""A rented node and the API process that looks after it, for tests that break the one and kill the other."""

import asyncio
import json
import subprocess
import sys
import uuid
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import asyncpg
import httpx
from tests.machines.cloud import Cloud
from tests.machines.nodes import of_a_node
from tests.machines.registry import Registry
from tests.mortal import mortal
from tests.preload import compiled
from tests.stack import clean_environment, free_ports, run_wopr

from wopr.emulators.digitalocean.boxes import Names
from wopr.ops.entry import Entry
from wopr.ops.incidents import all_incidents
from wopr.ops.journal import Journal

SIZE = "s-4vcpu-8gb"
LOOK_SECONDS = 0.25
READY_SECONDS = 120.0
MADE_SECONDS = 600.0
REPAIRED_SECONDS = 300.0


@dataclass
class Ward:
    """The platform over HTTP and by its journal; the machine as who stands before it."""

    box: Cloud
    home: Path
    port: int
    database: str
    environment: Mapping[str, str]
    http: httpx.Client = field(default_factory=lambda: httpx.Client(timeout=60, trust_env=False))
    process: "subprocess.Popen[bytes] | None" = None
    tenant_id: str = ""
    node_id: str = ""
    _entries_before: int = 0
    _actions_before: int = 0

    def start_api(self, more: Mapping[str, str] | None = None) -> None:
        """A process with the API and its loops. `more`: of its environment."""
        command = [sys.executable, "-m", "wopr", "api", "--host", "0.0.0.0", "--port", str(self.port)]
        with (self.home / "api.log").open("ab") as log:
            self.process = subprocess.Popen(
                mortal(command), stdout=log, stderr=log, env={**self.environment, **(more or {})}
            )

    def kill_api(self) -> None:
        """As the kernel does it."""
        assert self.process is not None
        self.process.kill()
        self.process.wait(timeout=60)

    async def sign_in(self) -> None:
        """As an administrator, with a link that works once."""
        made = run_wopr("admin", "create", "ada@example.com", "--json", environment=self.environment)
        assert made.returncode == 0, made.stderr
        token = parse_qs(urlsplit(json.loads(made.stdout)["link"]).query)["token"][0]
        await self.until(self._ready, "the API", READY_SECONDS)
        self.http.headers["origin"] = self.environment["UI_URL"]
        self.tenant_id = self._call("POST", "/api/auth/one-time", {"token": token})["tenant"]["id"]

    async def provision(self) -> None:
        """Rent a node and wait until it serves."""
        await self.sign_in()
        self.node_id = self._call("POST", "/api/admin/nodes/provision", {"size": SIZE})["nodes"][0]["id"]
        await self.until_serves(MADE_SECONDS)

    def node(self) -> dict[str, Any]:
        """The node as an administrator sees it."""
        found: dict[str, Any] = self._call("GET", f"/api/admin/nodes/{self.node_id}")
        assert found["provision_stage"] != "failed", f"{found}\n{self.told()}"
        return found

    async def until_serves(self, seconds: float = REPAIRED_SECONDS) -> None:
        """Until every service is well and nothing is being repaired."""
        await self.until(self._serves, "the node to serve", seconds)

    async def until_repaired(self) -> None:
        """Until a repair began, and until it is over."""
        await self.until(lambda: self.node()["repair"], "a repair to begin")
        await self.until_over()

    async def until_over(self) -> None:
        """Until the node serves again, and the incident that opened by itself since the fault is resolved by itself."""
        await self.until_serves()
        await self.until(lambda: self._incidents() and not any(self._incidents()), "the incident's end")
        assert self._incidents() == [False], "one fault is one incident"

    async def until(self, done: Callable[[], object], what: str, seconds: float = REPAIRED_SECONDS) -> None:
        """Look again and again; AssertionError with what the API wrote when it does not come."""
        deadline = asyncio.get_running_loop().time() + seconds
        while True:
            with suppress(httpx.HTTPError):  # the API may be down
                if done():
                    return
            assert asyncio.get_running_loop().time() < deadline, f"waited {seconds:.0f} s for {what}\n{self.told()}"
            await asyncio.sleep(LOOK_SECONDS)

    async def forget_history(self) -> None:
        """As if the last repair were long ago; from here on what happens is counted."""
        connection = await asyncpg.connect(self.database)
        try:
            await connection.execute("UPDATE gpu_nodes SET repair = repair - '{last,last_at,hard,replaced_at}'::text[]")
        finally:
            await connection.close()
        self._entries_before = len(Journal(self.home).read())
        self._actions_before = len(self._actions())

    def entries(self) -> list[Entry]:
        """What the journal has of nodes since the fault."""
        entries = Journal(self.home).read()[self._entries_before :]
        return [entry for entry in entries if entry.name.startswith("nodes.")]

    def operations(self) -> list[tuple[str, str]]:
        """Operations on nodes since the fault, and how they went."""
        return [(entry.name, entry.phase) for entry in self.entries() if entry.name != "nodes.want"]

    def why(self) -> str:
        """Why the first rung was taken."""
        return str(next(entry.data["why"] for entry in self.entries() if "why" in entry.data))

    @property
    def droplet(self) -> int:
        """The cloud's number of the node's machine."""
        return int(self.node()["machine_id"] or 0)

    def droplets(self) -> list[int]:
        """Every machine that the cloud has."""
        return [int(droplet["id"]) for droplet in self.box.call("GET", "/v2/droplets")["droplets"]]

    def acted(self) -> list[str]:
        """The cloud's actions on machines since the fault, the oldest first."""
        return self._actions()[self._actions_before :]

    def ahead_seconds(self) -> float:
        """By how much the clock of the API's process is ahead of ours; it tells the time once a second."""
        answer = self.http.get(f"http://127.0.0.1:{self.port}/health")
        return (parsedate_to_datetime(answer.headers["date"]) - datetime.now(UTC)).total_seconds()

    def passed_at(self, loop: str) -> str:
        """When a loop's pass was last written down, which is every few seconds."""
        loops = self._call("GET", "/api/admin/loops")["loops"]
        return next(str(line["last_finished_at"]) for line in loops if line["name"] == loop)

    def power_off(self) -> None:
        """Somebody switches the machine off."""
        self.box.begin(self.droplet, "power_off")

    def on_machine(self, *command: str, stdin: str | None = None) -> str:
        """Run a command on the machine, past its network."""
        return self.box.engine.docker("exec", "--interactive", self._container(), *command, input=stdin).stdout.strip()

    def started(self, container: str) -> str:
        """When a container of the machine last began."""
        return self.on_machine("docker", "inspect", "--format", "{{.State.StartedAt}}", container)

    def booted_at(self) -> str:
        """When the machine last began."""
        return self.box.engine.state(self._container(), ".State.StartedAt")

    async def plant(self, container: str, program: str, until: str = "") -> None:
        """Put another program in a service's place and start it; wait until what is wrong shows in these words.

        The node is cordoned meanwhile, so that it is this fault that is repaired and not the moment of its planting.
        """
        self._want("cordoned")
        put = "cp -p /app/serve /app/serve.well && cat > /app/new && chmod 755 /app/new && mv /app/new /app/serve"
        self.on_machine("docker", "exec", "--interactive", container, "sh", "-c", put, stdin=program)
        self.on_machine("docker", "restart", "--time", "1", container)
        if until:
            await self.until(lambda: until in (self.node()["last_error"] or ""), f"the watchdog to see {until!r}")
        self._want("serving")

    @asynccontextmanager
    async def customer(self) -> AsyncIterator[httpx.AsyncClient]:
        """Somebody with credit and a key, at the gateway."""
        self._call("POST", f"/api/admin/tenants/{self.tenant_id}/credit", {"amount_usd": "10", "reason": "a test"})
        body = {"name": "a program", "scope": "write", "expires_in_days": None}
        headers = {"authorization": f"Bearer {self._call('POST', '/api/keys', body)['secret']}"}
        address = f"http://127.0.0.1:{self.port}"
        async with httpx.AsyncClient(base_url=address, headers=headers, timeout=300, trust_env=False) as http:
            yield http

    def told(self) -> str:
        """What the API and the cloud wrote last."""
        return (self.home / "api.log").read_text(errors="replace")[-6000:] + self.box.told()[-2000:]

    def _incidents(self) -> list[bool]:
        """Of each incident of the node's repair since the fault, whether it is open."""
        known = {entry.operation for entry in Journal(self.home).read()[: self._entries_before]}
        found = [incident for incident in all_incidents(Journal(self.home)) if incident.id not in known]
        return [incident.open for incident in found if incident.key == f"repair:{self.node_id}"]

    def _container(self) -> str:
        return Names(self.box.engine.run_id).machine(self.droplet)

    def _want(self, desired: str) -> None:
        self._call("POST", f"/api/admin/nodes/{self.node_id}/desired", {"desired": desired})

    def _serves(self) -> bool:
        node = self.node()
        serves = node["provision_stage"] == "done" and all(node["service_health"].values())
        return serves and not node["repair"]

    def _ready(self) -> bool:
        return self.http.get(f"http://127.0.0.1:{self.port}/ready").is_success

    def _actions(self) -> list[str]:
        found = self.box.call("GET", "/v2/actions?per_page=200")["actions"]
        return [
            action["type"] for action in sorted(found, key=lambda action: action["id"]) if action["type"] != "create"
        ]

    def _call(self, method: str, path: str, body: Mapping[str, Any] | None = None) -> Any:
        answer = self.http.request(method, f"http://127.0.0.1:{self.port}{path}", json=body)
        if answer.status_code == httpx.codes.SERVICE_UNAVAILABLE:
            raise httpx.HTTPError(answer.text)
        assert answer.is_success, f"{method} {path}: {answer.status_code} {answer.text}"
        return answer.json() if answer.content else None


@asynccontextmanager
async def ward_of(
    box: Cloud, images: Registry, models: str, database: tuple[str, str], folder: Path
) -> AsyncIterator[Ward]:
    """An API process on a fresh copy of the template `database` (server, template); no node yet."""
    server, template = database
    name = f"t_{uuid.uuid4().hex[:12]}"
    await _execute(server, f"CREATE DATABASE {name} TEMPLATE {template} STRATEGY FILE_COPY")
    address = f"{server.rpartition('/')[0]}/{name}"
    port = free_ports()["api"]
    settings = {name.upper(): str(value) for name, value in of_a_node(box, images, models, port).items()}
    settings |= {
        "WOPR_HOME": str(folder),
        "DATABASE_URL": address,
        "BETTER_AUTH_SECRET": "a secret of sessions for tests, long enough",
        "API_URL": f"http://127.0.0.1:{port}",
        "UI_URL": f"http://127.0.0.1:{port}",
    }
    ward = Ward(box, folder, port, address, clean_environment() | settings)
    ward.start_api()
    try:
        yield ward
    finally:
        ward.kill_api()
        ward.http.close()
        await _execute(server, f"DROP DATABASE IF EXISTS {name} WITH (FORCE)")


async def _execute(server: str, statement: str) -> None:
    connection = await asyncpg.connect(server)
    try:
        await connection.execute(statement)
    finally:
        await connection.close()


@dataclass(frozen=True)
class WrongClock:
    """The wall clock of a process that has `environment`: wrong by what was set last, or right."""

    folder: Path

    @property
    def environment(self) -> Mapping[str, str]:
        return {"LD_PRELOAD": str(self.folder / "skew.so"), "CLOCK_SKEW_FILE": str(self.folder / "seconds")}

    def set(self, seconds: int) -> None:
        """From now on."""
        new = self.folder / "new"
        new.write_text(f"{seconds}")
        new.rename(self.folder / "seconds")


def wrong_clock(folder: Path) -> WrongClock:
    """What makes a wall clock wrong, compiled."""
    compiled(Path(__file__).with_name("skew.c"), folder)
    return WrongClock(folder)


def liar(port: int, *, hangs: bool) -> str:
    """A service's program that answers /health and either nothing else or nonsense. At its next start it is well."""
    return LIAR.format(port=port, hangs=hangs)


LIAR = """#!/opt/wopr/venv/bin/python
import http.server, os, sys, time
if "--healthy" in sys.argv:
    sys.exit(0)
os.replace("/app/serve.well", "/app/serve")
class Liar(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.say(b"{{}}")
    def do_POST(self):
        if {hangs}:
            time.sleep(3600)
        self.rfile.read(int(self.headers["content-length"]))
        self.say(b'{{"data": [{{"embedding": [0, 0, 0]}}]}}')
    def say(self, body):
        self.send_response(200)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)
http.server.ThreadingHTTPServer(("0.0.0.0", {port}), Liar).serve_forever()
"""
