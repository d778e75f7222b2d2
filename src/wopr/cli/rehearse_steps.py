"""What a rehearsal goes through, from nothing to live and back: each step is commands, and a proof of what they did.

The order is that of the operator's handbook. Commands are written with what earlier steps found out; before that (as
`--dry-run` shows them) with words in capitals.
"""

import asyncio
import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from wopr.cli.rehearse_commands import Command, Ran, Runner, StepFailed, wopr
from wopr.cli.rehearse_env import FIRST, Wish, env_of, other_images, short
from wopr.cli.rehearse_stage import Stage
from wopr.core.errors import NotConfigured, Unavailable
from wopr.delivery.image_engine import DockerCommand

MACHINE = "wopr-vps"
SECOND = "second"
# The stand-in has no live mode: of the go-live list this stays open, and the test key of a public address is warned of.
OPEN_HERE = ("Stripe switched to live mode",)
WARNED_HERE = ("settings.stripe-mode",)
LOOK_SECONDS = 1.0
AWAITED_SECONDS = 300.0
ANSWER_SECONDS = 30.0
OBSERVE_SECONDS = "5"
PATIENCE_SECONDS = "120"  # two machines and a customer share this one


@dataclass
class Found:
    """What steps found out, for those after them. `there` is the repository as machines reach it."""

    address: str = "ADDRESS"
    repository: str = "REGISTRY/wopr"
    there: str = "REGISTRY/wopr"
    releases: list[int] = field(default_factory=list)


@dataclass
class Play:
    """A rehearsal under way."""

    stage: Stage
    wish: Wish
    runner: Runner
    found: Found = field(default_factory=Found)

    @property
    def host(self) -> tuple[str, str]:
        return ("--host", f"root@{self.found.address}")

    @property
    def env_file(self) -> Path:
        return self.stage.folder / "stand-ins" / "vps.env"

    @property
    def second_file(self) -> Path:
        return self.stage.folder / "stand-ins" / "Dockerfile.second"

    def ssh(self, *words: str, stdin: Path | None = None) -> Command:
        """A command on the host, as one types it."""
        return Command(("ssh", "-F", str(self.stage.ssh_config), f"root@{self.found.address}", *words), stdin)

    def inside(self, *words: str) -> Command:
        """One of our commands where the platform and its database are."""
        return wopr("exec", *self.host, *words)

    def push(self, name: str) -> Command:
        image = f"{self.found.repository}/{name}"
        return Command(("docker", "--config", str(self.stage.docker_config), "push", "--quiet", image))

    def deploy(self, tag: str, *more: str) -> Command:
        image = f"{self.found.there}/wopr-platform:{tag}"
        return wopr("deploy", image, *more, *self.host, "--observe", OBSERVE_SECONDS, "--yes")


@dataclass(frozen=True)
class Step:
    """`prove` gets how each command ended and returns the evidence; StepFailed when there is none."""

    name: str
    says: str
    commands: Callable[[Play], Sequence[Command]]
    prove: Callable[[Play, Sequence[Ran]], str]

    def carry_out(self, play: Play) -> str:
        """Run the commands, each to its end; the evidence."""
        return self.prove(play, [play.runner.run(command) for command in self.commands(play)])


def no_commands(_: Play) -> Sequence[Command]:
    return ()


def begun(play: Play, _: Sequence[Ran]) -> str:
    stage, found = play.stage, play.found
    stage.begin()
    found.repository = stage.repository
    found.there = stage.repository.replace(stage.addresses["registry"], stage.registry)
    play.env_file.write_text(
        "".join(f"{name}={value}\n" for name, value in env_of(stage, found.there, play.wish).items())
    )
    play.env_file.chmod(0o600)
    play.second_file.write_text(f"FROM {found.repository}/wopr-platform:{FIRST}\nLABEL wopr.rehearsal={SECOND}\n")
    return ", ".join(f"{name} {address}" for name, address in sorted(stage.addresses.items()))


