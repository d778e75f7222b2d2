"""What a machine of one's own needs around the supervised processes: secrets, database, migrations, the local node."""

import asyncio
import json
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from wopr.cli.processes import Ports, Process, how_it_ended
from wopr.core.errors import Unavailable
from wopr.core.files import ensure_own_secrets, read_secret
from wopr.core.postgres import EmbeddedPostgres

if TYPE_CHECKING:
    from wopr.cli.supervisor import Report, RunFile

RESTART_SECONDS = 0.5
DATABASE_CHECK_SECONDS = 0.5


@dataclass
class Local:
    """The parts that only a run on one machine has. `environment` is what the children see."""

    home: Path
    ports: Ports
    environment: Mapping[str, str]
    _database: "subprocess.Popen[bytes] | None" = field(default=None)
    _preparing: "asyncio.subprocess.Process | None" = field(default=None)

    @property
    def external(self) -> bool:
        """Whether the operator brought a database of their own."""
        return bool(self.environment.get("DATABASE_URL") or read_secret(self.home, "DATABASE_URL"))

    def prepare(self) -> None:
        """Make the folder, and the secrets that are ours alone."""
        self.home.mkdir(parents=True, exist_ok=True)
        ensure_own_secrets(self.home)
        (self.home / "models").mkdir(exist_ok=True)
        (self.home / "logs").mkdir(exist_ok=True)

    async def start_database(self, record: "RunFile", launched: asyncio.Event) -> float:
        """Start PostgreSQL, wait for it and for the migrations; the seconds it took.

        `launched` is set when its address is known: who needs it may load meanwhile.
        """
        started = time.monotonic()
        self._preparing = await self._start_preparation()
        if not self.external:
            server = EmbeddedPostgres(self.home)
            await asyncio.to_thread(server.prepare)
            self._database = server.start()
            record.add("postgres", self._database.pid)
            launched.set()
            await asyncio.to_thread(server.wait_ready, self._database)
        launched.set()
        await self._told("migrated")
        return time.monotonic() - started

    async def finish(self) -> str:
        """The administrator's one-time link, once this machine is registered as a node."""
        return (await self._told("registered"))["link"]

    async def keep_database(self, record: "RunFile", report: "Report") -> None:
        """Start the embedded server again when it dies."""
        while self._database is not None:
            await asyncio.sleep(DATABASE_CHECK_SECONDS)
            if (code := self._database.poll()) is None:
                continue
            report("died", self.database(), RESTART_SECONDS, how_it_ended(code))
            await asyncio.sleep(RESTART_SECONDS)
            begun = time.monotonic()
            try:
                await asyncio.to_thread(self._launch, EmbeddedPostgres(self.home))
            except (Unavailable, OSError) as error:
                report("slow", self.database(), time.monotonic() - begun, getattr(error, "remedy", str(error)))
                continue
            record.add("postgres", self._database.pid)
            report("back", self.database(), time.monotonic() - begun, "")

    def database(self) -> Process:
        """The database as a line of the table of processes."""
        from wopr.core.database_url import database_url
        from wopr.core.settings import load_settings

        url = urlsplit(database_url(load_settings(self.home)))
        return Process("postgres", (), url.port or 5432, "", "database", host=url.hostname or "localhost")

    async def stop_bots(self) -> None:
        """End the bots; each stores what it was saying."""
        from wopr.core.settings import load_settings
        from wopr.fleet.build import stop_bots

        await stop_bots(load_settings(self.home))

    def stop_database(self) -> None:
        """End the database, last: everybody else may still write."""
        if self._preparing is not None and self._preparing.returncode is None:
            self._preparing.kill()
        if self._database is not None:
            EmbeddedPostgres(self.home).stop(self._database)
            self._database = None

    async def _start_preparation(self) -> asyncio.subprocess.Process:
        with (self.home / "logs" / "prepare.log").open("ab") as errors:
            return await asyncio.create_subprocess_exec(
                sys.executable,
                "-m",
                "wopr.cli.prepare",
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=errors,
                env=dict(self.environment),
            )

    async def _told(self, what: str) -> dict[str, str]:
        """The preparation's line about `what`; Unavailable when it ended without it."""
        assert self._preparing is not None
        assert self._preparing.stdout is not None
        while line := await self._preparing.stdout.readline():
            told: dict[str, str] = json.loads(line)
            if told["done"] == what:
                return told
            if told["done"] == "failed":
                raise Unavailable(told["message"], remedy=told["remedy"])
        raise Unavailable(
            "The database could not be prepared.", remedy=f"Read the end of {self.home / 'logs' / 'prepare.log'}."
        )

    def _launch(self, server: EmbeddedPostgres) -> str:
        server.prepare()
        self._database = server.start()
        return server.wait_ready(self._database)
