"""Every command that a release runs on its host, as pure functions that return argument lists.

Nothing here runs anything or decides anything, so a test compares lists. `sh -c` stands only where two programs must be
joined, with the values as arguments, never inside the script.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from wopr.delivery.place import ROLES, SLOTS, Place, Slot

PROJECT_LABEL = "com.docker.compose.project"
SERVICE_LABEL = "com.docker.compose.service"
SLOT_LABEL = "wopr.slot"
RELEASE_LABEL = "wopr.release"
MADE_LABEL = "wopr.made"
PROBE = "wopr-probe"
API_PORT, UI_PORT = 3100, 3000
# What a customer could ask: the first takes the database, the second is a page.
API_TRIAL, UI_TRIAL = "/api/status", "/"
EDGE_SECONDS = 5
# What compose.yaml interpolates. Compose prefers the caller's environment to its file, so these are taken out of it.
INTERPOLATED = (
    "WOPR_DIR", "WOPR_NAME", "WOPR_BLUE_IMAGE", "WOPR_GREEN_IMAGE", "WOPR_BLUE_ENV", "WOPR_GREEN_ENV",
    "WOPR_BLUE_RELEASE", "WOPR_GREEN_RELEASE", "WOPR_BLUE_MADE", "WOPR_GREEN_MADE", "WOPR_DELIVERER_IMAGE",
    "WOPR_DOMAIN", "WOPR_SCHEME", "POSTGRES_IMAGE", "CADDY_IMAGE", "POSTGRES_PASSWORD", "HTTP_PORT", "HTTPS_PORT",
    "EDGE_PROXIES", "CADDY_TLS", "CADDY_AUTO_HTTPS", "BOTS_SCHEME", "COMPOSE_FILE", "COMPOSE_PROJECT_NAME",
    "COMPOSE_PROFILES", "DOCKER_GID", "WOPR_USER",
)  # fmt: skip

# What Caddy is told where the certificate comes as a file: see deploy/Caddyfile.
BY_DNS = {"CADDY_TLS": "files", "CADDY_AUTO_HTTPS": "disable_certs", "BOTS_SCHEME": ""}

OBSERVE_SCRIPT = 'ids=$(docker ps -aq --filter "label=$1") || exit 1; [ -z "$ids" ] || docker container inspect $ids'
REMOVE_SCRIPT = (
    'ids=$(docker ps -aq --filter "label=$1" --filter "label=$2"); [ -z "$ids" ] || docker rm -f -v $ids >/dev/null'
)
START_SCRIPT = (
    'for name in "$@"; do docker start "$name" >/dev/null & all="$all $!"; done;'
    ' for one in $all; do wait "$one" || exit 1; done'
)
WHICH_COMPOSE_SCRIPT = (
    "docker compose version >/dev/null 2>&1 && echo plugin && exit 0;"
    " command -v docker-compose >/dev/null && echo standalone; true"
)
# The network is ours to make: compose v2 refuses one of a name of its own that 1.29 made.
UP_SCRIPT = (
    'there() { docker network inspect "$network" >/dev/null 2>&1; }; network=$1 label=$2; shift 2;'
    ' there || docker network create --label "$label" "$network" >/dev/null || there || exit 1; exec "$@"'
)
# Of a container that is stopped as well; which of the two slots it is does not matter, they share the volume.
COPY_SCRIPT = 'docker cp "$1:$3" - 2>/dev/null || docker cp "$2:$3" -'
THROUGH_SCRIPT = (
    'seconds=$1; shift; for url in "$@"; do wget -q -T "$seconds" -O /dev/null "$url" & all="$all $!"; done;'
    ' at=0; for one in $all; do at=$((at + 1)); wait "$one" || exit "$at"; done'
)
# Asking from inside costs a hundredth of an exec, which would slow down the start that is waited for.
PROBE_SCRIPT = (
    'left=$2; end=$(($(date +%s) + 1)); until said=$(wopr-probe "$1"); do left=$((left - 1));'
    ' [ "$left" -gt 0 ] && [ "$(date +%s)" -le "$end" ] || { echo "$said"; exit 1; }; sleep 0.1; done'
)
# Of the folder and of what the engine keeps its images on, where that can be seen: whichever has less.
FREE_SCRIPT = (
    'for place in "$1" "$(docker info --format "{{.DockerRootDir}}" 2>/dev/null)"; do'
    ' [ ! -e "$place" ] || df -Pk "$place" | awk "NR == 2 { print \\$4 }"; done | sort -n | head -n 1'
)

# Of the machine that the engine runs on. In a container, as the deliverer is in one, they would be the container's.
ADDRESSES_SCRIPT = (
    '[ "$(docker info --format "{{.Name}}" 2>/dev/null)" = "$(uname -n)" ] || exit 0;'
    " ip -o -4 addr show scope global 2>/dev/null; true"
)

Command = tuple[str, ...]


@dataclass(frozen=True)
class Filling:
    """What a slot is filled with. `made` is the hash of all that its containers are made from."""

    image: str
    release: int
    made: str


@dataclass(frozen=True)
class Compose:
    """How compose is called on a host: the plugin (v2), or the program of its own (1.29)."""

    program: Command = ("docker", "compose")

    def call(self, place: Place, file: str, *arguments: str) -> Command:
        """A compose command on this installation, with the compose file of one release."""
        hidden = tuple(part for name in INTERPOLATED for part in ("-u", name))
        where = ("-p", place.name, "--project-directory", place.dir, "--env-file", place.stack_env, "-f", file)
        return ("env", *hidden, *self.program, *where, *arguments)


PLUGIN = Compose()
STANDALONE = Compose(("docker-compose",))


def which_compose() -> Command:
    """Which compose a host has: writes `plugin`, `standalone`, or nothing. The standalone one is slow to ask."""
    return ("sh", "-c", WHICH_COMPOSE_SCRIPT)


def compose_config(compose: Compose, place: Place, file: str) -> Command:
    """Check the compose file together with everything that it interpolates."""
    return compose.call(place, file, "config", "-q")


def up_slot(compose: Compose, place: Place, file: str, slot: Slot) -> Command:
    """Create and start the containers of one slot and touch no other."""
    return _up(compose, place, file, "-d", *(f"{role}-{slot}" for role in ROLES))


def create_slot(compose: Compose, place: Place, file: str, slot: Slot) -> Command:
    """As `up_slot`, but nothing is started."""
    return _up(compose, place, file, "--no-start", *(f"{role}-{slot}" for role in ROLES))


def up_services(compose: Compose, place: Place, file: str, *services: str) -> Command:
    """Create and start others; those whose definition is unchanged stay as they are."""
    return _up(compose, place, file, "-d", *services)


def _up(compose: Compose, place: Place, file: str, how: str, *services: str) -> Command:
    call = compose.call(place, file, "up", how, "--no-deps", "--no-build", *services)
    return ("sh", "-c", UP_SCRIPT, "compose up", place.network, f"{PROJECT_LABEL}={place.name}", *call)


def observe(place: Place) -> Command:
    """Everything about all containers of this installation, as one JSON list; nothing when there are none."""
    return ("sh", "-c", OBSERVE_SCRIPT, "observe", f"{PROJECT_LABEL}={place.name}")


def remove_slot(place: Place, slot: Slot) -> Command:
    """Remove whatever is in a slot, also what a killed compose left under another name."""
    return ("sh", "-c", REMOVE_SCRIPT, "remove", f"{PROJECT_LABEL}={place.name}", f"{SLOT_LABEL}={slot}")


def start(names: Sequence[str]) -> Command:
    """Start containers side by side: the client starts several one after the other."""
    return ("sh", "-c", START_SCRIPT, "start", *names)


def stop(names: Sequence[str], seconds: int) -> Command:
    """SIGTERM, and SIGKILL to what has not left after so many seconds."""
    return ("docker", "stop", "-t", str(seconds), *names)


def logs(name: str, lines: int) -> Command:
    return ("docker", "logs", "--tail", str(lines), name)


def probe(container: str, path: str) -> Command:
    """Ask a container itself; exit code 0 for 200, the body otherwise. It knows the port that it serves."""
    return ("docker", "exec", container, PROBE, path)


def probe_patiently(container: str, path: str, tries: int = 12) -> Command:
    """As `probe`, but a container that does not answer with 200 is asked so many times, for two seconds at most."""
    return ("docker", "exec", container, "sh", "-c", PROBE_SCRIPT, "probe", path, str(tries))


def through_caddy(place: Place, path: str, port: int) -> Command:
    """A request to one of Caddy's inner listeners, which takes the way of every request: to a slot that is ready."""
    return _ask(place, f"http://127.0.0.1:{port}{path}")


