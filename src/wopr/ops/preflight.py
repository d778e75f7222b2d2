"""Checks of the settings and of this machine: the runbook's known gotchas, each as a pure rule over the settings."""

import shutil
import stat
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from ipaddress import ip_network
from pathlib import Path
from urllib.parse import urlsplit

from pydantic import SecretStr

from wopr.core.files import OWNER_ONLY, SECRETS_FILE, ensure_own_secrets, replace_text
from wopr.core.settings import Settings
from wopr.ops.checks import Check, Finding, failed, ok, skipped, warning

DISK_BYTES_MIN = 2 * 1024**3
LOCAL_HOSTS = ("localhost", "127.0.0.1", "::1")
SECRET_CHARACTERS_MIN = 32
# A /24 may be a network of one's own; a region's own private network is larger, and everybody of the account is in it.
ADMITTED_ADDRESSES_MAX = 256
Rule = Callable[[Settings], Finding]

# Setting, and what does not work without it.
OPTIONAL = (
    ("platform_secret", "running bots"),
    ("stripe_secret_key", "payments"),
    ("stripe_webhook_secret", "credit from payments"),
    ("stripe_default_price_id", "subscriptions"),
    ("resend_api_key", "mail (it stays in the outbox)"),
    ("do_api_token", "provisioning of droplets"),
    ("cloudflare_api_token", "DNS records and certificates by DNS-01"),
    ("registry_password", "private images"),
)


def checks(settings: Settings) -> Sequence[Check]:
    """Every check that needs only the settings, whichever machine they are for."""
    return [
        _check(settings, "settings.auth-url", "the public address of the API is usable", auth_url),
        _check(settings, "settings.cookie-domain", "the session cookie reaches both API and UI", cookie_domain),
        _check(settings, "settings.webhook-secret", "Stripe's webhook secret is the whole string", webhook_secret),
        _check(settings, "settings.stripe-mode", "test keys are not used in public", stripe_mode),
        _check(settings, "settings.session-secret", "sessions are signed with a real secret", session_secret),
        _check(settings, "settings.absolute-paths", "no path depends on the folder of the start", absolute_paths),
        _check(settings, "settings.database-url", "the database's address is absolute", database_address),
        _check(settings, "settings.registry", "the registry has a login", registry_login),
        _check(settings, "settings.gpu-admit", "rented nodes let in the platform and few others", node_admission),
        _check(settings, "settings.missing", "what each missing setting disables is known", missing_settings),
    ]


def machine_checks(settings: Settings) -> Sequence[Check]:
    """Every check of this machine."""
    return [
        _check(settings, "machine.secrets-file", "the secrets are readable by their owner only", secrets_file),
        _check(settings, "machine.env-file", "no .env file lies in version control", env_file),
        _check(settings, "machine.disk", "there is room for data", disk),
        _check(settings, "machine.speech", "a speech synthesiser is installed", speech),
    ]


def _check(settings: Settings, name: str, proves: str, rule: Rule) -> Check:
    async def look() -> Finding:
        return rule(settings)

    return Check(name, proves, look)


def auth_url(settings: Settings) -> Finding:
    """BETTER_AUTH_URL is https, and names the API's own host, wherever it is not a machine of one's own."""
    url = urlsplit(settings.api_url)
    if url.scheme not in ("http", "https") or not url.hostname:
        return failed(f"BETTER_AUTH_URL is {settings.api_url!r}", "Set BETTER_AUTH_URL to https://api.your-domain.")
    if url.path not in ("", "/"):
        return failed(f"BETTER_AUTH_URL has a path: {settings.api_url}", f"Use {url.scheme}://{url.netloc} alone.")
    if not is_local(settings) and url.scheme != "https":
        return failed(f"{settings.api_url} is plain http", f"Set BETTER_AUTH_URL=https://{url.netloc}.")
    return ok(settings.api_url)


