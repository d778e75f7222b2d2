"""What the settings of an installation must be besides readable: whole paths, addresses with a site, whole secrets.

Each rule takes all settings and gives what is wrong, without ever telling a value that may be secret.
"""

import ipaddress
import re
from collections.abc import Callable, Iterator, Mapping
from urllib.parse import urlsplit

from wopr.delivery.env_file import EnvFile, Fault

PATH_NAME = re.compile(r"_(?:PATH|DIR|HOME|FILE|FOLDER)\Z|\A(?:WOPR_PRICES)\Z")
SECRET_CHARACTERS_MIN = 32
OWN_SECRETS = ("BETTER_AUTH_SECRET", "PLATFORM_SECRET", "GPU_NODE_SECRET", "POSTGRES_PASSWORD")
LOCAL_NAMES = ("localhost", "127.0.0.1", "::1")
PORTS = ("HTTP_PORT", "HTTPS_PORT")
NETWORKS = ("EDGE_PROXIES", "TRUSTED_PROXIES")
# What belongs together: one without the other does nothing, or fails when it is used.
TOGETHER = (
    ("Private images", ("REGISTRY_USERNAME", "REGISTRY_PASSWORD")),
    ("Payments", ("STRIPE_SECRET_KEY", "STRIPE_WEBHOOK_SECRET", "STRIPE_DEFAULT_PRICE_ID")),
)
# What a feature needs. Nothing is required to serve: the list says what is not there.
FEATURES = (
    ("payments", ("STRIPE_SECRET_KEY", "STRIPE_WEBHOOK_SECRET", "STRIPE_DEFAULT_PRICE_ID")),
    ("mail", ("RESEND_API_KEY|SMTP_URL",)),
    ("droplets for inference", ("DO_API_TOKEN",)),
    ("DNS records and certificates by DNS-01", ("CLOUDFLARE_API_TOKEN",)),
    ("private images", ("REGISTRY_USERNAME", "REGISTRY_PASSWORD")),
    ("nodes that register themselves", ("GPU_NODE_SECRET",)),
    ("pushes told by GitHub", ("GITHUB_WEBHOOK_SECRET",)),
)

Settings = Mapping[str, str]
Rule = Callable[[Settings], Iterator[tuple[str, str, str, bool]]]  # name, what is wrong, remedy, whether it refuses


def faults_of(file: EnvFile) -> list[Fault]:
    """Everything that is wrong with what a file sets."""
    values = {name: value for name, value in file.values.items() if value}
    return [
        Fault(file.lines.get(name, 0), name, says, remedy, refused)
        for rule in RULES
        for name, says, remedy, refused in rule(values)
    ]


def lacking(values: Settings) -> list[str]:
    """What does not work for want of settings, each with their names."""
    found = []
    for feature, needs in FEATURES:
        if missing := [need for need in needs if not any(values.get(name) for name in need.split("|"))]:
            found.append(f"{feature}: {', '.join(need.replace('|', ' or ') for need in missing)}")
    return found


def public(values: Settings) -> bool:
    """Whether customers are meant to reach it by a name of the internet, over https."""
    domain = values.get("WOPR_DOMAIN", "localhost")
    return not _local(domain) and not values.get("WOPR_SCHEME")


def paths(values: Settings) -> Iterator[tuple[str, str, str, bool]]:
    """A relative path means another place for every process that reads it, and a container has no home folder."""
    for name, value in values.items():
        if PATH_NAME.search(name) and not value.startswith("/"):
            yield name, f"{name} is a relative path", "Write the whole path, beginning with /.", True


def database(values: Settings) -> Iterator[tuple[str, str, str, bool]]:
    name = "DATABASE_URL"
    if not (url := values.get(name)):
        return
    parts = urlsplit(url)
    remedy = "Leave it out for the stack's own database, or write postgresql://user:password@host:5432/name."
    if not parts.scheme.startswith("postgres") or not parts.hostname:
        yield name, f"{name} is no address of PostgreSQL", remedy, True
    elif _local(parts.hostname):
        yield name, f"{name} names {parts.hostname}, which in a container is the container itself", remedy, True