def trials(place: Place) -> Command:
    """What a customer could ask API and pages, the way of every request.

    The exit code is the position of the first that is not answered with 200, API and pages being 1 and 2.
    """
    return _ask(place, f"http://127.0.0.1:{API_PORT}{API_TRIAL}", f"http://127.0.0.1:{UI_PORT}{UI_TRIAL}")


def trials_of(place: Place, slot: Slot) -> Command:
    """As `trials`, but of one slot, whichever serves."""
    return _ask(place, f"http://api-{slot}:{API_PORT}{API_TRIAL}", f"http://ui-{slot}:{UI_PORT}{UI_TRIAL}")


def requests(place: Place, since: str, lines: int) -> Command:
    """The last lines of Caddy's log that are not older than `since` (as `docker logs` takes it), each with its time."""
    return ("docker", "logs", "--timestamps", "--since", since, "--tail", str(lines), place.container("caddy"))


def clock() -> Command:
    """The host's time in Unix seconds."""
    return ("date", "+%s")


def caddy_check(place: Place) -> Command:
    """Whether the Caddyfile on standard input can be understood."""
    container = place.container("caddy")
    return ("docker", "exec", "-i", container, "caddy", "adapt", "--adapter", "caddyfile", "--config", "/dev/stdin")


def caddy_load(place: Place) -> Command:
    """Make the Caddyfile that the container sees the one in force; requests that run go on."""
    load = ("caddy", "reload", "--config", "/etc/caddy/Caddyfile", "--adapter", "caddyfile")
    return ("docker", "exec", place.container("caddy"), *load)


