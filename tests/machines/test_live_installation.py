"""The business on one host, as it is sold: a customer's bot outlives releases, a way back and a teardown, and a wipe
leaves nothing of it. The outside companies and the model are the stand-ins, beside the containers on this machine."""

import json
import secrets
import subprocess
import threading
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from ipaddress import IPv4Network
from typing import Any

import httpx
import pytest
from tests import live
from tests.live import Person, wait_for
from tests.machines.engine import Engine
from tests.machines.installation import Installation, fresh
from tests.machines.registry import Registry

from wopr.core.postgres import free_port
from wopr.core.settings import Settings
from wopr.fleet.runtimes.addresses import bot_network

WAIT_SECONDS = 180.0
QUESTION = "What does a bot cost?"
NO_IMAGE = "127.0.0.1:9/wopr-bot:missing"  # a port of this machine at which nobody listens


@dataclass(frozen=True)
class Site:
    """An installation as customers reach it. `host` is this machine as containers reach it."""

    installed: Installation
    bot_image: str
    host: str
    headers: Mapping[str, str]
    stand_ins: int = field(default_factory=free_port)
    model: int = field(default_factory=free_port)
    nothing: int = field(default_factory=free_port)
    hook_secret: str = field(default_factory=lambda: f"whsec_{secrets.token_hex(16)}")

    @property
    def api(self) -> str:
        return f"http://127.0.0.1:{self.installed.port}"

    @property
    def ui(self) -> str:
        return f"http://localhost:{self.installed.port}"

    @property
    def mail(self) -> str:
        return f"http://{self.host}:{self.stand_ins + 1}"

    def settings(self) -> list[str]:
        return self.installed.chosen(
            "DRAIN_SECONDS=10",
            "LOG_LEVEL=warning",
            "INCIDENT_AFTER_SECONDS=1",
            "STRIPE_SECRET_KEY=sk_test_installation",
            f"STRIPE_WEBHOOK_SECRET={self.hook_secret}",
            "STRIPE_DEFAULT_PRICE_ID=price_wopr_monthly",
            f"STRIPE_API_BASE=http://{self.host}:{self.stand_ins}",
            "RESEND_API_KEY=re_installation",
            f"RESEND_API_BASE={self.mail}",
        )

    def tell(self, *command: str) -> str:
        """What a command says that knows the installation by its folder alone."""
        words = [*self.installed.command, *command, "--dir", str(self.installed.folder)]
        done = subprocess.run(words, capture_output=True, text=True, env=self.installed.variables(), timeout=120)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    def in_the_api(self, *command: str) -> None:
        slot = self.installed.state()["active"]["slot"]
        self.installed.engine.docker("exec", f"{self.installed.name}-api-{slot}", "wopr", *command)

    def bot(self, bot_id: str) -> dict[str, Any]:
        """The bot's container."""
        found: dict[str, Any] = json.loads(self.installed.engine.docker("inspect", f"wopr-bot-{bot_id}").stdout)[0]
        return found


@pytest.fixture
def site(engine: Engine, platform_image: str, bot_image: str, third_party_images: object) -> Iterator[Site]:
    """A folder that is empty yet."""
    bridge = json.loads(engine.docker("network", "inspect", "bridge").stdout)[0]
    host = str(IPv4Network(bridge["IPAM"]["Config"][0]["Subnet"])[1])
    made = fresh(engine, platform_image)
    try:
        yield Site(made, bot_image, host, {"host": f"api.localhost:{made.port}"})
    finally:
        made.remove()


