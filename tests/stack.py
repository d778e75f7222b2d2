"""The whole business as a person starts it: `wopr up` in a subprocess, on free ports and a folder of its own."""

import contextlib
import json
import os
import queue
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.mortal import mortal
from tests.ports import port, successive_ports

READY_SECONDS = 240.0
STOP_SECONDS = 60.0
EVENT_SECONDS = 120.0


@dataclass
class Stack:
    """A running `wopr up` and its addresses. `events` are the JSON lines that it writes."""

    home: Path
    process: subprocess.Popen[str]
    ports: Mapping[str, int]
    started: float
    link: str = ""
    ready_seconds: float = 0.0
    events: "queue.Queue[dict[str, Any]]" = field(default_factory=queue.Queue)

    @property
    def api(self) -> str:
        return f"http://localhost:{self.ports['api']}"

    @property
    def ui(self) -> str:
        return f"http://localhost:{self.ports['ui']}"

    @property
    def headers(self) -> Mapping[str, str]:
        return {}

    @property
    def mail(self) -> str:
        return f"http://localhost:{self.ports['resend']}"

    @property
    def stripe(self) -> str:
        return f"http://localhost:{self.ports['stripe']}"

    def environment(self) -> dict[str, str]:
        """The environment in which the command line talks to this stack."""
        named = {
            "WOPR_HOME": str(self.home),
            "API_URL": self.api,
            "UI_URL": self.ui,
            "API_PORT": str(self.ports["api"]),
            "UI_PORT": str(self.ports["ui"]),
            "LLAMA_PORT": str(self.ports["llama"]),
            "CHATTERBOX_PORT": str(self.ports["chatterbox"]),
            "WHISPER_PORT": str(self.ports["whisper"]),
            "QWEN_PORT": str(self.ports["qwen"]),
        }
        return clean_environment() | named

    def wopr(self, *arguments: str) -> "subprocess.CompletedProcess[str]":
        """Run a command against this stack."""
        return run_wopr(*arguments, environment=self.environment())

    def pids(self) -> dict[str, int]:
        """The children by name."""
        state = json.loads((self.home / "run" / "up.json").read_text(encoding="utf-8"))
        return {name: int(who["pid"]) for name, who in state["children"].items()}

    def wait_event(self, event: str, process: str = "") -> dict[str, Any]:
        """The next event of a kind, of a process when one is named."""
        deadline = time.monotonic() + EVENT_SECONDS
        while True:
            seen = self.events.get(timeout=max(0.01, deadline - time.monotonic()))
            if seen["event"] == event and process in ("", seen.get("process")):
                return seen

    def stop(self) -> int:
        """Ctrl-C; the exit code."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGINT)
        return self.process.wait(STOP_SECONDS)


def start(home: Path, ports: Mapping[str, int] | None = None, settings: Mapping[str, str] | None = None) -> Stack:
    """Start and wait until everything is ready; RuntimeError with the output when it does not become so.

    `settings` are added to the environment.
    """
    ports = ports or free_ports()
    command = [sys.executable, "-m", "wopr", "up", "--json", "--home", str(home)]
    command += ["--api-port", str(ports["api"]), "--ui-port", str(ports["ui"])]
    command += ["--engine-port", str(ports["llama"]), "--stand-in-port", str(ports["stripe"])]
    started = time.monotonic()
    process = subprocess.Popen(
        mortal(command),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env=clean_environment() | dict(settings or {}),
        cwd=home.parent,
        start_new_session=True,  # Ctrl-C at the terminal is for us, who then stop it once
    )
    stack = Stack(home, process, ports, started)
    noise: list[str] = []
    threading.Thread(target=_read, args=(stack, noise), daemon=True).start()
    deadline = started + READY_SECONDS
    try:
        while time.monotonic() < deadline and process.poll() is None:
            with contextlib.suppress(queue.Empty):
                event = stack.events.get(timeout=0.2)
                if event["event"] == "up":
                    stack.link, stack.ready_seconds = event["admin_link"], event["seconds"]
                    return stack
    except KeyboardInterrupt:
        stack.stop()
        raise
    with contextlib.suppress(subprocess.TimeoutExpired):
        stack.stop()
    raise RuntimeError("wopr up did not become ready:\n" + "".join(noise)[-4000:] + _logs(home))


def free_ports() -> dict[str, int]:
    """Free ports for every part; the engines' four and the stand-ins' two follow one another."""
    engines, stand_ins = successive_ports(4), successive_ports(2)
    names = ("llama", "chatterbox", "whisper", "qwen")
    return {
        "api": port(),
        "ui": port(),
        "stripe": stand_ins,
        "resend": stand_ins + 1,
        **{name: engines + i for i, name in enumerate(names)},
    }


def run_wopr(*arguments: str, environment: Mapping[str, str] | None = None) -> "subprocess.CompletedProcess[str]":
    """Run `wopr` with nobody at the terminal."""
    return subprocess.run(
        [sys.executable, "-m", "wopr", *arguments],
        capture_output=True,
        text=True,
        stdin=subprocess.DEVNULL,
        env=dict(environment or clean_environment()),
        timeout=120,
        check=False,
    )


def clean_environment() -> dict[str, str]:
    """This process's environment without settings of a developer's own."""
    own = (
        "STRIPE_",
        "RESEND_",
        "WOPR_",
        "DATABASE_",
        "API_",
        "UI_",
        "BETTER_AUTH_",
        "COOKIE_",
        "DO_API",
        "GPU_NODE",
        "BOT_",
    )
    return {name: value for name, value in os.environ.items() if not name.startswith(own)}


def _read(stack: Stack, noise: list[str]) -> None:
    assert stack.process.stdout is not None
    with stack.process.stdout as lines:
        for line in lines:
            try:
                stack.events.put(json.loads(line))
            except ValueError:
                noise.append(line)


def _logs(home: Path) -> str:
    parts: Iterator[str] = (
        f"\n--- {log.name}\n" + log.read_text(encoding="utf-8", errors="replace")[-1500:]
        for log in sorted((home / "logs").glob("*.log"))
    )
    return "".join(parts)