def copy_from_api(place: Place, path: str) -> Command:
    """A file of the API's volume, as an archive on standard output."""
    return ("sh", "-c", COPY_SCRIPT, "copy", *(place.container(f"api-{slot}") for slot in SLOTS), path)


def pull(image: str, config: str = "") -> Command:
    """Fetch an image. `config` is a client's folder with the registry's credentials."""
    return ("docker", *(("--config", config) if config else ()), "pull", "-q", image)


def inspect_image(image: str) -> Command:
    return ("docker", "image", "inspect", image)


def images_named(name: str) -> Command:
    """References by digest of all images of one name on the host."""
    return ("docker", "image", "ls", "--digests", "--no-trunc", "--format", "{{.Repository}}@{{.Digest}}", name)


def remove_image(image: str) -> Command:
    """Remove an image, unless a container still needs it."""
    return ("docker", "image", "rm", image)


def architecture() -> Command:
    """The engine's architecture, in the words that images use."""
    return ("docker", "version", "--format", "{{.Server.Arch}}")


def socket_group() -> Command:
    """The number of the group that may use the engine: the API is none of root's."""
    return ("stat", "-c", "%g", "/var/run/docker.sock")


def owner(place: Place) -> Command:
    """Whose the installation's folder is, as `user:group` in numbers: the deliverer works there as nobody else."""
    return ("stat", "-c", "%u:%g", place.dir)


def addresses() -> Command:
    """The IPv4 addresses of the engine's machine, a line each; nothing where that can't be told, as without `ip`."""
    return ("sh", "-c", ADDRESSES_SCRIPT, "addresses")


def free_kilobytes(folder: str) -> Command:
    return ("sh", "-c", FREE_SCRIPT, "free", folder)


def written_at(path: str) -> Command:
    """When a file was written last, in Unix seconds of the host."""
    return ("stat", "-c", "%Y", path)


def mode_of(path: str) -> Command:
    """The mode of a file in octal digits."""
    return ("stat", "-c", "%a", path)