@contextmanager
def outside(site: Site) -> Iterator[None]:
    """The stand-ins, and a node with a model and with a service that does not answer."""
    form = '{{(index .NetworkSettings.Networks "' + site.installed.name + '-platform").IPAddress}}'
    caddy = site.installed.engine.docker("inspect", "--format", form, f"{site.installed.name}-caddy").stdout.strip()
    state = site.installed.folder.parent / "stand-ins"
    hook = ("--webhook-url", f"http://{caddy}:3100/api/billing/webhook", "--webhook-secret", site.hook_secret)
    commands = [
        ("emulators", "all", "--host", site.host, "--port", str(site.stand_ins), "--state", str(state), *hook),
        ("engine", "llama", "--host", site.host, "--port", str(site.model)),
    ]
    with ExitStack() as stack:
        for words in commands:
            process = subprocess.Popen([*site.installed.command, *words], env=site.installed.variables())
            stack.callback(process.wait, 30)
            stack.callback(process.terminate)
        for url in (f"{site.mail}/_emulator/mails", f"http://{site.host}:{site.model}/health"):
            wait_for(lambda url=url: answers(url), f"{url} to answer", WAIT_SECONDS)
        ports = ("--port", f"llama={site.model}", "--port", f"qwen={site.nothing}")
        site.in_the_api("nodes", "register", "here", "--host", site.host, *ports)
        yield


def answers(url: str) -> bool:
    try:
        return httpx.get(url, timeout=5, trust_env=False).status_code == 200
    except httpx.TransportError:
        return False


class Asking(threading.Thread):
    """Asks the bot one question after the other, as a program with a key of its own does."""

    def __init__(self, person: Person, bot_id: str) -> None:
        super().__init__(daemon=True)
        headers = {**person.stack.headers, "authorization": f"Bearer {person.make_key()[1]}"}
        place = person.stack
        http = httpx.Client(base_url=place.api, headers=headers, timeout=60, trust_env=False)
        self._person, self._bot = Person(person.stack, person.email, person.tenant_id, http), bot_id
        self._enough = threading.Event()
        self.answered = 0
        self.failures: list[str] = []

    def __enter__(self) -> "Asking":
        self.start()
        self.more()
        return self

    def __exit__(self, *_error: object) -> None:
        self._enough.set()
        self.join(WAIT_SECONDS)
        self._person.http.close()

    def run(self) -> None:
        while not self._enough.is_set():
            try:
                turn = self._person.ask(self._bot, QUESTION)
            except (httpx.HTTPError, AssertionError) as error:
                self.failures.append(f"{type(error).__name__}: {error}")
                return
            if turn["state"] != "completed" or "month" not in turn["text"]:
                self.failures.append(json.dumps(turn)[:500])
                return
            self.answered += 1

    def more(self) -> None:
        """Wait for an answer to a question that is yet to be asked."""
        before = self.answered
        wait_for(lambda: self.failures or self.answered >= before + 2, "answers", WAIT_SECONDS)
        assert self.failures == []


def test_a_customers_bot_outlives_everything_but_a_wipe(site: Site, registry: Registry) -> None:
    installed = site.installed
    the_first_release_wants_an_image_for_bots(site)
    with outside(site), live.sign_up(site, "Ada Lovelace") as ada:
        keep_cookies(ada)
        ada.pay(2_500)
        bot_id = ada.make_bot("Ada")
        told = ada.ask(bot_id, "My cat is called Minka.")
        began = site.bot(bot_id)
        with Asking(ada, bot_id) as asking:
            at = asking.answered
            released = installed.release(installed.derive())
            during = asking.answered - at
            asking.more()
            back = installed.wopr("rollback", "--json", "--ready", "180")
            asking.more()
        assert (released["verdict"], back.returncode) == ("good", 0), back.stderr
        assert asking.failures == []
        assert during > 0
        now = site.bot(bot_id)
        assert (now["Id"], now["State"]["Pid"]) == (began["Id"], began["State"]["Pid"]), "it was started anew"

        the_api_s_incident_is_the_installation_s(site)
        a_pushed_image_reaches_the_bot(site, registry, bot_id)
        remembers(ada, bot_id, told)
        began = site.bot(bot_id)
        volumes = installed.left("volume")
        assert installed.wopr("teardown", "--yes").returncode == 0
        assert (installed.left("container"), installed.left("network")) == ([], [])
        assert installed.release()["verdict"] == "unchanged"
        remembers(ada, bot_id, told)
        assert site.bot(bot_id)["Id"] != began["Id"]
        assert installed.left("volume") == volumes
    done = installed.wopr("teardown", "--wipe", "--yes")
    assert done.returncode == 0, done.stderr
    assert [installed.left(kind) for kind in ("container", "volume", "network")] == [[], [], []]
    assert installed.engine.docker("ps", "-aq", "--filter", f"name={bot_id}").stdout == ""
    rules = subprocess.run(["iptables-save"], capture_output=True, text=True, check=True).stdout
    assert bot_network(Settings(wopr_installation=installed.name)).chain not in rules


