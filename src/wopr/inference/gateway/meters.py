"""What the gateway tells Prometheus. Never a tenant, key or bot as a label."""

from wopr.billing.usage import UsageRecord
from wopr.core.metrics import REGISTRY, Counter, Gauge, Histogram

SECONDS_BUCKETS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300)

REQUESTS = Counter("wopr_gateway_requests", "Requests answered.", ("kind", "status"), registry=REGISTRY)
REFUSALS = Counter("wopr_gateway_refusals", "Requests refused before a model was asked.", ("code",), registry=REGISTRY)
SECONDS = Histogram(
    "wopr_gateway_request_seconds", "Length of a request.", ("kind",), buckets=SECONDS_BUCKETS, registry=REGISTRY
)
FIRST_TOKEN_SECONDS = Histogram(
    "wopr_gateway_first_token_seconds", "Time to the first token.", buckets=SECONDS_BUCKETS, registry=REGISTRY
)
PROMPT_TOKENS = Counter("wopr_gateway_prompt_tokens", "Prompt tokens.", ("model",), registry=REGISTRY)
COMPLETION_TOKENS = Counter("wopr_gateway_completion_tokens", "Completion tokens.", ("model",), registry=REGISTRY)
EJECTIONS = Counter("wopr_gateway_ejections", "Times a backend was left out.", ("node", "service"), registry=REGISTRY)
REPLAYS = Counter("wopr_gateway_replays", "Answers given again under an Idempotency-Key.", registry=REGISTRY)
RETRIES = Counter("wopr_gateway_retries", "Requests sent to another backend.", registry=REGISTRY)
RUNNING = Gauge("wopr_gateway_running", "Requests that run now.", registry=REGISTRY)
SETTLED = Counter("wopr_gateway_settled", "Usage records settled in the database.", registry=REGISTRY)
SETTLE_FAILURES = Counter("wopr_gateway_settle_failures", "Settlements that will be tried again.", registry=REGISTRY)
WAL_RECORDS = Gauge("wopr_gateway_wal_records", "Usage records that are not settled yet.", registry=REGISTRY)
WAL_BYTES = Gauge("wopr_gateway_wal_bytes", "Bytes in the write-ahead log.", registry=REGISTRY)
MALFORMED = Counter("wopr_gateway_malformed_events", "Stream events that were not JSON.", registry=REGISTRY)

SERIES_MAX = 500
_children: dict[tuple[str, str, str], tuple[Counter, Histogram, Counter, Counter]] = {}


def observe(record: UsageRecord, seconds: float) -> None:
    """Count one metered request. The labelled children are kept: finding them costs more than counting."""
    # With an outside provider anything may be asked for by name: beyond a limit the names are not told apart.
    model = record.model if len(_children) < SERIES_MAX else "other"
    name = (record.kind, record.status, model)
    found = _children.get(name)
    if found is None:
        found = _children[name] = (
            REQUESTS.labels(record.kind, record.status),
            SECONDS.labels(record.kind),
            PROMPT_TOKENS.labels(model),
            COMPLETION_TOKENS.labels(model),
        )
    requests, length, prompt, completion = found
    requests.inc()
    length.observe(seconds)
    if record.prompt_tokens:
        prompt.inc(record.prompt_tokens)
    if record.completion_tokens:
        completion.inc(record.completion_tokens)
    if record.first_token_ms is not None:
        FIRST_TOKEN_SECONDS.observe(record.first_token_ms / 1000)