def publish(play: Play) -> Sequence[Command]:
    to, wish = play.found.repository, play.wish
    others = other_images()
    given = {f"wopr-platform:{FIRST}": wish.platform, f"wopr-bot:{FIRST}": wish.bot} if wish.platform else {}
    named = ("--repository", to, "--tag", FIRST)
    ours = [wopr("images", "build", *named, "--source", str(wish.source)), wopr("images", "push", *named)]
    tagged = given | {f"{short(name)}:{FIRST}": image for name, image in others.items()}
    lacking = [image for image in dict.fromkeys(others.values()) if not _is_here(image)]
    return [
        *([] if given else ours),
        *(Command(("docker", "pull", image)) for image in lacking),
        *(Command(("docker", "tag", image, f"{to}/{name}")) for name, image in tagged.items()),
        *(play.push(name) for name in tagged),
    ]


def published(play: Play, _: Sequence[Ran]) -> str:
    return f"{2 + len(other_images())} images in {play.found.repository}"


def rent(play: Play) -> Sequence[Command]:
    wanted = ("--name", MACHINE, "--region", play.wish.region, "--size", play.wish.size)
    return [wopr("machine", "provision", "vps", *wanted, "--ssh-key", f"{play.stage.ssh_key}.pub", "--yes")]


def rented(play: Play, ran: Sequence[Ran]) -> str:
    made = ran[0].json
    play.found.address = made["public_ip"]
    if not made["ssh"]:
        raise StepFailed(f"SSH does not answer at {made['public_ip']}.", remedy="Look at the machine: docker ps")
    return f"{MACHINE} is {made['public_ip']}, {made['size']} in {made['region']}, ${made['monthly_usd']} a month"


def await_boot(play: Play) -> Sequence[Command]:
    docker = play.ssh("docker", "version", "--format", "{{.Server.Version}}")
    return [play.ssh("cloud-init", "status", "--wait"), docker]


def booted(_: Play, ran: Sequence[Ran]) -> str:
    return f"cloud-init {ran[0].text.rpartition(' ')[2]}, Docker {ran[1].text}"


def configure(play: Play) -> Sequence[Command]:
    return [
        play.ssh("umask 077; mkdir -p wopr-platform; cat > wopr-platform/.env", stdin=play.env_file),
        play.ssh("cat > wopr-platform/authority.pem", stdin=play.stage.roots),
        wopr("secrets", "list", *play.host),
    ]


def configured(_: Play, ran: Sequence[Ran]) -> str:
    there = [row["name"] for row in ran[-1].json["secrets"] if row["set"]]
    return f"{len(there)} secrets: {', '.join(there)}"


def name_it(play: Play) -> Sequence[Command]:
    return [wopr("dns", "apply", *play.host), wopr("dns", "check", *play.host)]


def named(play: Play, ran: Sequence[Ran]) -> str:
    return f"{len(ran[1].json['names'])} names lead to {play.found.address}"


def release(play: Play) -> Sequence[Command]:
    chosen = ("--bot", f"{play.found.there}/wopr-bot:{FIRST}", "--set", f"WOPR_DOMAIN={play.stage.domain}")
    return [play.deploy(FIRST, *chosen), play.inside("migrate", "status"), wopr("migrate", "dump", *play.host)]


def released(play: Play, ran: Sequence[Ran]) -> str:
    verdict, database, dump = (one.json for one in ran)
    _good(play, ran[0])
    if database["pending"]:
        raise StepFailed(f"The database stands at {database['database']}, the code at {database['code']}.")
    dumped = f"{dump['rows']} rows of {dump['tables']} tables dumped, restored, compared"
    return f"release {verdict['release']} good, database at {database['database']}; {dumped}"


def look_at_certificate(play: Play) -> Sequence[Command]:
    return [wopr("certs", "status", *play.host, codes=(0, 3))]


