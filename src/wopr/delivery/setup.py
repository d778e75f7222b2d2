"""The first release on a host that has nothing but Docker: its folder, the files of the stack, secrets of its own."""

import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import resources
from pathlib import Path

from wopr.core.files import OWN_SECRETS
from wopr.delivery import commands
from wopr.delivery.admission import admitting, private_addresses
from wopr.delivery.commands import parsed_env, quoted
from wopr.delivery.errors import HostFailed, Refused
from wopr.delivery.hosts import Host
from wopr.delivery.lock import Fence
from wopr.delivery.place import Place
from wopr.delivery.release import digest_of, read_releases, read_state

# In containers bots outlive the release that started them; as processes they would end with its slot.
BOT_RUNTIME = "docker"
SECRET_BYTES = 32
GENERATED = (*OWN_SECRETS, "POSTGRES_PASSWORD")
SHIPPED = ("compose.yaml", "Caddyfile")
SHIPPED_RECORD = "shipped"
CHECKOUT = Path(__file__).parents[3] / "deploy"


async def settings_there(host: Host, place: Place) -> dict[str, str]:
    """The operator's settings of an installation; empty where there are none yet."""
    return parsed_env((await host.read(place.env) or b"").decode("utf-8", "replace"))


@dataclass(frozen=True)
class Setup:
    """What a folder lacks. `env` is its `.env` as it would be; `written` names the settings that are new in it or other
    than before, `generated` the secrets that are made for it."""

    env: str
    generated: tuple[str, ...]
    written: tuple[str, ...]
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
    """What the folder lacks, given what the operator `chose` on the command line; reads only. Refused where something
    was released and nothing is set any more: new secrets would open none of what the old ones sealed.

    A file of the stack that the operator edited stays theirs; one that is as an earlier version shipped it is renewed.
    """
    raw = (await host.read(place.env) or b"").decode("utf-8", "replace")
    present = parsed_env(raw)
    first = await host.read(place.state) is None
    if not first and not present:
        raise await _refused(host, place)
    generated = tuple(name for name in GENERATED if not present.get(name) and not chosen.get(name))
    # Later, another way to run bots would leave behind what they know.
    bots = {"BOT_RUNTIME": BOT_RUNTIME} if first and not present.get("BOT_RUNTIME") else {}
    made = {name: secrets.token_hex(SECRET_BYTES) for name in generated}
    admits = await _admission(host, {**present, **chosen}, first=first)
    wanted = {**_addresses(present, chosen), **bots, **admits, **chosen, **made}
    written = {name: value for name, value in wanted.items() if present.get(name) != value}
    env = with_settings(raw, written)
    files, kept = await stack_files(host, place)
    return Setup(env, generated, tuple(written), env != raw, files, kept)


async def stack_files(host: Host, place: Place) -> tuple[dict[str, bytes], tuple[str, ...]]:
    """The files of the stack that are missing or to be renewed, and the names of those that the operator edited."""
    before = parsed_env((await host.read(f"{place.dir}/.{SHIPPED_RECORD}") or b"").decode())
    files, kept = {}, []
    for name in SHIPPED:
        there, ours = await host.read(f"{place.dir}/{name}"), packaged(name)
        if there is None or (there != ours and before.get(name) == digest_of(there)):
            files[name] = ours
        elif there != ours:
            kept.append(name)
    return files, tuple(kept)


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


async def _admission(host: Host, said: Mapping[str, str], *, first: bool) -> dict[str, str]:
    """Whom rented nodes admit, where nobody said: the host. Who rents none and is there already is left alone."""
    if said.get("GPU_ADMIT") or not (first or said.get("DO_API_TOKEN")):
        return {}
    own = private_addresses((await host.run(commands.addresses())).text)
    return {"GPU_ADMIT": admitting(own)} if own else {}


async def _refused(host: Host, place: Place) -> Refused:
    """What to do about an `.env` that was lost: each release has kept its own."""
    state = await read_state(host, place)
    active = state.active.release if state.active else None
    number = active or max((one.number for one in await read_releases(host, place)), default=None)
    saved = f"cp -p {place.snapshot(number, 'env')} {place.env}" if number else "Restore it from a backup."
    return Refused(
        f"{place.env} on {host.describe()} sets nothing, and something was released there with secrets of its own.",
        remedy=saved,
        code="env_lost",
    )


def _addresses(present: Mapping[str, str], chosen: Mapping[str, str]) -> dict[str, str]:
    """The addresses that follow from the domain, where nobody said otherwise."""
    said = {**present, **chosen}
    domain = said.get("WOPR_DOMAIN") or ("" if present else "localhost")
    if not domain:
        return {}
    plain = domain == "localhost"
    port = said.get("HTTP_PORT") or "80"
    tail = "" if port == "80" or not plain else f":{port}"
    scheme = "http" if plain or said.get("WOPR_SCHEME") else "https"
    found = {
        "WOPR_DOMAIN": domain,
        "BETTER_AUTH_URL": f"{scheme}://api.{domain}{tail}",
        "UI_URL": f"{scheme}://{domain}{tail}",
        "WOPR_SCHEME": "http://" if plain else "",
        "COOKIE_DOMAIN": "" if plain else f".{domain}",
    }
    given = {"BETTER_AUTH_URL"} if present.get("API_URL") else set()  # its other name
    return {name: value for name, value in found.items() if value and name not in given and not present.get(name)}
