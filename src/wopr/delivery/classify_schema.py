"""What is known of the tables while migrations are read: what they make themselves, and the types of what was there.

A table or column that the pending migrations make holds nobody's data yet, so that dropping or rewriting it loses
nothing, and the running release has never heard of it.
"""

import re
from dataclasses import dataclass, field

from sqlglot import exp

_TYPE = re.compile(
    r"(?P<base>[a-z]\w*(?: [a-z]+)*) ?(?:\((?P<first>\d+)(?: ?, ?(?P<second>\d+))?\))?(?P<rest>(?: [a-z]+)*(?:\[\])*)"
)
_SAME = {
    "int": "integer",
    "int4": "integer",
    "int8": "bigint",
    "int2": "smallint",
    "varchar": "character varying",
    "bool": "boolean",
    "decimal": "numeric",
    "timestamptz": "timestamp with time zone",
    "float4": "real",
    "float8": "double precision",
}
_INTEGERS = ("smallint", "integer", "bigint")


@dataclass(frozen=True)
class FreshColumn:
    """A column that a pending migration adds to a table that was there."""

    required: bool
    has_default: bool


@dataclass
class Known:
    """`types` are those of the live database: (table, column) → as `format_type` writes it."""

    types: dict[tuple[str, str], str] = field(default_factory=dict)
    tables: set[str] = field(default_factory=set)
    columns: dict[tuple[str, str], FreshColumn] = field(default_factory=dict)
    # Tables with a trigger that was made here: a change of their rows may do more than it says.
    fired: set[str] = field(default_factory=set)
    # The same for every table: a function was replaced, or a cascade was made.
    has_code: bool = False

    def forget(self, table: str) -> None:
        """The name means something else now, or nothing."""
        self.tables.discard(table)
        self.columns = {key: column for key, column in self.columns.items() if key[0] != table}
        self.types = {key: kind for key, kind in self.types.items() if key[0] != table}


def name_of(table: exp.Expression) -> str:
    """The name of a table as PostgreSQL folds it: lower case unless quoted, with its schema when that is written."""
    parts = [part for part in (table.args.get("catalog"), table.args.get("db"), table.args.get("this")) if part]
    return ".".join(folded(part) for part in parts)


def folded(identifier: exp.Expression) -> str:
    """One name; a quoted one keeps its case, and dots in it can't be taken for a schema."""
    name = identifier.name
    if not identifier.args.get("quoted"):
        return name.lower()
    return name if re.fullmatch(r"[a-z_][a-z0-9_]*", name) else f'"{name}"'


def widens(before: str, after: str) -> bool:
    """Whether every value of the one type is the same value of the other."""
    old, new = _parsed(before), _parsed(after)
    if old is None or new is None:
        return False
    if old == new:
        return True
    if old[0] in _INTEGERS and new[0] in _INTEGERS:
        return _INTEGERS.index(old[0]) <= _INTEGERS.index(new[0])
    if old[0] == "character varying":
        if new[0] == "text":
            return True
        return new[0] == old[0] and (new[1] is None or (old[1] is not None and new[1] >= old[1]))
    if old[0] == new[0] == "numeric":
        return _numeric_widens(old, new)
    return (old[0], new[0]) == ("real", "double precision")


_Parsed = tuple[str, int | None, int | None]


def _numeric_widens(old: _Parsed, new: _Parsed) -> bool:
    if new[1] is None:
        return True
    if old[1] is None:
        return False
    old_scale, new_scale = old[2] or 0, new[2] or 0
    return new_scale >= old_scale and new[1] - new_scale >= old[1] - old_scale


def _parsed(text: str) -> _Parsed | None:
    match = _TYPE.fullmatch(" ".join(text.lower().split()))
    if match is None:
        return None
    base = _SAME.get(match["base"], match["base"]) + match["rest"]
    first, second = match["first"], match["second"]
    return _SAME.get(base, base), int(first) if first else None, int(second) if second else None
