"""Metrics for Prometheus: prefix `wopr_`, base units, and never a tenant's or bot's id as a label."""

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, Info, generate_latest

REGISTRY = CollectorRegistry()
SECONDS_BUCKETS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)

HTTP_REQUESTS = Counter("wopr_http_requests", "Requests answered.", ("method", "route", "status"), registry=REGISTRY)
HTTP_SECONDS = Histogram(
    "wopr_http_request_seconds", "Time to answer a request.", ("route",), buckets=SECONDS_BUCKETS, registry=REGISTRY
)
LOOP_SECONDS = Histogram(
    "wopr_loop_pass_seconds", "Length of a pass.", ("loop",), buckets=SECONDS_BUCKETS, registry=REGISTRY
)
LOOP_FAILURES = Counter("wopr_loop_failures", "Passes that ended with an error.", ("loop",), registry=REGISTRY)
BUILD = Info("wopr_build", "Version that runs.", registry=REGISTRY)

__all__ = [
    "BUILD",
    "HTTP_REQUESTS",
    "HTTP_SECONDS",
    "LOOP_FAILURES",
    "LOOP_SECONDS",
    "REGISTRY",
    "Counter",
    "Gauge",
    "Histogram",
    "exposition",
]


def exposition() -> bytes:
    """Every metric in Prometheus' text format."""
    return generate_latest(REGISTRY)
