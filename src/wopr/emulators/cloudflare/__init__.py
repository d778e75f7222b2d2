"""A stand-in for Cloudflare: its API for zones and DNS records, and a name server that answers from them."""

from wopr.emulators.cloudflare.app import build_cloudflare
from wopr.emulators.cloudflare.nameserver import NameServer
from wopr.emulators.cloudflare.settings import CloudflareSettings

__all__ = ["CloudflareSettings", "NameServer", "build_cloudflare"]
