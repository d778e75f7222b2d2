"""What this code's pending migrations would do to a database in reach: for `wopr migrate` and `wopr up`."""

import json

from wopr.core.db import Database
from wopr.delivery.dump_source import TYPES_SQL
from wopr.delivery.migrate import Pending, judge
from wopr.migrations.run import sql_document


async def judged(url: str, at: str | None) -> Pending:
    """The migrations after `at`, judged with the types that the columns have now."""
    types: dict[tuple[str, str], str] = {}
    if at is not None:
        connection = await Database(url, pool_size=2).connect_raw()
        try:
            for (row,) in await connection.fetch(TYPES_SQL):
                table, column, kind = json.loads(row)
                types[table, column] = kind
        finally:
            await connection.close()
    return judge(sql_document(at), types)