def certified(play: Play, _: Sequence[Ran]) -> str:
    seen = _awaited(play, wopr("certs", "status", *play.host), lambda ran: ran.code == 0, "The certificate").json
    domain, answers = play.stage.domain, []
    for url in (f"https://api.{domain}/health", f"https://{domain}", f"https://app.{domain}"):
        status, text = asyncio.run(_asked(play.stage, url))
        if status >= 400:
            raise StepFailed(f"{url} answers {status}.", remedy=str(wopr("status", *play.host)))
        answers.append(f"{url} {status}{f' {text.strip()}' if url.endswith('/health') else ''}")
    shown = seen["served"]["certificate"]
    signed = f"{', '.join(shown['names'])} until {shown['until'][:10]}, signed by {shown['issuer']}"
    return f"{signed}; {', '.join(answers)}"


def make_node(play: Play) -> Sequence[Command]:
    wanted = ("--region", play.wish.region, "--size", play.wish.node_size)
    return [play.inside("nodes", "provision", *wanted, "--yes")]


def node_made(play: Play, ran: Sequence[Ran]) -> str:
    made = ran[0].json["nodes"][0]

    def serves(looked: Ran) -> bool:
        if looked.code != 0:
            return False
        health = looked.json["service_health"]
        return looked.json["status"] == "active" and bool(health) and all(health.values())

    seen = _awaited(play, play.inside("nodes", "show", made), serves, "The node").json
    return f"{made} at {seen['host']}, ${seen['hourly_usd']} an hour: {' '.join(seen['service_health'])} answer"


def walk(play: Play) -> Sequence[Command]:
    at = ("--url", f"https://api.{play.stage.domain}", "--mail-url", play.stage.addresses.get("resend", "MAIL"))
    return [wopr("smoke", *at, "--patience", PATIENCE_SECONDS)]


def walked(_: Play, ran: Sequence[Ran]) -> str:
    done = ran[0].json
    answer = next(step["detail"] for step in done["steps"] if step["name"] == "bot answers")
    return f"{len(done['steps'])} steps in {done['seconds']:.1f} s; the bot said: {answer}"


def check(play: Play) -> Sequence[Command]:
    return [
        wopr("status", *play.host),
        wopr("check", *play.host, codes=(0, 3)),
        wopr("check", "--go-live", *play.host, codes=(0, 3)),
    ]


def checked(_: Play, ran: Sequence[Ran]) -> str:
    sound, live = ran[1].json["checks"], ran[2].json
    if wrong := [one for one in sound if _is_amiss(one)]:
        told = "; ".join(f"{one['name']} ({one['verdict']}): {one['evidence']}" for one in wrong)
        raise StepFailed(f"{len(wrong)} checks are not ok: {told}", remedy=wrong[0]["remedy"])
    items = live["checklist"]
    left = [item["says"] for item in items if not item["done"]]
    if amiss := [says for says in left if not says.startswith(OPEN_HERE)]:
        raise StepFailed(f"The go-live list is open: {'; '.join(amiss)}", remedy="wopr check --go-live")
    listed = f"{len(items) - len(left)} of {len(items)} lines of the go-live list"
    passed = sum(one["verdict"] == "ok" for one in sound)
    return f"{passed} of {len(sound)} checks ok, none failed; {listed}" + (
        f" (open: {'; '.join(left)})" if left else ""
    )


def release_second(play: Play) -> Sequence[Command]:
    image = f"wopr-platform:{SECOND}"
    build = ("docker", "build", "--quiet", "--tag", f"{play.found.repository}/{image}", "-")
    return [Command(build, stdin=play.second_file), play.push(image), play.deploy(SECOND)]


def released_second(play: Play, ran: Sequence[Ran]) -> str:
    verdict = _good(play, ran[2])
    digest = str(verdict["platform"]).rpartition(":")[2][:12]
    return f"release {verdict['release']} good: another image, {digest}, in {verdict['seconds']:.0f} s"


def go_back(play: Play) -> Sequence[Command]:
    return [wopr("rollback", *play.host, "--reason", "rehearsed"), wopr("releases", *play.host)]