def cookie_domain(settings: Settings) -> Finding:
    """COOKIE_DOMAIN covers the hosts of both API and UI."""
    domain = settings.cookie_domain.lstrip(".")
    hosts = [urlsplit(address).hostname or "" for address in (settings.api_url, settings.ui_url)]
    if not domain:
        if hosts[0] == hosts[1]:
            return ok("host only; API and UI share one host")
        if is_local(settings):
            return ok(f"host only, on this machine: {', '.join(hosts)}")
        return failed(f"COOKIE_DOMAIN is empty but the hosts differ: {', '.join(hosts)}", _one_domain(hosts))
    outside = [host for host in hosts if host != domain and not host.endswith("." + domain)]
    if outside:
        return failed(f"COOKIE_DOMAIN {settings.cookie_domain} does not cover {', '.join(outside)}", _one_domain(hosts))
    return ok(settings.cookie_domain)


def webhook_secret(settings: Settings) -> Finding:
    """The HMAC key is the full whsec_… string; a stripped prefix makes every event's signature wrong."""
    value = reveal(settings.stripe_webhook_secret)
    if not value:
        return skipped("STRIPE_WEBHOOK_SECRET is not set")
    if not value.startswith("whsec_"):
        return failed("STRIPE_WEBHOOK_SECRET lacks its prefix whsec_", "Copy the whole string from Stripe's dashboard.")
    return ok("whole, with its prefix")


def stripe_mode(settings: Settings) -> Finding:
    key = reveal(settings.stripe_secret_key)
    if not key:
        return skipped("STRIPE_SECRET_KEY is not set")
    if not is_local(settings) and "_test_" in key:
        return warning(
            "a test key on a public address: nobody really pays", "Set Stripe's live keys and live price id."
        )
    return ok("test mode" if "_test_" in key else "live mode")


def session_secret(settings: Settings) -> Finding:
    value = reveal(settings.better_auth_secret)
    if not value:

        def generate() -> str:
            return _generate_secrets(settings.wopr_home)

        evidence = "BETTER_AUTH_SECRET is not set: nobody can sign in"
        return failed(evidence, "BETTER_AUTH_SECRET=$(openssl rand -hex 32)", generate)
    short = [part for part in value.split(",") if len(part.strip()) < SECRET_CHARACTERS_MIN]
    if short:
        return failed(f"shorter than {SECRET_CHARACTERS_MIN} characters", "BETTER_AUTH_SECRET=$(openssl rand -hex 32)")
    return ok("long enough")


def absolute_paths(settings: Settings) -> Finding:
    """Relative paths break where the working directory differs, as in a container with a volume."""
    given = {name: getattr(settings, name) for name in ("models_dir", "wopr_prices")}
    relative = [
        f"{name.upper()}={path}" for name, path in given.items() if path and not path.expanduser().is_absolute()
    ]
    if relative:
        return failed(", ".join(relative), "Write the whole path, beginning with /.")
    return ok("absolute")


def database_address(settings: Settings) -> Finding:
    url = reveal(settings.database_url)
    if not url:
        return ok("embedded")
    parts = urlsplit(url)
    if not parts.scheme.startswith("postgres"):
        return failed(
            f"DATABASE_URL begins with {parts.scheme}://", "Use postgresql://user:password@host/wopr_platform."
        )
    if not is_local(settings) and not parts.password:
        return warning("DATABASE_URL has no password", "Give the role wopr a password and put it into DATABASE_URL.")
    return ok(f"{parts.hostname}:{parts.port or 5432}{parts.path}")


def registry_login(settings: Settings) -> Finding:
    """Explicit credentials are needed for private images (WOP-991)."""
    user, password = settings.registry_username, reveal(settings.registry_password)
    if not user and not password:
        return skipped("REGISTRY_USERNAME and REGISTRY_PASSWORD are not set; bots run as processes")
    if not user or not password:
        lacking = "REGISTRY_USERNAME" if not user else "REGISTRY_PASSWORD"
        return failed(f"{lacking} is missing while the other is set", f"Set {lacking}.")
    return ok(f"{user} at {settings.registry_server}")


def node_admission(settings: Settings) -> Finding:
    """Who is in GPU_ADMIT reaches the nodes' SSH and services."""
    if not _given(settings, "do_api_token"):
        return skipped("DO_API_TOKEN is not set: no node is rented")
    admitted = [part.strip() for part in settings.gpu_admit.split(",") if part.strip()]
    wide = [part for part in admitted if ip_network(part, strict=False).num_addresses > ADMITTED_ADDRESSES_MAX]
    if wide:
        evidence = f"GPU_ADMIT lets all of {', '.join(wide)} reach the nodes, SSH included"
        return warning(evidence, "GPU_ADMIT=<VPS private address>/32; wopr deploy writes it where .env has none.")
    return ok(settings.gpu_admit)


