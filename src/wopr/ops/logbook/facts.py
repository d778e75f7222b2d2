"""What the runbook states that no operation says: the purpose of each secret, the go-live list, the known gotchas.

Each line of the list and each gotcha names the check that proves it, so that the page shows what is so and not what
somebody believed.
"""

from dataclasses import dataclass

# Name of the variable, what it is for, what to know. In the runbook's order.
SECRETS = (
    ("STRIPE_SECRET_KEY", "Payments", "Switch to the live key before go-live"),
    ("STRIPE_WEBHOOK_SECRET", "Webhook validation", "Regenerate for the live endpoint; the whole `whsec_…` string"),
    ("STRIPE_DEFAULT_PRICE_ID", "$5/mo subscription", "Update to the live price id"),
    ("CLOUDFLARE_API_TOKEN", "Caddy DNS-01 TLS challenge", "Zone:DNS:Edit on the domain"),
    ("DO_API_TOKEN", "Fleet droplet provisioning", "Droplet write access"),
    ("RESEND_API_KEY", "Transactional email", "The domain must be verified first"),
    ("BETTER_AUTH_SECRET", "Session signing", "Generated; rotate by putting the new one in front, with a comma"),
    ("PLATFORM_SECRET", "Internal service-to-service auth", "Generated"),
    ("REGISTRY_PASSWORD", "Pull auth for platform and fleet images", "With REGISTRY_USERNAME"),
    ("GPU_NODE_SECRET", "GPU cloud-init self-registration", "Static; rotate after the first provision"),
    ("POSTGRES_PASSWORD", "The database of the stack", "Generated"),
)


@dataclass(frozen=True)
class Proof:
    """A line of the go-live list. `checks` are all needed; `evidence` must be in what they saw; `deed` must be done."""

    says: str
    checks: tuple[str, ...] = ()
    evidence: str = ""
    deed: str = ""
    services: bool = False


GO_LIVE = (
    Proof("The VPS is provisioned and a release serves on it", deed="deploy"),
    Proof("DNS: the domain's A records lead to the VPS (Cloudflare proxy OFF)", checks=("dns.records",)),
    Proof("TLS: browsers accept the certificate that is shown", checks=("tls.shown",)),
    Proof(
        ".env deployed with absolute paths, and in effect",
        checks=("settings.absolute-paths", "env.settings", "env.mode", "env.git", "stack.environment"),
    ),
    Proof("Public addresses and the session cookie fit", checks=("settings.auth-url", "settings.cookie-domain")),
    Proof("Migrations run before the server starts", checks=("database.migrated", "stack.migrations")),
    Proof("All services healthy", services=True),
    Proof(
        "What runs is what was released, and can be gone back from",
        checks=("stack.release", "stack.verdict", "stack.dump", "config.tags"),
    ),
    Proof(
        "Stripe switched to live mode keys and a live monthly price",
        checks=("settings.stripe-mode", "stripe.price"),
        evidence="live",
    ),
    Proof("Stripe tells our address of payments", checks=("stripe.webhook",)),
    Proof("Stripe's webhook secret is whole", checks=("settings.webhook-secret",)),
    Proof("The mail domain is verified", checks=("mail.domain",)),
    Proof("Private images can be pulled", checks=("registry.images",)),
    Proof("Happy path smoke test passes (sign-up → pay → bot created)", deed="smoke"),
)

# What bites, and the check that says whether it bites here.
GOTCHAS = (
    ("`docker compose restart` does NOT re-read env_file: `wopr deploy` makes the containers anew, by hand use "
     "`--force-recreate` or `down && up`", "stack.environment"),
    ("Paths must be absolute in production (relative breaks in a volume)", "settings.absolute-paths"),
    ("Caddy's DNS-01 requires the Cloudflare proxy OFF on A records: Caddy must own TLS", "dns.records"),
    ("Migrations must run BEFORE the server starts: `wopr deploy` does so, and the API waits for them",
     "database.migrated"),
    ("`BETTER_AUTH_URL` must be the API's own https address in production", "settings.auth-url"),
    ("`COOKIE_DOMAIN` must cover API and UI (`.wopr.bot`) in production", "settings.cookie-domain"),
    ("Stripe's webhook HMAC key is the full `whsec_XXX` string: do not strip the prefix", "settings.webhook-secret"),
    ("`checkout.session.completed` may come without a customer: it is matched by its reference, else reported",
     "billing.inbox"),
    ("Pulls of private images need `REGISTRY_USERNAME`, `REGISTRY_PASSWORD` and `REGISTRY_SERVER` (WOP-991)",
     "settings.registry"),
    ("A bare `localhost` site makes Caddy listen on 443 only: write `http://localhost`", "config.sites"),
    ("chatterbox needs its `:gpu` tag, and llama.cpp moved to `ghcr.io/ggml-org`", "config.images"),
    ("`--flash-attn` needs a value: `on`, `off` or `auto`", "config.flash-attn"),
    ("`:latest` and `:staging` say nothing of what runs: releases are digests", "config.tags"),
    ("A key that is not set turns off its own feature and no other: without `DO_API_TOKEN` nodes are watched as ever, "
     "and none is rented", "settings.missing"),
    ("A migration that drops something is refused without `--allow-destructive`, and a verified dump precedes each "
     "(WOP-990)", "database.migrated"),
)  # fmt: skip