def went_back(play: Play, ran: Sequence[Ran]) -> str:
    back, seen = ran[0].json, ran[1].json
    releases = {one["number"]: one for one in seen["releases"]}
    serving, first = releases[seen["serving"]], releases[play.found.releases[0]]
    if serving["platform"] != first["platform"]:
        raise StepFailed(f"Release {serving['number']} serves {serving['platform']}, not {first['platform']}.")
    status, text = asyncio.run(_asked(play.stage, f"https://api.{play.stage.domain}/health"))
    if status != 200 or json.loads(text) != {"status": "ok"}:
        raise StepFailed(f"After the rollback the API answers {status}: {text[:200]}")
    return f"release {first['number']} serves again, as release {serving['number']}, in {back['seconds']:.0f} s"


def write_down(play: Play) -> Sequence[Command]:
    log = ("git", "-C", str(play.stage.folder / "logbook"), "log", "--format=%h", "--", ".")
    return [wopr("logbook", "render"), wopr("logbook", "verify"), Command(log)]


def written_down(play: Play, ran: Sequence[Ran]) -> str:
    from wopr.ops.journal import Journal

    commits = ran[2].text.split()
    if not commits:
        raise StepFailed("The logbook was not committed.", remedy="apt-get install git")
    entries = len(Journal(play.stage.folder).read())
    return f"{entries} entries, chain and pages intact; {len(ran[0].json['pages'])} pages, {len(commits)} commits"


STEPS: Sequence[Step] = (
    Step("stand-ins", "companies, their cloud, a certificate authority, a registry", no_commands, begun),
    Step("images", "built, or taken from this engine, and pushed", publish, published),
    Step("machine", "the VPS rented", rent, rented),
    Step("boot", "Docker on it", await_boot, booted),
    Step("settings", "settings and secrets on it", configure, configured),
    Step("names", "DNS records made, and name servers asked", name_it, named),
    Step("release", "the platform released, its database migrated and dumped", release, released),
    Step("certificate", "fetched by DNS-01, and shown", look_at_certificate, certified),
    Step("node", "rented by the platform, registers itself, serves", make_node, node_made),
    Step("smoke", "a customer signs up, pays, gets a bot and an answer", walk, walked),
    Step("checks", "every check, and the go-live list", check, checked),
    Step("second release", "another image beside what serves", release_second, released_second),
    Step("rollback", "the release before serves again", go_back, went_back),
    Step("logbook", "all of it is written down", write_down, written_down),
)


def _is_here(image: str) -> bool:
    try:
        return DockerCommand().ask("image", "inspect", "--format", "{{.Id}}", image) is not None
    except (Unavailable, NotConfigured):  # nothing is run without an engine, and what would be can be told
        return False


def _is_amiss(check: Mapping[str, str]) -> bool:
    return check["verdict"] == "failed" or (check["verdict"] == "warning" and check["name"] not in WARNED_HERE)


def _good(play: Play, ran: Ran) -> Mapping[str, object]:
    """The verdict of a release, which must be good."""
    verdict: dict[str, object] = ran.json
    if verdict["verdict"] != "good":
        raise StepFailed(f"Release {verdict['release']} is {verdict['verdict']}: {verdict['reason']}")
    play.found.releases.append(int(str(verdict["release"])))
    return verdict


def _awaited(play: Play, command: Command, is_so: Callable[[Ran], bool], what: str) -> Ran:
    """Ask again and again until it is so; StepFailed after too long."""
    until = time.monotonic() + AWAITED_SECONDS
    while not is_so(ran := play.runner.ask(command)):
        if time.monotonic() > until:
            raise StepFailed(
                f"{what} is not there after {AWAITED_SECONDS:.0f} s: {ran.text[-500:]}", remedy=str(command)
            )
        time.sleep(LOOK_SECONDS)
    return ran


async def _asked(stage: Stage, url: str) -> tuple[int, str]:
    """A request as customers make it, by the domain's names and with the certificate looked at."""
    import httpx

    from wopr.cloud.lookup import servers
    from wopr.cloud.outside import transport

    through = transport(servers(stage.addresses["dns"]), stage.roots)
    try:
        async with httpx.AsyncClient(transport=through, timeout=ANSWER_SECONDS, trust_env=False) as http:
            answer = await http.get(url)
    except httpx.HTTPError as error:
        raise StepFailed(f"{url} does not answer: {error or type(error).__name__}") from error
    return answer.status_code, answer.text
