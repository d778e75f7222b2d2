"""Where the database is: as the operator says, or as the embedded server left it."""

from pathlib import Path

from wopr.core.errors import Unavailable
from wopr.core.files import DATABASE_URL_FILE
from wopr.core.settings import Settings


def database_url(settings: Settings) -> str:
    """DATABASE_URL, or the address that the embedded server left under WOPR_HOME when it started."""
    if settings.database_url is not None:
        return _plain(settings.database_url.get_secret_value())
    file: Path = settings.wopr_home / DATABASE_URL_FILE
    if file.exists():
        return file.read_text(encoding="utf-8").strip()
    raise Unavailable(
        f"There is no database: DATABASE_URL is not set and no embedded one was started under {settings.wopr_home}.",
        remedy="Start everything with `wopr up`, or set DATABASE_URL. An installation's is asked where it runs:"
        " wopr exec --dir … or --host … and then the command",
    )


def _plain(url: str) -> str:
    """The address as PostgreSQL's own tools take it: without the name of a driver."""
    scheme, _, rest = url.partition("://")
    if scheme.partition("+")[0] not in ("postgresql", "postgres"):
        raise Unavailable(
            "DATABASE_URL does not name a PostgreSQL database.", remedy="Use postgresql://user:password@host/database."
        )
    return f"postgresql://{rest}"
