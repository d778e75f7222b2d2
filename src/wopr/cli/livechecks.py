"""The checks of `wopr check` that look at the running installation: database, money, nodes, the API over HTTP."""

from collections.abc import Awaitable, Callable, Sequence
from typing import TYPE_CHECKING

from wopr.ops.checks import Check, Finding, failed, ok, skipped, warning

if TYPE_CHECKING:
    from sqlalchemy.exc import DBAPIError

    from wopr.core.db import Database
    from wopr.core.settings import Settings

START = "wopr up"
NAMED = "Is the server that DATABASE_URL names running, and are user, password and database in it right?"
# Some loop passes every second; their passes are written down every few seconds.
LOOPS_QUIET_SECONDS_MAX = 120.0
# PostgreSQL's classes of errors about the connection, not about what was asked: away, login, no such database, full.
NO_CONNECTION = ("08", "28", "3D", "53", "57P")


class LiveChecks:
    """Holds the connection while the checks run; `close` gives it back."""

    def __init__(self, settings: "Settings") -> None:
        self._settings = settings
        self._db: Database | None = None

    def checks(self) -> Sequence[Check]:
        """Every check that needs something to run."""
        return [
            Check("database.reachable", "PostgreSQL answers", self._reachable),
            Check("database.migrated", "no migration is pending", self._with_database(self._migrated)),
            Check("billing.ledger", "every sum of the ledger is right", self._with_database(self._ledger)),
            Check("billing.inbox", "no payment event is stuck", self._with_database(self._inbox)),
            Check("inference.nodes", "a node serves every kind of request", self._with_database(self._nodes)),
            Check("inference.models", "the models that bots use are served", self._with_database(self._models)),
            Check(
                "loops.alive", "every background loop passed lately without an error", self._with_database(self._loops)
            ),
            Check("bots.registry", "the registry gives out the image of new bots", self._registry),
            Check("api.health", "the API answers exactly as agreed", self._api_health),
            Check("api.ready", "the API is ready for requests", self._api_ready),
            Check("ui.serves", "the UI answers", self._ui),
        ]

    async def close(self) -> None:
        if self._db is not None:
            await self._db.dispose()

    def _with_database(self, look: Callable[[], Awaitable[Finding]]) -> Callable[[], Awaitable[Finding]]:
        """The same check, passed over while there is no database: `database.reachable` says so once."""
        from sqlalchemy.exc import DBAPIError

        from wopr.core.errors import Unavailable

        async def guarded() -> Finding:
            try:
                return await look()
            except (OSError, Unavailable):
                return skipped("needs the database")
            except DBAPIError as error:
                if _is_no_connection(error):
                    return skipped("needs the database")
                raise

        return guarded

    def _database(self) -> "Database":
        from wopr.core.database_url import database_url
        from wopr.core.db import Database

        if self._db is None:
            # One for each check: who waits for a connection is not told that nobody can have one, and waits on.
            self._db = Database(database_url(self._settings), pool_size=len(self.checks()))
        return self._db

    async def _reachable(self) -> Finding:
        from sqlalchemy import text
        from sqlalchemy.exc import DBAPIError

        from wopr.core.errors import Unavailable

        remedy = NAMED if self._settings.database_url else START
        try:
            async with self._database().begin() as session:
                version = await session.scalar(text("SHOW server_version"))
        except (OSError, Unavailable) as error:
            return failed(str(error), remedy)
        except DBAPIError as error:
            return failed(str(error.orig).rpartition(">: ")[2], remedy)
        return ok(f"PostgreSQL {version}")

    async def _migrated(self) -> Finding:
        from wopr.migrations.head import head_revision

        at, head = await self._database().revision(), head_revision()
        return ok(str(at)) if at == head else failed(f"database at {at}, code at {head}", "wopr migrate apply")

    async def _ledger(self) -> Finding:
        from wopr.billing.invariants import invariants

        async with self._database().begin() as session:
            problems = await invariants(session)
        if problems:
            return failed(
                f"{len(problems)} problems, first: {problems[0]}", "Stop taking payments and look at the journal."
            )
        return ok("balances equal their transfers; everything sums to zero")

    async def _inbox(self) -> Finding:
        from wopr.billing.inbox import count_by_state

        async with self._database().begin() as session:
            counts = await count_by_state(session)
        stuck = counts.get("failed", 0) + counts.get("unmatched", 0)
        if stuck:
            return warning(
                f"{stuck} events failed or unmatched", "Look at Payments inbox in the administrator's pages."
            )
        return ok(", ".join(f"{count} {state}" for state, count in counts.items()) or "no events yet")

    async def _nodes(self) -> Finding:
        from wopr.inference.nodes import SERVICES, healthy_backends

        async with self._database().begin() as session:
            serving = {backend.service for backend in await healthy_backends(session)}
        missing = [service for service in SERVICES if service not in serving]
        if missing:
            return failed(f"nothing serves {', '.join(missing)}", "wopr nodes list shows each service's health.")
        return ok("all four services")

    async def _models(self) -> Finding:
        """Whether new bots can answer and remember. Who has a provider to fall back to needs no node to answer."""
        from wopr.inference.nodes import list_nodes
        from wopr.inference.offer import offered_models

        settings = self._settings
        async with self._database().begin() as session:
            offered = offered_models(await list_nodes(session), settings.wopr_prices)
        served = {name for model in offered if model.available for name in (model.name, *model.aliases)}
        if not served:
            return skipped("no node lists its models")
        wanted = {"BOT_EMBEDDING_MODEL": settings.bot_embedding_model}
        if not settings.fallback_model:
            wanted["BOT_MODEL"] = settings.bot_model
        missing = [f"{variable}={name}" for variable, name in sorted(wanted.items()) if name not in served]
        if missing:
            return failed(
                f"no node serves {', '.join(missing)}; there are {', '.join(sorted(served))}",
                "Name a model that a node serves in .env and release it, or load the model on a node.",
            )
        return ok(", ".join(sorted(wanted.values())))

    async def _loops(self) -> Finding:
        from sqlalchemy import func, select

        from wopr.core.loops import LoopLease

        async with self._database().begin() as session:
            errors = {lease.name: lease.last_error for lease in await session.scalars(select(LoopLease))}
            since = await session.scalar(select(func.now() - func.max(LoopLease.last_finished_at)))
        if not errors or since is None:
            return skipped("no loop has run yet")
        if since.total_seconds() > LOOPS_QUIET_SECONDS_MAX:
            return failed(f"no loop has passed for {since.total_seconds():.0f} s", "Does an API run? wopr status")
        bad = {name: error for name, error in errors.items() if error}
        if bad:
            name, error = next(iter(bad.items()))
            return warning(f"{name}: {error}", "The administrator's page Loops shows each one's last pass.")
        return ok(f"{len(errors)} loops")

    async def _registry(self) -> Finding:
        """Whether our login opens the door. A registry that is away stops nobody whose image is on the machine."""
        from wopr.core.errors import TooManyRequests, UpstreamFailed, WoprError
        from wopr.delivery.registry_checks import registry_of
        from wopr.delivery.registry_reference import parse_reference

        settings = self._settings
        if settings.bot_runtime == "process":
            return skipped("BOT_RUNTIME=process")
        if not settings.bot_image.startswith(f"{settings.registry_server}/"):
            return skipped(f"BOT_IMAGE is none of {settings.registry_server}")
        registry = registry_of(settings, settings.registry_server)
        try:
            await registry.digest(parse_reference(settings.bot_image))
        except (UpstreamFailed, TooManyRequests) as error:
            return warning(error.message, error.remedy)
        except WoprError as error:
            return failed(error.message, error.remedy)
        finally:
            await registry.close()
        return ok(settings.bot_image)

    async def _api_health(self) -> Finding:
        return await self._health(self._settings.internal_url)

    async def _api_ready(self) -> Finding:
        from wopr.client import ApiClient, ApiError

        async with ApiClient(self._settings.internal_url) as api:
            try:
                await api.ops.ready()
            except ApiError as error:
                return failed(error.message, error.remedy or START)
        return ok(self._settings.internal_url)

    async def _ui(self) -> Finding:
        return await self._health(self._settings.ui_url)

    async def _health(self, url: str) -> Finding:
        from wopr.client import ApiClient, ApiError

        async with ApiClient(url) as api:
            try:
                health = await api.ops.health()
            except ApiError:
                return failed(f"{url} does not answer", START)
            except ValueError:
                return failed(f"{url}/health is not ours", "Is another program on this port?")
        return ok(f"{url} {health.status}") if health.status == "ok" else failed(health.status, START)


def _is_no_connection(error: "DBAPIError") -> bool:
    state = getattr(error.orig, "sqlstate", None) or ""
    return error.connection_invalidated or state.startswith(NO_CONNECTION)