def missing_settings(settings: Settings) -> Finding:
    missing = [f"{name.upper()}: no {what}" for name, what in OPTIONAL if not _given(settings, name)]
    if not missing:
        return ok("nothing is missing")
    return skipped("; ".join(missing))


def secrets_file(settings: Settings) -> Finding:
    path = settings.wopr_home / SECRETS_FILE
    if not path.exists():
        return skipped(f"{path} does not exist; secrets come from the environment")
    mode = stat.S_IMODE(path.stat().st_mode)
    if mode & 0o077:

        def close_to_others() -> str:
            path.chmod(OWNER_ONLY)
            return f"{path} has mode {OWNER_ONLY:o} now"

        return failed(f"{path} is readable by others (mode {mode:o})", f"chmod 600 {path}", close_to_others)
    return ok(f"mode {mode:o}")


def env_file(settings: Settings) -> Finding:
    """A .env that git would commit is a leak waiting to happen."""
    folder = next((f for f in (settings.wopr_home, *settings.wopr_home.parents) if (f / ".git").exists()), None)
    if folder is None:
        return ok("the data folder is in no checkout")
    index = folder / ".git" / "index"
    tracked = index.exists() and any(part in index.read_bytes() for part in (b"\x00.env\x00", b"/.env\x00"))
    if tracked:
        return failed(f"{folder / '.env'} is tracked by git", "git rm --cached .env, rotate every secret in it.")
    return ok("not tracked")


def disk(settings: Settings) -> Finding:
    folder = next(f for f in (settings.wopr_home, *settings.wopr_home.parents) if f.exists())
    free = shutil.disk_usage(folder).free
    evidence = f"{free / 1024**3:.1f} GB free at {folder}"
    return ok(evidence) if free >= DISK_BYTES_MIN else failed(evidence, "Free some space: at least 2 GB are needed.")


def speech(_settings: Settings) -> Finding:
    found = next((name for name in ("flite", "espeak-ng") if shutil.which(name)), None)
    if found:
        return ok(found)
    return warning("neither flite nor espeak-ng is installed: bots can't speak here", "sudo apt-get install flite")


def _generate_secrets(home: Path) -> str:
    """Add our own secrets that are missing; the file as it was is kept beside it."""
    path = home / SECRETS_FILE
    kept = ""
    if path.exists():
        backup = path.with_name(f"{SECRETS_FILE}.{datetime.now(UTC):%Y%m%dT%H%M%SZ}")
        replace_text(backup, path.read_text(encoding="utf-8"))
        kept = f"; as it was: {backup}"
    ensure_own_secrets(home)
    return f"missing secrets were generated into {path}{kept}"


def is_local(settings: Settings) -> bool:
    """Whether this is a machine of one's own rather than a public address."""
    host = urlsplit(settings.api_url).hostname or ""
    return host in LOCAL_HOSTS or host.endswith(".localhost")


def reveal(value: SecretStr | None) -> str:
    return value.get_secret_value() if value is not None else ""


def common(hosts: Sequence[str]) -> str:
    """The longest domain that all hosts share."""
    reversed_labels = [host.split(".")[::-1] for host in hosts]
    shared = []
    for labels in zip(*reversed_labels, strict=False):
        if len(set(labels)) > 1:
            break
        shared.append(labels[0])
    return ".".join(reversed(shared))


def _one_domain(hosts: Sequence[str]) -> str:
    # No browser takes a cookie for a whole top-level domain.
    if "." in (domain := common(hosts)):
        return f"Use .{domain}."
    return "Choose BETTER_AUTH_URL and UI_URL under one domain, such as https://api.wopr.bot and https://wopr.bot."


def _given(settings: Settings, name: str) -> bool:
    value = getattr(settings, name)
    return bool(reveal(value) if isinstance(value, SecretStr) else value)
