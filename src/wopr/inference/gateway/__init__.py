"""The gateway: OpenAI's API in front of our nodes, metered and paid from the customer's credit."""

from wopr.inference.gateway.app import Gateway, build_gateway

__all__ = ["Gateway", "build_gateway"]
