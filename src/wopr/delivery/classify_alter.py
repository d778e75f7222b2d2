"""What each action of ALTER TABLE does. Every action that is not listed here counts as destroying."""

from sqlglot import exp

from wopr.delivery.classify_schema import FreshColumn, Known, folded, name_of, widens
from wopr.delivery.classify_verdict import Verdict, adds, changes, destroys


def judge_action(action: exp.Expression, table: str, known: Known) -> Verdict:
    """The verdict on one action on `table`; what it makes is remembered in `known`."""
    if isinstance(action, exp.ColumnDef):
        return _add_column(action, table, known)
    if isinstance(action, exp.AlterColumn):
        return _alter_column(action, table, known)
    if isinstance(action, exp.Drop):
        return _drop(action, table, known)
    if isinstance(action, exp.AddConstraint):
        if table in known.tables:
            return adds("a constraint of a new table")
        return changes(f"a constraint on {table}: what violates it is refused from now on")
    if isinstance(action, exp.RenameColumn):
        return _rename_column(action, table, known)
    if isinstance(action, exp.AlterRename):
        return _rename_table(action, table, known)
    return destroys(f"ALTER TABLE with an action that is not known ({type(action).__name__})")


def _add_column(action: exp.ColumnDef, table: str, known: Known) -> Verdict:
    column = folded(action.this)
    kinds = [constraint.args.get("kind") for constraint in action.args.get("constraints") or []]
    required = any(
        isinstance(kind, exp.PrimaryKeyColumnConstraint)
        or (isinstance(kind, exp.NotNullColumnConstraint) and not kind.args.get("allow_null"))
        for kind in kinds
    )
    computed = (exp.DefaultColumnConstraint, exp.GeneratedAsIdentityColumnConstraint, exp.ComputedColumnConstraint)
    counted = "SERIAL" in str(action.args.get("kind")).upper()
    has_default = counted or any(isinstance(kind, computed) for kind in kinds)
    required = required or counted
    if not action.args.get("exists"):
        known.columns[table, column] = FreshColumn(required, has_default)
    if table in known.tables or not required or has_default:
        return adds(f"column {table}.{column}")
    return changes(
        f"column {table}.{column} is required and has no default: rows that are there, and inserts of the running "
        "release, have no value for it",
        breaks=True,
    )


def _alter_column(action: exp.AlterColumn, table: str, known: Known) -> Verdict:
    column = folded(action.this)
    where = f"{table}.{column}"
    fresh_table, fresh = table in known.tables, known.columns.get((table, column))
    if action.args.get("dtype") is not None:
        return _alter_type(action, table, column, known)
    if action.args.get("allow_null") is False:
        if fresh_table or (fresh is not None and fresh.has_default):
            return adds(f"{where} is new and becomes required")
        return changes(f"{where} becomes required: the running release may insert rows without it", breaks=True)
    if action.args.get("allow_null"):
        return changes(f"{where} may be empty from now on")
    if action.args.get("default") is not None:
        return changes(f"the default of {where}")
    if action.args.get("drop"):
        if fresh_table or (fresh is not None and not fresh.required):
            return changes(f"the default of {where}, which is new")
        return changes(f"{where} loses its default, on which inserts of the running release may rely", breaks=True)
    return destroys(f"ALTER COLUMN {where} with a change that is not known")


def _alter_type(action: exp.AlterColumn, table: str, column: str, known: Known) -> Verdict:
    where, after = f"{table}.{column}", action.args["dtype"].sql("postgres")
    if table in known.tables or (table, column) in known.columns:
        return changes(f"the type of {where}, which is new")
    if action.args.get("using"):
        return destroys(f"the type of {where} changes by an expression, which rewrites every value")
    before = known.types.pop((table, column), None)
    if before is None:
        return destroys(f"the type of {where} becomes {after} and the present one is not known")
    known.types[table, column] = after
    if widens(before, after):
        # PostgreSQL refuses a prepared statement whose result has another type than when it was prepared.
        return changes(
            f"the type of {where} widens from {before} to {after}: statements that the running release has prepared "
            "fail once",
            breaks=True,
        )
    return destroys(f"the type of {where} changes from {before} to {after}, which may lose values")


def _drop(action: exp.Drop, table: str, known: Known) -> Verdict:
    kind, names = str(action.args.get("kind")).upper(), action.args.get("tables") or []
    name = folded(names[0].this) if len(names) == 1 else "?"
    if action.args.get("cascade"):
        return destroys(f"DROP {kind} {table}.{name} CASCADE drops whatever depends on it")
    if kind == "CONSTRAINT":
        return changes(f"the constraint {name} of {table} is dropped: nothing is lost, less is refused")
    if kind == "COLUMN":
        fresh = known.columns.pop((table, name), None)
        if table in known.tables or fresh is not None:
            return changes(f"column {table}.{name} is dropped, which these migrations added")
        return destroys(f"column {table}.{name} is dropped with what is in it")
    return destroys(f"ALTER TABLE {table} drops something that is not known ({kind})")


def _rename_column(action: exp.RenameColumn, table: str, known: Known) -> Verdict:
    before, after = folded(action.this.this), folded(action.args["to"].this)
    fresh = known.columns.pop((table, before), None)
    known.types.pop((table, after), None)
    if moved := known.types.pop((table, before), None):
        known.types[table, after] = moved
    if fresh is not None:
        known.columns[table, after] = fresh
    if fresh is not None or table in known.tables:
        return changes(f"column {table}.{before}, which is new, becomes {after}")
    return changes(f"column {table}.{before} becomes {after}: the running release asks for {before}", breaks=True)


def _rename_table(action: exp.AlterRename, table: str, known: Known) -> Verdict:
    after = name_of(action.this)
    fresh = table in known.tables
    known.forget(table)
    known.forget(after)
    if fresh:
        known.tables.add(after)
        return changes(f"table {table}, which is new, becomes {after}")
    return changes(f"table {table} becomes {after}: the running release asks for {table}", breaks=True)
