"""A stand-in for Resend: it accepts its API, keeps the mails, and shows them on a page instead of sending them."""

from wopr.emulators.resend.app import build_resend
from wopr.emulators.resend.settings import ResendSettings

__all__ = ["ResendSettings", "build_resend"]