def addresses(values: Settings) -> Iterator[tuple[str, str, str, bool]]:
    """Public addresses are whole, and where customers come over https nothing names this machine or plain http."""
    domain = values.get("WOPR_DOMAIN", "")
    if domain and ("/" in domain or ":" in domain or domain.startswith(".")):
        yield "WOPR_DOMAIN", "WOPR_DOMAIN is no bare name of a domain", "Write it like wopr.bot.", True
        return
    if values.get("WOPR_SCHEME", "http://") != "http://":
        yield "WOPR_SCHEME", "WOPR_SCHEME is neither empty nor http://", "Leave it out for https.", True
    if (tls := values.get("WOPR_TLS", "")) not in ("", "dns"):
        yield "WOPR_TLS", "WOPR_TLS is neither empty nor dns", "WOPR_TLS=dns", True
    elif tls and public(values) and not values.get("CLOUDFLARE_API_TOKEN"):
        yield "WOPR_TLS", "WOPR_TLS=dns needs CLOUDFLARE_API_TOKEN", "Set CLOUDFLARE_API_TOKEN.", False
    for name, host in (("BETTER_AUTH_URL", f"api.{domain}"), ("API_URL", f"api.{domain}"), ("UI_URL", domain)):
        if not (url := values.get(name)):
            continue
        parts = urlsplit(url)
        good = f"{name}=https://{host}" if domain else f"{name}=https://…"
        if parts.scheme not in ("http", "https") or not parts.hostname or parts.path not in ("", "/"):
            yield name, f"{name} is no address like {good}", good, True
        elif public(values) and (_local(parts.hostname) or parts.scheme == "http"):
            yield name, f"{name} is {url} while WOPR_DOMAIN={domain} is served over https", good, True
        elif domain and parts.hostname not in (host, f"app.{domain}"):
            yield name, f"{name} names {parts.hostname}, for which Caddy has no site of its own", good, False


def cookie(values: Settings) -> Iterator[tuple[str, str, str, bool]]:
    """The session cookie reaches both API and pages."""
    given = (values.get("BETTER_AUTH_URL") or values.get("API_URL", ""), values.get("UI_URL", ""))
    hosts = [urlsplit(address).hostname or "" for address in given]
    covered = values.get("COOKIE_DOMAIN", "").lstrip(".")
    if not all(hosts) or (not covered and (hosts[0] == hosts[1] or any(_local(host) for host in hosts))):
        return
    remedy = f"COOKIE_DOMAIN=.{values.get('WOPR_DOMAIN') or hosts[1]}"
    outside = [host for host in hosts if not covered or (host != covered and not host.endswith(f".{covered}"))]
    if outside and not all(_local(host) for host in outside):
        yield "COOKIE_DOMAIN", f"COOKIE_DOMAIN does not cover {' and '.join(outside)}", remedy, True


def whole_secrets(values: Settings) -> Iterator[tuple[str, str, str, bool]]:
    """Secrets that are short, or cut."""
    for name in OWN_SECRETS:
        given = [part.strip() for part in values.get(name, "").split(",") if part.strip()]
        least = SECRET_CHARACTERS_MIN if name != "POSTGRES_PASSWORD" else 12
        if any(len(part) < least for part in given) and public(values):
            yield name, f"{name} is shorter than {least} characters", f"{name}=$(openssl rand -hex 32)", True
    hook = values.get("STRIPE_WEBHOOK_SECRET", "")
    if hook and not hook.startswith("whsec_"):
        says = "STRIPE_WEBHOOK_SECRET lacks its prefix whsec_: every event's signature would be wrong"
        yield "STRIPE_WEBHOOK_SECRET", says, "Copy the whole string from Stripe's dashboard.", True


def together(values: Settings) -> Iterator[tuple[str, str, str, bool]]:
    for feature, names in TOGETHER:
        given = [name for name in names if values.get(name)]
        missing = [name for name in names if not values.get(name)]
        if given and missing:
            yield given[0], f"{feature} need {' and '.join(missing)} too", f"Set {' and '.join(missing)}.", False


def numbers(values: Settings) -> Iterator[tuple[str, str, str, bool]]:
    """Ports and networks are what they should be; a wrong one would stop Caddy for everybody."""
    for name in PORTS:
        if (value := values.get(name)) and not (value.isdigit() and 0 < int(value) < 65536):
            yield name, f"{name} is no port", f"{name}=80" if name == "HTTP_PORT" else f"{name}=443", True
    for name in NETWORKS:
        for network in values.get(name, "").replace(",", " ").split():
            try:
                ipaddress.ip_network(network, strict=False)
            except ValueError:
                yield name, f"{name} holds {network!r}, which is no network", "Write it like 173.245.48.0/20.", True
    if address := values.get("PUBLIC_ADDRESS"):
        try:
            ipaddress.IPv4Address(address)
        except ValueError:
            yield "PUBLIC_ADDRESS", "PUBLIC_ADDRESS is no IPv4 address", "Write it like 203.0.113.7.", True


RULES: tuple[Rule, ...] = (paths, database, addresses, cookie, whole_secrets, together, numbers)


def _local(host: str) -> bool:
    return host in LOCAL_NAMES or host.endswith(".localhost")
