"""What a machine of one's own needs around the supervised processes: secrets, database, migrations, the local node."""

import asyncio
import contextlib
import socket
import subprocess
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from wopr.cli.processes import Ports, Process
from wopr.core.postgres import EmbeddedPostgres

if TYPE_CHECKING:
    from wopr.cli.supervisor import Report, RunFile
    from wopr.core.settings import Settings

RESTART_SECONDS = 0.5
DATABASE_CHECK_SECONDS = 0.5
ADMINISTRATOR = "admin@localhost.test"


@dataclass
class Local:
    """The parts that only a run on one machine has. `environment` is what the children see."""

    home: Path
    ports: Ports
    environment: Mapping[str, str]
    _database: "subprocess.Popen[bytes] | None" = field(default=None)

    @property
    def external(self) -> bool:
        """Whether the operator brought a database of their own."""
        return bool(self.environment.get("DATABASE_URL"))

    def prepare(self) -> None:
        """Make the folder, and the secrets that are ours alone."""
        from wopr.core.settings import ensure_own_secrets

        self.home.mkdir(parents=True, exist_ok=True)
        ensure_own_secrets(self.home)
        (self.home / "models").mkdir(exist_ok=True)

    async def start_database(self, record: "RunFile") -> float:
        """Start PostgreSQL, wait for it and migrate it; the seconds it took."""
        started = time.monotonic()
        url = self.environment.get("DATABASE_URL", "")
        if not self.external:
            server = EmbeddedPostgres(self.home)
            url = await asyncio.to_thread(self._launch, server)
            assert self._database is not None
            record.add("postgres", self._database.pid)
        from wopr.migrations.run import upgrade

        await upgrade(url)
        return time.monotonic() - started

    async def keep_database(self, record: "RunFile", report: "Report") -> None:
        """Start the embedded server again when it dies."""
        process = Process("postgres", (), 0, "", "database")
        while self._database is not None:
            await asyncio.sleep(DATABASE_CHECK_SECONDS)
            if (code := self._database.poll()) is None:
                continue
            report("died", process, RESTART_SECONDS, f"exit code {code}")
            await asyncio.sleep(RESTART_SECONDS)
            begun = time.monotonic()
            await asyncio.to_thread(self._launch, EmbeddedPostgres(self.home))
            record.add("postgres", self._database.pid)
            report("back", Process("postgres", (), self.database_port(), "", "database"), time.monotonic() - begun, "")

    def database_port(self) -> int:
        from urllib.parse import urlsplit

        from wopr.core.db import database_url

        return urlsplit(database_url(self._settings())).port or 5432

    async def finish(self) -> str:
        """Register this machine's services as a node, make the administrator's one-time link; the link."""
        from wopr.accounts.admin import one_time_link
        from wopr.core.db import Database, database_url
        from wopr.core.ids import NodeId
        from wopr.inference.nodes import Node, register

        settings = self._settings()
        db = Database(database_url(settings), pool_size=2)
        try:
            async with db.begin() as session:
                ports = {name: getattr(self.ports, name) for name in ("llama", "chatterbox", "whisper", "qwen")}
                key = settings.engine_api_key.get_secret_value() if settings.engine_api_key else None
                node = Node(NodeId(settings.gpu_node_id), settings.engine_host, ports=ports, api_key=key)
                await register(session, node)
                return await one_time_link(session, settings, ADMINISTRATOR)
        finally:
            await db.dispose()

    def stop(self) -> None:
        """End the bots and the database, in this order: a bot may still write what it said."""
        from wopr.fleet.runtimes.process import stop_all

        stop_all(self.home)
        if self._database is not None:
            EmbeddedPostgres(self.home).stop(self._database)
            self._database = None

    def _launch(self, server: EmbeddedPostgres) -> str:
        server.prepare()
        self._database = server.start()
        return server.wait_ready(self._database)

    def _settings(self) -> "Settings":
        from wopr.core.settings import load_settings

        return load_settings()


def holder_of_port(port: int) -> str | None:
    """None when the port is free; else who holds it, as far as this user may know: ` by nginx (pid 12)` or nothing."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return _named_holder(port)
    return None


def _named_holder(port: int) -> str:
    import psutil

    with contextlib.suppress(psutil.Error):
        for connection in psutil.net_connections("tcp"):
            if (
                connection.laddr
                and connection.laddr.port == port
                and connection.status == psutil.CONN_LISTEN
                and connection.pid
            ):
                return f" by {psutil.Process(connection.pid).name()} (pid {connection.pid})"
    return ""
