"""A stand-in for Cloudflare: its API for zones and DNS records, and a name server that answers from them."""

from wopr.emulators.cloudflare.app import build_cloudflare
from wopr.emulators.cloudflare.settings import CloudflareSettings
from wopr.emulators.nameserver import NameServer

__all__ = ["CloudflareSettings", "NameServer", "build_cloudflare"]
