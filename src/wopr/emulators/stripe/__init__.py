"""A stand-in for Stripe, written from its documentation: the objects, endpoints, pages and events that we use."""

from wopr.emulators.stripe.app import build_stripe
from wopr.emulators.stripe.settings import API_VERSION, StripeSettings

__all__ = ["API_VERSION", "StripeSettings", "build_stripe"]
