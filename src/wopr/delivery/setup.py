"""The first release on a host that has nothing but Docker: its folder, the files of the stack, secrets of its own."""

import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import resources
from pathlib import Path

from wopr.core.files import OWN_SECRETS
from wopr.delivery.commands import parsed_env, quoted
from wopr.delivery.errors import HostFailed
from wopr.delivery.hosts import Host
from wopr.delivery.lock import Fence
from wopr.delivery.place import Place
from wopr.delivery.release import digest_of

# In containers bots outlive the release that started them; as processes they would end with its slot.
BOT_RUNTIME = "docker"
SECRET_BYTES = 32
GENERATED = (*OWN_SECRETS, "POSTGRES_PASSWORD")
SHIPPED = ("compose.yaml", "Caddyfile")
SHIPPED_RECORD = "shipped"
CHECKOUT = Path(__file__).parents[3] / "deploy"


@dataclass(frozen=True)
class Setup:
    """What a folder lacks. `env` is its `.env` as it would be; `generated` names the secrets that are made for it."""

    env: str
    generated: tuple[str, ...]
    changed: bool
    files: Mapping[str, bytes]
    kept: tuple[str, ...]

    @property
    def complete(self) -> bool:
        return not self.changed and not self.files


def packaged(name: str) -> bytes:
    """A file of the stack as this version ships it."""
    shipped = resources.files("wopr.delivery").joinpath("stack", name)
    if shipped.is_file():
        return shipped.read_bytes()
    path = CHECKOUT / name  # an editable installation has the checkout's own folder
    if not path.is_file():
        raise HostFailed(f"This installation of wopr lacks deploy/{name}.", remedy="Install wopr again.")
    return path.read_bytes()


async def look(host: Host, place: Place, chosen: Mapping[str, str]) -> Setup:
    """What the folder lacks, given what the operator `chose` on the command line; reads only.

    A file of the stack that the operator edited stays theirs; one that is as an earlier version shipped it is renewed.
    """
    raw = (await host.read(place.env) or b"").decode("utf-8", "replace")
    present = parsed_env(raw)
    generated = tuple(name for name in GENERATED if not present.get(name) and not chosen.get(name))
    first = await host.read(place.state) is None  # later, another way to run bots would leave behind what they know
    bots = {"BOT_RUNTIME": BOT_RUNTIME} if first and not present.get("BOT_RUNTIME") else {}
    made = {name: secrets.token_hex(SECRET_BYTES) for name in generated}
    wanted = {**_addresses(present, chosen), **bots, **chosen, **made}
    env = with_settings(raw, {name: value for name, value in wanted.items() if present.get(name) != value})
    before = parsed_env((await host.read(f"{place.dir}/.{SHIPPED_RECORD}") or b"").decode())
    files, kept = {}, []
    for name in SHIPPED:
        there, ours = await host.read(f"{place.dir}/{name}"), packaged(name)
        if there is None or (there != ours and before.get(name) == digest_of(there)):
            files[name] = ours
        elif there != ours:
            kept.append(name)
    return Setup(env, generated, env != raw, files, tuple(kept))


async def complete(fence: Fence, setup: Setup) -> None:
    """Write what the folder lacked; `.env` is readable by its owner only."""
    place = fence.place
    for name, content in setup.files.items():
        await fence.write(f"{place.dir}/{name}", content, 0o644)
    if setup.files:
        lines = "".join(f"{name}={digest_of(packaged(name))}\n" for name in SHIPPED)
        await fence.write(f"{place.dir}/.{SHIPPED_RECORD}", lines.encode())
    if setup.changed:
        await fence.write(place.env, setup.env.encode())


def with_settings(text: str, settings: Mapping[str, str]) -> str:
    """The `.env` with these settings: each in its own line where it stands already, else at the end."""
    lines, left = text.splitlines(), dict(settings)
    for number, line in enumerate(lines):
        name = line.strip().removeprefix("export ").partition("=")[0].strip()
        if name in left and "=" in line and not name.startswith("#"):
            lines[number] = f"{name}={quoted(left.pop(name))}"
    lines += [f"{name}={quoted(value)}" for name, value in left.items()]
    return "\n".join(lines) + "\n" if lines else ""


def _addresses(present: Mapping[str, str], chosen: Mapping[str, str]) -> dict[str, str]:
    """The addresses that follow from the domain, where nobody said otherwise."""
    domain = chosen.get("WOPR_DOMAIN") or ("" if present else "localhost")
    if not domain:
        return {}
    plain = domain == "localhost"
    port = chosen.get("HTTP_PORT", "80")
    tail = "" if port == "80" or not plain else f":{port}"
    scheme = "http" if plain or chosen.get("WOPR_SCHEME") else "https"
    found = {
        "WOPR_DOMAIN": domain,
        "BETTER_AUTH_URL": f"{scheme}://api.{domain}{tail}",
        "UI_URL": f"{scheme}://{domain}{tail}",
        "WOPR_SCHEME": "http://" if plain else "",
        "COOKIE_DOMAIN": "" if plain else f".{domain}",
    }
    return {name: value for name, value in found.items() if value and not present.get(name)}