def keep_cookies(person: Person) -> None:
    """Send what browsers send to names under localhost, which they trust without TLS as the client does not."""
    person.http.headers["cookie"] = "; ".join(f"{cookie.name}={cookie.value}" for cookie in person.http.cookies.jar)


def the_first_release_wants_an_image_for_bots(site: Site) -> None:
    """Without one, or with one that is none for bots, nothing is begun."""
    installed = site.installed
    missing = installed.deploy(installed.platform, "--bot", NO_IMAGE, *site.settings())
    assert missing.returncode == 1
    for word in (NO_IMAGE, "can't be pulled", "BOT_IMAGE=", "--bot", "BOT_RUNTIME=process"):
        assert word in missing.stderr
    wrong = installed.deploy(installed.platform, "--bot", installed.platform)
    assert wrong.returncode == 3
    assert "is no image for bots: it does not start wopr.bot" in wrong.stderr
    assert installed.left("container") == []
    installed.release(installed.platform, "--bot", site.bot_image)
    assert "BOT_RUNTIME=docker" in (installed.folder / ".env").read_text().splitlines()
    checked = {one["name"]: one for one in json.loads(site.tell("check", "--only", "bots", "--json"))["checks"]}
    assert checked["bots.image"]["verdict"] == "ok"


def the_api_s_incident_is_the_installation_s(site: Site) -> None:
    """It opened by itself in the API's container; the node was registered there, too."""

    def told() -> dict[str, Any] | None:
        found = json.loads(site.tell("incident", "list", "--json"))["incidents"]
        return next((incident for incident in found if incident["title"] == "No node serves qwen"), None)

    incident = wait_for(told, "the incident", WAIT_SECONDS)
    site.tell("incident", "note", incident["name"], "Nobody has one", "--acknowledged")
    page = (site.installed.folder / "logbook" / "INCIDENTS.md").read_text()
    assert f"## {incident['name']} No node serves qwen" in page
    assert "Nobody has one" in page
    assert "nodes.register" in site.tell("logbook", "show")
    assert "chain and pages intact" in site.tell("logbook", "verify")


def a_pushed_image_reaches_the_bot(site: Site, hub: Registry, bot_id: str) -> None:
    """`wopr deliver` makes it a release, and the bot moves to it."""
    installed = site.installed
    pushed = hub.push(installed.derive(base=site.bot_image), "wopr-bot:latest")
    for name, value in {
        "BOT_IMAGE": f"{hub.server}/wopr-bot:latest",
        "WOPR_IMAGE": f"{hub.server}/wopr-platform@sha256:{'0' * 64}",  # pinned, so not watched
        "REGISTRY_SERVER": hub.server,
        "REGISTRY_USERNAME": hub.username,
        "REGISTRY_PASSWORD": hub.password,
    }.items():
        installed.set_env(name, value)
    done = installed.wopr("deliver", "--once", "--observe", "1", "--ready", "180")
    assert done.returncode == 0, done.stdout + done.stderr
    ask = ("inspect", "--format", "{{.Config.Image}}", f"wopr-bot-{bot_id}")
    wait_for(lambda: installed.engine.docker(*ask, check=False).stdout.strip() == pushed, "its move", WAIT_SECONDS)


def remembers(person: Person, bot_id: str, told: Mapping[str, Any]) -> None:
    wait_for(lambda: runs(person, bot_id), "the bot to run", WAIT_SECONDS)
    assert "Minka" in person.ask(bot_id, "What is my cat called?", told["conversation_id"])["text"]


def runs(person: Person, bot_id: str) -> bool:
    """Whether the bot runs again; the way to it may not be there yet."""
    try:
        answer = person.http.get(f"/fleet/bots/{bot_id}")
    except httpx.TransportError:
        return False
    return answer.status_code == 200 and answer.json()["state"] == "running"
