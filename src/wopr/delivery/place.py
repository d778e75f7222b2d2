"""Where an installation keeps what: the paths of its folder on the host, and the names of its containers."""

from dataclasses import dataclass
from posixpath import join
from typing import Literal

Slot = Literal["blue", "green"]
SLOTS: tuple[Slot, Slot] = ("blue", "green")
ROLES = ("api", "ui")
DIR = "/root/wopr-platform"
NAME = "wopr"
NUMBER_DIGITS = 4


def other(slot: Slot) -> Slot:
    """The slot beside it."""
    return "green" if slot == "blue" else "blue"


@dataclass(frozen=True)
class Place:
    """The folder `dir` on a host, and the name that sets this installation apart from others on the same engine."""

    dir: str = DIR
    name: str = NAME

    @property
    def env(self) -> str:
        """The operator's settings."""
        return join(self.dir, ".env")

    @property
    def compose(self) -> str:
        return join(self.dir, "compose.yaml")

    @property
    def caddyfile(self) -> str:
        return join(self.dir, "Caddyfile")

    @property
    def caddy_live(self) -> str:
        """What Caddy reads: the configuration of the release that serves, in a folder of its own."""
        return join(self.dir, "caddy", "Caddyfile")

    @property
    def stack_env(self) -> str:
        """What compose interpolates; written anew for each release."""
        return join(self.dir, "stack.env")

    @property
    def state(self) -> str:
        return join(self.dir, "state.json")

    @property
    def quarantine(self) -> str:
        return join(self.dir, "quarantine.json")

    @property
    def lock(self) -> str:
        return join(self.dir, "lock.json")

    @property
    def guard(self) -> str:
        """Held for the moment in which the lock changes hands."""
        return join(self.dir, ".lock.guard")

    @property
    def busy(self) -> str:
        """Held by every command that changes something, for as long as it runs, even when its deployer was killed."""
        return join(self.dir, ".lock.busy")

    @property
    def releases(self) -> str:
        return join(self.dir, "releases")

    @property
    def dumps(self) -> str:
        return join(self.dir, "dumps")

    @property
    def registry_config(self) -> str:
        """The client's folder with the registry's credentials, there only while images are pulled."""
        return join(self.dir, ".registry")

    @property
    def certificates(self) -> str:
        """What belongs to certificates by DNS-01: certbot's folder, and what Caddy is given."""
        return join(self.dir, "certificates")

    @property
    def served(self) -> str:
        """Key and chain in one file, in a folder of its own, which Caddy sees and nothing else of this."""
        return join(self.certificates, "served", "certificate.pem")

    @property
    def chain(self) -> str:
        """The certificate with its chain, without the key."""
        return join(self.certificates, "chain.pem")

    @property
    def attempts(self) -> str:
        """What became of the last tries to get a certificate."""
        return join(self.certificates, "attempts.json")

    @property
    def network(self) -> str:
        return f"{self.name}-platform"

    def slot_env(self, slot: Slot) -> str:
        """The environment of a slot: what `.env` said at its release."""
        return join(self.dir, "slots", f"{slot}.env")

    def release(self, number: int) -> str:
        return join(self.releases, f"{number:0{NUMBER_DIGITS}}.json")

    def snapshot(self, number: int, file: str = "") -> str:
        """What a release consists of besides its images: `env`, `compose.yaml`, `Caddyfile`."""
        return join(self.releases, f"{number:0{NUMBER_DIGITS}}", file)

    def container(self, service: str) -> str:
        return f"{self.name}-{service}"

    def slot_containers(self, slot: Slot) -> tuple[str, ...]:
        return tuple(self.container(f"{role}-{slot}") for role in ROLES)
