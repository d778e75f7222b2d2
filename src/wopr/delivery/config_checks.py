"""Checks of the compose files and Caddyfiles in an installation's folder, for `wopr check`."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from posixpath import basename

from wopr.delivery import config_rules
from wopr.delivery.compose_text import Service, Unreadable, read_compose, read_sites
from wopr.delivery.config_rules import Rule, bare_sites, faults_of
from wopr.delivery.env_file import Fault, read_env
from wopr.delivery.hosts import Host
from wopr.delivery.place import Place
from wopr.ops.checks import Check, Finding, failed, ok, skipped, warning

ENV_FILES = (".env", ".env.local")
LIST_SCRIPT = 'for file in "$1"/*.yml "$1"/*.yaml "$1"/Caddyfile*; do [ -f "$file" ] && echo "$file"; done; true'
FILES_MAX = 40
SHOWN_MAX = 4


@dataclass(frozen=True)
class Config:
    """What lies in a folder: services by compose file, site addresses by Caddyfile, and what can't be read."""

    services: Mapping[str, Sequence[Service]]
    sites: Mapping[str, Sequence[str]]
    values: Mapping[str, str]
    unreadable: Sequence[Fault] = ()


def checks(host: Host, place: Place) -> Sequence[Check]:
    """Every check of the folder's files; each reads them anew."""

    def check(name: str, proves: str, judge: Callable[[Config], Finding]) -> Check:
        async def look() -> Finding:
            return judge(await read_config(host, place))

        return Check(name, proves, look)

    return [
        check("config.readable", "every compose file can be read", _readable),
        check("config.images", "no image is for the CPU only or has moved", _by(config_rules.IMAGES)),
        check("config.flash-attn", "--flash-attn has a value", _by(config_rules.FLAGS)),
        check("config.login", "what is private has a login", _by(config_rules.LOGIN)),
        check("config.tags", "what runs is named exactly, so that one can go back", _by(config_rules.TAGS)),
        check("config.paths", "no service has a relative path", _by(config_rules.PATHS)),
        check("config.sites", "no site makes Caddy fetch a certificate for a local name", _sites),
    ]


async def read_config(host: Host, place: Place) -> Config:
    """Every compose file and Caddyfile of the folder; more than FILES_MAX are left out."""
    values: dict[str, str] = {}
    for name in ENV_FILES:
        values |= read_env(await host.read(f"{place.dir}/{name}") or b"").values
    services: dict[str, Sequence[Service]] = {}
    sites: dict[str, Sequence[str]] = {}
    unreadable: list[Fault] = []
    for path in (await host.run(("sh", "-c", LIST_SCRIPT, "list", place.dir))).text.splitlines()[:FILES_MAX]:
        name, text = basename(path), (await host.read(path) or b"").decode("utf-8", "replace")
        if name.startswith("Caddyfile"):
            sites[name] = read_sites(text, values)
            continue
        try:
            services[name] = read_compose(text, values)
        except Unreadable as error:
            unreadable.append(Fault(0, name, f"{name}: {error}", f"docker compose -f {path} config"))
    return Config(services, sites, values, unreadable)


def _by(rules: Sequence[Rule]) -> Callable[[Config], Finding]:
    def judge(config: Config) -> Finding:
        if not config.services:
            return skipped("no compose file lies in the folder")
        found = {name: faults_of(services, config.values, rules) for name, services in config.services.items()}
        return _judged(found, f"{sum(map(len, config.services.values()))} services")

    return judge


def _readable(config: Config) -> Finding:
    if not config.services and not config.unreadable:
        return skipped("no compose file lies in the folder")
    return _judged({"": config.unreadable}, f"{len(config.services)} files")


def _sites(config: Config) -> Finding:
    if not config.sites:
        return skipped("no Caddyfile lies in the folder")
    found = {name: list(bare_sites(sites)) for name, sites in config.sites.items()}
    return _judged(found, f"{sum(map(len, config.sites.values()))} sites")


def _judged(found: Mapping[str, Sequence[Fault]], sound: str) -> Finding:
    """All faults as one finding, with the file before each, as bad as the worst of them."""
    told = [(f"{name}: {fault}" if name else str(fault), fault) for name, faults in found.items() for fault in faults]
    if not told:
        return ok(sound)
    more = f"; and {len(told) - SHOWN_MAX} more" if len(told) > SHOWN_MAX else ""
    evidence = "; ".join(says for says, _ in told[:SHOWN_MAX]) + more
    worst = failed if any(fault.refused for _, fault in told) else warning
    first = next((fault for _, fault in told if fault.refused), told[0][1])
    return worst(evidence, first.remedy)
