"""The table of processes that `wopr up` runs, as data: what, where, in which environment, after which other one."""

import os
import signal
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

STRIPE_PORT, RESEND_PORT = 4101, 4102
# What the stand-ins accept. They are no secrets: nothing but a stand-in on loopback takes them.
STAND_IN_STRIPE_KEY = "sk_test_wopr_local"
STAND_IN_WEBHOOK_SECRET = "whsec_wopr_local_stand_in"  # noqa: S105
STAND_IN_PRICE = "price_wopr_monthly"
STAND_IN_RESEND_KEY = "re_wopr_local"


@dataclass(frozen=True)
class Ports:
    """Where everything listens; the defaults are the runbook's."""

    api: int = 3100
    ui: int = 3000
    llama: int = 8080
    chatterbox: int = 8081
    whisper: int = 8082
    qwen: int = 8083
    stripe: int = STRIPE_PORT
    resend: int = RESEND_PORT


@dataclass(frozen=True)
class Process:
    """One child. It is ready when `ready_path` on its port answers 200; it starts once those in `after` are there."""

    name: str
    arguments: tuple[str, ...]
    port: int
    ready_path: str
    purpose: str
    after: tuple[str, ...] = ()
    also: tuple[int, ...] = ()  # further ports that it takes
    host: str = "localhost"

    @property
    def address(self) -> str:
        """Where it is found; only what a browser can open is written as such."""
        return f"{'http://' if self.ready_path else ''}{self.host}:{self.port}"

    def command(self) -> list[str]:
        return [sys.executable, "-m", "wopr", *self.arguments]


def table_of_processes(ports: Ports, *, stripe: bool, resend: bool) -> Sequence[Process]:
    """Every child of `wopr up` but PostgreSQL. The stand-ins are left out for companies whose real keys are set."""
    engines = [
        Process(name, ("engine", name, "--port", str(port)), port, "/health", purpose, after)
        for name, port, purpose, after in (
            ("llama", ports.llama, "text", ()),
            ("chatterbox", ports.chatterbox, "speech", ()),
            ("whisper", ports.whisper, "transcription", ()),
            ("qwen", ports.qwen, "embeddings", ()),
        )
    ]
    return [
        *engines,
        *_stand_ins(ports, stripe=stripe, resend=resend),
        Process("api", ("api", "--port", str(ports.api)), ports.api, "/ready", "API, gateway, loops", ("postgres",)),
        Process("ui", ("ui", "--port", str(ports.ui)), ports.ui, "/health", "pages"),
    ]


def _stand_ins(ports: Ports, *, stripe: bool, resend: bool) -> Sequence[Process]:
    """One process for both where both are wanted: they are small, and a start costs more than they do."""
    hook = f"http://127.0.0.1:{ports.api}/api/billing/webhook"
    hooked = ("--webhook-url", hook, "--webhook-secret", STAND_IN_WEBHOOK_SECRET)
    if stripe and resend:
        both = ("emulators", "all", "--only", "stripe", "--only", "resend", "--port", str(ports.stripe), *hooked)
        return [Process("stand-ins", both, ports.stripe, "/health", "payments and mail", also=(ports.resend,))]
    if stripe:
        command = ("emulators", "stripe", "--port", str(ports.stripe), *hooked)
        return [Process("stripe", command, ports.stripe, "/health", "payments stand-in")]
    if resend:
        mail_command = ("emulators", "resend", "--port", str(ports.resend))
        return [Process("resend", mail_command, ports.resend, "/health", "mail stand-in")]
    return []


def environment(home: Path, ports: Ports, *, stripe: bool, resend: bool) -> Mapping[str, str]:
    """What `up` adds to the children's environment: addresses of this machine, and the stand-ins' keys where used."""
    ours = {
        "WOPR_HOME": str(home),
        "API_PORT": str(ports.api),
        "UI_PORT": str(ports.ui),
        "API_INTERNAL_URL": f"http://127.0.0.1:{ports.api}",
        "LLAMA_PORT": str(ports.llama),
        "CHATTERBOX_PORT": str(ports.chatterbox),
        "WHISPER_PORT": str(ports.whisper),
        "QWEN_PORT": str(ports.qwen),
    }
    if "BETTER_AUTH_URL" not in os.environ and "API_URL" not in os.environ:
        ours["BETTER_AUTH_URL"] = f"http://localhost:{ports.api}"
    if "UI_URL" not in os.environ:
        ours["UI_URL"] = f"http://localhost:{ports.ui}"
    if stripe:
        ours |= {
            "STRIPE_SECRET_KEY": STAND_IN_STRIPE_KEY,
            "STRIPE_WEBHOOK_SECRET": STAND_IN_WEBHOOK_SECRET,
            "STRIPE_DEFAULT_PRICE_ID": STAND_IN_PRICE,
            "STRIPE_API_BASE": f"http://localhost:{ports.stripe}",
        }
    if resend:
        ours |= {"RESEND_API_KEY": STAND_IN_RESEND_KEY, "RESEND_API_BASE": f"http://localhost:{ports.resend}"}
    return ours


def how_it_ended(code: int) -> str:
    """A child's exit code in words; a negative one is the signal that killed it."""
    return f"exit code {code}" if code >= 0 else f"killed by {signal.Signals(-code).name}"
