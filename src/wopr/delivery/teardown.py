"""`teardown`: an installation leaves its host. Its data stay in their volumes, unless they are to go too.

What is taken away is found by labels, never by names that another program may have given, so that nothing else on the
engine is touched. The journal and `.env` stay in any case: the one says what was done, the other is the operator's.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

from pydantic import ValidationError

from wopr.core.settings import Settings
from wopr.delivery import commands, setup
from wopr.delivery.api_journal import take_in
from wopr.delivery.commands import PROJECT_LABEL, Command
from wopr.delivery.context import ASKED, Tell
from wopr.delivery.deliver_handover import ALIVE_FILE, FAILED_FILE, HELPER, SERVICE
from wopr.delivery.errors import HostFailed
from wopr.delivery.glance import installation_name
from wopr.delivery.hosts import Host
from wopr.delivery.lock import Fence, hold
from wopr.delivery.place import Place
from wopr.fleet.runtimes.addresses import bot_network
from wopr.fleet.runtimes.firewall import Policy, removal
from wopr.ops.journal import Journal, Operation

INSTALLATION_LABEL = "wopr.installation"
LEAVE_SECONDS = 30
STOP_SECONDS = 180.0
# In this order: nobody starts what was stopped, nobody asks what is gone, and the database is last.
ORDER = ((HELPER, SERVICE, "certificates"), ("api-blue", "api-green"), ("ui-blue", "ui-green", "caddy"))
LIST_FORM = "{{.Names}}"
NAME_FORM = "{{.Name}}"
NODE_FORM = "{{.ID}} {{.Self}} {{.Hostname}} {{.Status}}"
HOME_FORM = '{{with index .Spec.Labels "wopr.node"}}{{.}}{{end}}'
CLEARING = "docker volume ls -q --filter label={label} | xargs -r docker volume rm"


@dataclass(frozen=True)
class Found:
    """What of an installation is on its host. `files` are those that wopr wrote and that `--wipe` takes away."""

    containers: Sequence[str] = ()
    bots: Sequence[str] = ()
    services: Sequence[str] = ()
    secrets: Sequence[str] = ()
    networks: Sequence[str] = ()
    volumes: Sequence[str] = ()
    bot_volumes: Sequence[str] = ()
    files: Sequence[str] = ()
    # Machines of a Swarm whose engines can't be reached from here; what bots know is there as well.
    elsewhere: Sequence[str] = ()
    clearing: str = ""  # what removes it, on each of them

    def anything(self, *, wipe: bool) -> bool:
        """Whether there is something to do."""
        running = (*self.containers, *self.bots, *self.services, *self.secrets, *self.networks)
        return bool(running or (wipe and (*self.volumes, *self.bot_volumes, *self.files)))


def listing(kind: str, *labels: str) -> Command:
    """The names of all containers, services, secrets, networks or volumes with these labels."""
    filters = tuple(word for label in labels for word in ("--filter", f"label={label}"))
    if kind == "container":
        return ("docker", "ps", "-a", *filters, "--format", LIST_FORM)
    return ("docker", kind, "ls", *filters, "--format", NAME_FORM)


def there(paths: Sequence[str]) -> Command:
    """Those of these paths that are there."""
    return ("sh", "-c", 'for path in "$@"; do [ -e "$path" ] && echo "$path"; done; true', "there", *paths)


async def survey(host: Host, place: Place) -> Found:
    """What is there; reads only. HostFailed when the engine does not answer."""
    installation = await installation_name(host, place)
    project, ours = f"{PROJECT_LABEL}={place.name}", f"{INSTALLATION_LABEL}={installation}"
    bots = await _names(host, listing("container", ours))
    beside = await _names(host, listing("container", f"wopr.name={place.name}"))  # what compose knows nothing of
    containers = [name for name in (*await _names(host, listing("container", project)), *beside) if name not in bots]
    _, kept = await setup.stack_files(host, place)
    services = await _names(host, listing("service", ours), may_fail=True)  # only a Swarm has services and secrets
    elsewhere = await _elsewhere(host, place, services)
    written = [path for path in _written(place) if path.rpartition("/")[2] not in kept]
    return Found(
        containers=containers,
        bots=bots,
        services=services,
        secrets=await _names(host, listing("secret", ours), may_fail=True),
        networks=[*await _names(host, listing("network", project)), *await _names(host, listing("network", ours))],
        volumes=await _names(host, listing("volume", project)),
        bot_volumes=await _names(host, listing("volume", ours)),
        files=await _names(host, there(written)),
        elsewhere=elsewhere,
        clearing=CLEARING.format(label=ours) if elsewhere else "",
    )


async def teardown(host: Host, place: Place, journal: Journal, *, wipe: bool, tell: Tell) -> Found:
    """Stop and remove an installation; what was removed. Locked while a release runs. With `wipe` its data too."""
    async with hold(host, place, "teardown", partial(tell, ASKED)) as fence:
        with journal.operation("teardown", host=host.describe(), folder=place.dir, wipe=wipe) as operation:
            found = await survey(host, place)
            down = _Down(fence, operation, tell)
            await take_in(host, place, journal)  # later nobody could
            await down.containers(found)
            # While networks are left a teardown finds something to do, so what is not listed goes before them.
            await down.fence_of_bots(await installation_name(host, place))
            await down.networks(found)
            if wipe:
                await down.data(found)
            operation.outcome.update(containers=len(found.containers), bots=len(found.bots), wiped=wipe)
            return found


@dataclass(frozen=True)
class _Down:
    """The steps of a teardown, each under the lock's number and in the journal."""

    fence: Fence
    operation: Operation
    tell: Tell

    async def containers(self, found: Found) -> None:
        """The platform first, for it would start its bots again; then the bots; the database last."""
        place = self.fence.place
        for services in ORDER:
            names = [name for name in map(place.container, services) if name in found.containers]
            await self._stop(names, ", ".join(services))
        if found.services:
            await self.fence.must(("docker", "service", "rm", *found.services), timeout=STOP_SECONDS)
        if found.secrets:
            await self.fence.must(("docker", "secret", "rm", *found.secrets))
        await self._stop(found.bots, "bots")
        first = {place.container(service) for services in ORDER for service in services}
        await self._stop([name for name in found.containers if name not in first], "postgres and what is left")

    async def networks(self, found: Found) -> None:
        for name in found.networks:
            await self.fence.must(("docker", "network", "rm", name))
        self._done("networks removed", ", ".join(found.networks))

    async def fence_of_bots(self, installation: str) -> None:
        """The rules of the host's firewall that named the bots' network."""
        try:
            settings = Settings(wopr_installation=installation)
        except ValidationError:
            return  # under such a name no bot was ever fenced in
        await self.fence.run(removal(Policy(bot_network(settings), None)))

    async def data(self, found: Found) -> None:
        """Everything that a customer had, and what wopr wrote into the folder.

        The state goes first: killed in between, a release must not be believed to serve on a database that is gone.
        """
        await self.fence.must(commands.remove_files(self.fence.place.state))
        for name in (*found.volumes, *found.bot_volumes):
            await self.fence.must(("docker", "volume", "rm", name))
        self._done("volumes removed", ", ".join((*found.volumes, *found.bot_volumes)))
        if found.files:
            await self.fence.must(commands.remove_files(*found.files))
        self._done("files removed", str(len(found.files)))

    async def _stop(self, names: Sequence[str], what: str) -> None:
        """Tell them to leave, give them their time, then remove them; their named volumes stay."""
        if not names:
            return
        await self.fence.run(commands.stop(names, LEAVE_SECONDS), timeout=STOP_SECONDS)
        await self.fence.must(("docker", "rm", "-f", "-v", *names), timeout=STOP_SECONDS)
        self._done("stopped and removed", what)

    def _done(self, what: str, detail: str) -> None:
        self.operation.step(what, what=detail)
        self.tell(what, detail)


