"""A stand-in for DigitalOcean: the cloud in a box. Its API, and behind it machines, simulated or in containers."""

from wopr.emulators.digitalocean.app import build_digitalocean
from wopr.emulators.digitalocean.settings import DigitalOceanSettings

__all__ = ["DigitalOceanSettings", "build_digitalocean"]
