"""A machine in memory, on which a deployer is killed before or after any of the commands that change something."""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from wopr.delivery import commands
from wopr.delivery.answers import ERRORS_MIN
from wopr.delivery.hosts import RUN_SECONDS, Output
from wopr.delivery.place import SLOTS, Place
from wopr.ops.journal import Journal


def logged(at: str, *, began: float = 0.0, status: int = 200, path: str = "/", client: str = "203.0.113.1") -> str:
    """A line of Caddy's log of requests, behind its time, as `docker logs --timestamps` writes it."""
    said = {"level": "info", "ts": began, "logger": "http.log.access.log0", "msg": "handled request"}
    request = {"remote_ip": client, "remote_port": "4711", "proto": "HTTP/1.1", "method": "GET", "host": "localhost"}
    said |= {"request": request | {"uri": path}, "user_id": "", "duration": 0.0, "size": 15, "status": status}
    return f"{at} {json.dumps(said)}"


NO_SUCH = Output(1, b"", b"no such container")


class Killed(BaseException):
    """kill -9: nothing handles it."""


class Unrendered(Journal):
    """A journal of which no pages are made: they are not what is tested here, and there are hundreds of runs."""

    def keep(self) -> None:
        pass


@dataclass
class Made:
    """A container. One that crashed is being started again and again."""

    service: str
    release: int
    made: str
    status: str = "created"
    restarts: int = 0

    @property
    def slot(self) -> str:
        return next((slot for slot in SLOTS if self.service.endswith(f"-{slot}")), "")

    @property
    def ready(self) -> bool:
        return self.status == "running" and not self.restarts


@dataclass
class Machine:
    """A host whose files and containers are in memory. Releases named in `crashes` crash as they start, those in
    `breaks` as they begin to serve; those in `errs` are ready, and answer every other request with 500. A machine that
    boots answers so many questions for readiness with no."""

    place: Place
    crashes: frozenset[int] = frozenset()
    breaks: frozenset[int] = frozenset()
    errs: frozenset[int] = frozenset()
    kill_before: int = 0
    kill_after: int = 0
    changes: int = 0
    files: dict[str, bytes] = field(default_factory=dict)
    containers: dict[str, Made] = field(default_factory=dict)
    asked: int = 0
    boots: int = 0
    revision: str = "0005"

    async def run(self, argv: Sequence[str], *, input: bytes = b"", timeout: float = RUN_SECONDS) -> Output:
        if "fenced" not in argv:
            return self._done(argv, input)
        self.changes += 1
        # Whatever else of it is still under way is dead as well.
        if 0 < self.kill_before <= self.changes or 0 < self.kill_after < self.changes:
            raise Killed
        done = self._done(argv[list(argv).index("fenced") + 3 :], input)
        if self.changes == self.kill_after:
            raise Killed
        return done

    async def read(self, path: str) -> bytes | None:
        return self.files.get(path)

    async def write(self, path: str, data: bytes, mode: int = 0o600) -> None:
        self.files[path] = data

    def describe(self) -> str:
        return "a machine in memory"

    async def close(self) -> None:
        return None

    def _done(self, argv: Sequence[str], data: bytes) -> Output:
        does: dict[str, Callable[[Sequence[str], bytes], Output]] = {
            "write": self._write,
            "list": self._list,
            "observe": self._observe,
            "remove": self._remove,
            "start": self._start,
            "stop": self._stop,
            "exec": self._exec,
            "logs": self._logs,
            "compose up": self._compose,
        }
        what = argv[3] if argv[:2] == ("sh", "-c") else argv[1] if argv[0] == "docker" else argv[0]
        return does[what](argv, data) if what in does else Output(0)

    def _write(self, argv: Sequence[str], data: bytes) -> Output:
        self.files[argv[4]] = data
        active = (json.loads(data).get("active") or {}) if argv[4] == self.place.state else {}
        if active.get("release") in self.breaks:
            self._crash(f"-{active['slot']}")
        return Output(0)

    def _list(self, argv: Sequence[str], _: bytes) -> Output:
        found = [
            data for path, data in sorted(self.files.items()) if path.startswith(argv[4]) and path.endswith("json")
        ]
        return Output(0, b"\n".join(found))

    def _observe(self, *_: object) -> Output:
        return Output(0, json.dumps([self._inspected(name, one) for name, one in self.containers.items()]).encode())

    def _inspected(self, name: str, one: Made) -> dict[str, object]:
        labels = {commands.SERVICE_LABEL: one.service, commands.SLOT_LABEL: one.slot, commands.MADE_LABEL: one.made}
        labels |= {commands.RELEASE_LABEL: str(one.release)} if one.slot else {}
        state = {"Status": "restarting" if one.restarts else one.status}
        return {"Name": f"/{name}", "Config": {"Labels": labels}, "State": state, "RestartCount": one.restarts}

    def _remove(self, argv: Sequence[str], _: bytes) -> Output:
        slot = argv[5].partition("=")[2]
        self.containers = {name: one for name, one in self.containers.items() if one.slot != slot}
        return Output(0)

    def _start(self, argv: Sequence[str], _: bytes) -> Output:
        return self._become(argv[4:], "running")

    def _stop(self, argv: Sequence[str], _: bytes) -> Output:
        return self._become(argv[4:], "exited")

    def _become(self, names: Sequence[str], status: str) -> Output:
        here = [self.containers[name] for name in names if name in self.containers]
        for one in here:
            one.status = status
            one.restarts = int(status == "running" and one.release in self.crashes)
        return Output(0) if len(here) == len(names) else NO_SUCH

    def _exec(self, argv: Sequence[str], _: bytes) -> Output:
        if "psql" in argv:
            return Output(0, json.dumps({"revision": self.revision}).encode())
        one = self.containers.get(argv[2])
        if one is None or one.status != "running":
            return NO_SUCH
        if self.boots:
            self.boots -= 1
            return Output(1, b'{"reasons": ["the database is away"]}')
        serving = any(other.ready for other in self.containers.values() if other.slot)
        return Output(0) if (one.ready if one.slot else serving) else Output(1, b'{"reasons": ["it broke"]}')

    def _logs(self, argv: Sequence[str], _: bytes) -> Output:
        """Of Caddy, since the release serves: with each look as many answers of either kind as tell."""
        errs = any(one.ready and one.release in self.errs for one in self.containers.values())
        if not (errs and argv[-1] == self.place.container("caddy")):
            return Output(0)
        lines = []
        for status in (200, 500) * ERRORS_MIN:
            self.asked += 1
            began = 3600 + self.asked
            lines.append(logged(f"{self.asked:09}", began=began, status=status))
        return Output(0, "\n".join(lines).encode())

    def _compose(self, argv: Sequence[str], _: bytes) -> Output:
        given = commands.parsed_env(self.files[self.place.stack_env].decode())
        for service in argv[list(argv).index("--no-build") + 1 :]:
            slot = service.rpartition("-")[2].upper()
            number, made = given.get(f"WOPR_{slot}_RELEASE", "0"), given.get(f"WOPR_{slot}_MADE", "")
            name = self.place.container(service)
            self.containers[name] = Made(service, int(number), made)
            self._become([name], "running")
        return Output(0)

    def _crash(self, end: str) -> None:
        for one in self.containers.values():
            one.restarts += one.service.endswith(end)