def _written(place: Place) -> list[str]:
    """What wopr wrote, except the journal with its pages, and the lock, whose number must go on growing."""
    files = [place.compose, place.caddyfile, place.stack_env, place.state, place.quarantine, place.registry_config]
    files += [f"{place.dir}/{name}" for name in ("slots", "caddy", f".{setup.SHIPPED_RECORD}")]
    files += [f"{place.dir}/{name}" for name in ("deliver.json", ALIVE_FILE, FAILED_FILE)]
    return [*files, place.releases, place.dumps, place.certificates]


async def _elsewhere(host: Host, place: Place, services: Sequence[str]) -> list[str]:
    """The other machines of the Swarm on which bots may have left what they know; those that left it by their id."""
    settings = await setup.settings_there(host, place)
    if not services and settings.get("BOT_RUNTIME") != "swarm":
        return []
    nodes = await host.run(("docker", "node", "ls", "--format", NODE_FORM))
    known = {line.split()[0]: line.split()[1:] for line in nodes.text.splitlines() if line.strip()} if nodes.ok else {}
    homes = await host.run(("docker", "service", "inspect", "--format", HOME_FORM, *services)) if services else None
    gone = set(homes.text.split()) - set(known) if homes and homes.ok else set()
    others = [f"{name} ({status.lower()})" for self, name, status in known.values() if self != "true"]
    return [*sorted(others), *(f"{node} (left the Swarm)" for node in sorted(gone))]


async def _names(host: Host, command: Command, *, may_fail: bool = False) -> list[str]:
    got = await host.run(command)
    if not got.ok and not may_fail:
        raise HostFailed(
            f"Docker on {host.describe()} does not answer: {got.complaint}",
            remedy="Is it installed, and does it run? docker info",
        )
    return sorted(got.text.split()) if got.ok else []