def certificates(place: Place, image: str, *words: str) -> Command:
    """The agent that fetches certificates, in a container of the platform's image, on the installation's folder."""
    where = ("--network", place.network, "--volume", f"{place.dir}:{place.dir}", "--env", f"WOPR_HOME={place.dir}")
    rights = ("--user", "0:0", "--cap-drop", "ALL", "--cap-add", "DAC_OVERRIDE")  # the folder may be somebody else's
    fence = (*rights, "--security-opt", "no-new-privileges:true", "--tmpfs", "/tmp")  # noqa: S108
    agent = ("--", "python", "-m", "wopr.delivery.certificate_agent", *words, "--dir", place.dir, "--name", place.name)
    return ("docker", "run", "--rm", "--read-only", *fence, *where, "--entrypoint", "tini", image, *agent)


def remove_files(*paths: str) -> Command:
    return ("rm", "-rf", "--", *paths)


def stack_env(place: Place, settings: Mapping[str, str], slots: Mapping[Slot, Filling], deliverer: str) -> str:
    """The file that compose interpolates: where things are, and for each slot what it is filled with."""
    values = {
        "WOPR_DIR": place.dir,
        "WOPR_NAME": place.name,
        "WOPR_DELIVERER_IMAGE": deliverer,
        "WOPR_BLUE_ENV": place.slot_env("blue"),
        "WOPR_GREEN_ENV": place.slot_env("green"),
    }
    for slot, filling in slots.items():
        start = f"WOPR_{slot.upper()}"
        values |= {
            f"{start}_IMAGE": filling.image,
            f"{start}_RELEASE": str(filling.release),
            f"{start}_MADE": filling.made,
        }
    chosen = {name: settings[name] for name in INTERPOLATED if settings.get(name) and name not in values}
    if networks := chosen.get("EDGE_PROXIES"):  # by comma as in other settings; Caddy wants them by blank
        chosen["EDGE_PROXIES"] = " ".join(networks.replace(",", " ").split())
    if by_dns(settings):
        chosen |= BY_DNS
    lines = [f"{name}={quoted(value)}" for name, value in sorted((chosen | values).items())]
    return "# Written by wopr at each release; what is set here belongs into .env.\n" + "\n".join(lines) + "\n"


def by_dns(settings: Mapping[str, str]) -> bool:
    """Whether the certificate is fetched by DNS-01 beside Caddy; without https there is none to fetch."""
    return settings.get("WOPR_TLS") == "dns" and not settings.get("WOPR_SCHEME")


def slot_env(settings: Mapping[str, str], given: Mapping[str, str]) -> str:
    """The environment of a slot: the operator's settings, and what the release gives where they say nothing."""
    return "".join(f"{name}={quoted(value)}\n" for name, value in {**given, **settings}.items())


def quoted(value: str) -> str:
    """A value as every reader of such files takes it: plain where it can be, in single quotes where it must be."""
    plain = value == value.strip() and not any(mark in value for mark in ("$", "'", '"', "\\", " #", "`"))
    if plain and not value.startswith("#"):
        return value
    if "'" not in value:
        return f"'{value}'"
    escaped = value.replace("\\", "\\\\").replace('"', '\\"').replace("$", "\\$")
    return f'"{escaped}"'


def parsed_env(text: str) -> dict[str, str]:
    """The settings of an `.env` file: NAME=value lines, with `export`, quotes and comments as shells write them."""
    found: dict[str, str] = {}
    for line in text.splitlines():
        name, sign, value = line.strip().removeprefix("export ").partition("=")
        if not sign or name.lstrip().startswith("#"):
            continue
        value = value.strip()
        if len(value) > 1 and value[0] == value[-1] and value[0] in "\"'":
            inner = value[1:-1]
            value = inner if value[0] == "'" else inner.replace('\\"', '"').replace("\\$", "$").replace("\\\\", "\\")
        else:
            value = value.partition(" #")[0].rstrip()
        found[name.strip()] = value
    return found


def _ask(place: Place, *urls: str) -> Command:
    return ("docker", "exec", place.container("caddy"), "sh", "-c", THROUGH_SCRIPT, "through", str(EDGE_SECONDS), *urls)
