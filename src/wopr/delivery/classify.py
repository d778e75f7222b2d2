"""What the SQL of a migration does: adds only, changes, or destroys, with the reason for each statement.

The rule is an allowlist. A statement is called harmless only when PostgreSQL's own way of cutting text into tokens
(`classify_lexer`) and sqlglot's parser agree on what it is and every part of it is known; everything else (what can't
be parsed, code blocks, functions of unknown effect) counts as destroying. Being wrong in that direction costs the
operator a word; in the other it costs the data, as migration 0031 of the earlier platform nearly did.
"""

import itertools
import logging
import re
from collections.abc import Mapping, Sequence

import sqlglot
from sqlglot import exp
from sqlglot.errors import SqlglotError

from wopr.delivery.classify_alter import judge_action
from wopr.delivery.classify_lexer import Statement, Unreadable, statements
from wopr.delivery.classify_schema import Known, folded, name_of
from wopr.delivery.classify_verdict import Finding, Kind, Verdict, adds, changes, destroys, worst

__all__ = ["Classifier", "Finding", "Kind", "classify"]

BOOKKEEPING = "alembic_version"
STATEMENT_SHOWN_CHARACTERS_MAX = 400

# Functions of PostgreSQL that sqlglot has no class for and that change nothing.
PURE_FUNCTIONS = frozenset(
    """
    gen_random_uuid uuidv7 clock_timestamp statement_timestamp transaction_timestamp timezone make_interval date_part
    to_jsonb row_to_json jsonb_set jsonb_build_object jsonb_build_array jsonb_typeof jsonb_array_length random
    jsonb_strip_nulls jsonb_path_exists array_length array_position array_remove cardinality num_nonnulls num_nulls
    decode convert_to octet_length strpos ascii isfinite random nextval to_tsvector setweight host masklen network
    int4range int8range numrange daterange tsrange tstzrange
    """.split()  # noqa: SIM905 - a list of words is easier to read so
)
SETTINGS_ALLOWED = frozenset({"lock_timeout", "statement_timeout", "idle_in_transaction_session_timeout"})

_NAME = r'(?:[a-z_][\w$]*|"[^"]+")(?:\.(?:[a-z_][\w$]*|"[^"]+"))?'
# Statements that sqlglot does not parse, by their skeleton, in full.
_KNOWN_SHAPES: Sequence[tuple[re.Pattern[str], Verdict]] = [
    (
        re.compile(rf"alter type {_NAME} add value (if not exists )?''( (before|after) '')?", re.I),
        adds("a value of a type"),
    ),
    (
        re.compile(rf"alter table (only )?{_NAME} validate constraint {_NAME}", re.I),
        changes("a constraint is checked on the rows that are there"),
    ),
    (
        re.compile(rf"alter table (only )?{_NAME} rename constraint {_NAME} to {_NAME}", re.I),
        changes("the name of a constraint"),
    ),
    (re.compile(rf"alter index (if exists )?{_NAME} rename to {_NAME}", re.I), changes("the name of an index")),
    (re.compile(rf"create extension (if not exists )?{_NAME}", re.I), adds("an extension")),
    (
        re.compile(rf"drop index (concurrently )?(if exists )?{_NAME}( ?, ?{_NAME})*", re.I),
        changes("an index is dropped: nothing is lost, something may get slower"),
    ),
    (re.compile(rf"lock table (only )?{_NAME}( in [a-z ]+ mode)?( nowait)?", re.I), changes("a table is locked")),
    (re.compile(rf"analyze( {_NAME})?", re.I), adds("statistics of the planner")),
    (
        re.compile(rf"alter table (only )?{_NAME} set \( ?((fillfactor|autovacuum_\w+) ?= ?[\w.]+ ?,? ?)+\)", re.I),
        changes("how a table is stored"),
    ),
]
# In these nothing runs now, whatever their body says; the first two words leave PostgreSQL no other reading.
_FUNCTION = re.compile(rf"create (?P<replace>or replace )?(function|procedure) {_NAME} ?\(.*", re.I)
_TRIGGER = re.compile(rf"create (constraint )?trigger [a-z_]\w* .*? on (?P<table>{_NAME}) .*", re.I)
_DROPS_DATA = frozenset({"schema", "type", "database", "extension", "sequence", "domain", "materialized", "foreign"})
# What each first word may be parsed as; anything else means that the two readers disagree.
_HEADS: Mapping[str, tuple[type[exp.Expression], ...]] = {
    "alter": (exp.Alter,),
    "begin": (exp.Transaction,),
    "comment": (exp.Comment,),
    "commit": (exp.Commit,),
    "create": (exp.Create,),
    "drop": (exp.Drop,),
    "grant": (exp.Grant,),
    "insert": (exp.Insert,),
    "select": (exp.Select,),
    "set": (exp.Set,),
    "truncate": (exp.TruncateTable,),
    "update": (exp.Update,),
    "delete": (exp.Delete,),
    "with": (exp.Select, exp.Insert, exp.Update, exp.Delete),
}

# sqlglot warns when it falls back to an unparsed command, which is judged below and needs no line on the terminal.
logging.getLogger("sqlglot").setLevel(logging.ERROR)


def classify(sql: str, types: Mapping[tuple[str, str], str] | None = None) -> list[Finding]:
    """Every statement of `sql` with its verdict. `types`: (table, column) → present type, where it is known."""
    return Classifier(types).classify(sql)


class Classifier:
    """Reads migrations in their order and remembers what they made, since that may be dropped again freely."""

    def __init__(self, types: Mapping[tuple[str, str], str] | None = None) -> None:
        self._known = Known(dict(types or {}))

    def classify(self, sql: str) -> list[Finding]:
        """The verdicts on one migration's statements; text that can't be read is one finding that destroys."""
        try:
            cut = statements(sql)
        except Unreadable as error:
            return [_finding(sql, destroys(f"can't be read with certainty: {error}"))]
        return [_finding(statement.text, self._judge(statement)) for statement in cut]

    def _judge(self, statement: Statement) -> Verdict:
        for shape, verdict in _KNOWN_SHAPES:
            if shape.fullmatch(statement.skeleton):
                return verdict
        if code := self._code(statement):
            return code
        head = statement.words[0] if statement.words else ""
        try:
            parsed = [tree for tree in sqlglot.parse(statement.text, read="postgres") if tree is not None]
        except (SqlglotError, RecursionError, ValueError) as error:
            return destroys(f"can't be parsed: {str(error).splitlines()[0][:120]}")
        if len(parsed) != 1 or not isinstance(parsed[0], _HEADS.get(head, ())):
            return destroys(f"{head.upper() or 'this'} … is not a statement whose effect is known")
        tree = parsed[0]
        assert isinstance(tree, exp.Expression)
        return worst([self._judge_tree(tree, statement), _judge_calls(tree), _judge_inside(tree, statement)])

    def _judge_tree(self, tree: exp.Expression, statement: Statement) -> Verdict:
        if isinstance(tree, exp.Create):
            return self._create(tree)
        if isinstance(tree, exp.Alter):
            return self._alter(tree, statement)
        if isinstance(tree, exp.Drop):
            return self._drop(tree, statement)
        if isinstance(tree, exp.Insert):
            return self._insert(tree)
        if isinstance(tree, exp.Update):
            return self._update(tree)
        if isinstance(tree, exp.Delete | exp.TruncateTable):
            return self._empty(tree)
        if isinstance(tree, exp.Set):
            return _set(tree)
        if isinstance(tree, exp.Select) and tree.args.get("into"):
            return destroys("SELECT INTO is not known here: write CREATE TABLE … AS")
        if isinstance(tree, exp.Grant):
            return changes("permissions")
        return adds("nothing is changed")

    def _code(self, statement: Statement) -> Verdict | None:
        """The verdict on a function or trigger, whose body is not read; what it may do later is remembered."""
        if match := _FUNCTION.fullmatch(statement.skeleton):
            self._known.has_code |= bool(match["replace"])  # triggers that were there may call it
            return changes("code of the database (a function)")
        if match := _TRIGGER.fullmatch(statement.skeleton):
            self._known.fired.add(match["table"])
            self._known.has_code |= '"' in statement.skeleton
            return changes("code of the database (a trigger)")
        return None

    def _create(self, tree: exp.Create) -> Verdict:
        kind = str(tree.args.get("kind")).upper()
        target = tree.this.this if isinstance(tree.this, exp.Schema) else tree.this
        if tree.args.get("replace") and kind != "VIEW":
            return destroys(f"CREATE OR REPLACE {kind}")
        if kind == "TABLE":
            if not isinstance(target, exp.Table):
                return destroys("CREATE TABLE of a shape that is not known")
            if tree.find(exp.TemporaryProperty):
                return destroys("a temporary table hides another one of its name")
            name = name_of(target)
            if not tree.args.get("exists"):
                self._known.tables.add(name)
            return adds(f"table {name}")
        if kind == "INDEX":
            table = tree.this.args.get("table")
            fresh = table is not None and name_of(table) in self._known.tables
            if tree.args.get("unique") and not fresh:
                return changes("a unique index: rows that are equal in it are refused from now on")
            return adds("an index")
        if kind == "VIEW":
            return changes("a view is replaced") if tree.args.get("replace") else adds("a view")
        if kind in ("SEQUENCE", "SCHEMA", "TYPE"):
            return adds(f"a {kind.lower()}")
        return destroys(f"CREATE {kind} is not known here")

    def _alter(self, tree: exp.Alter, statement: Statement) -> Verdict:
        actions = tree.args.get("actions") or []
        if str(tree.args.get("kind")).upper() != "TABLE" or not isinstance(tree.this, exp.Table):
            return destroys(f"ALTER {tree.args.get('kind')} is not known here")
        if not actions or len(actions) != statement.commas + 1:
            return destroys("ALTER TABLE whose actions can't be told apart")
        table = name_of(tree.this)
        if table not in self._known.tables and ("on delete" in statement.skeleton or "on update" in statement.skeleton):
            self._known.has_code = True
        removals = sum(isinstance(action, exp.Drop) or bool(action.args.get("drop")) for action in actions)
        if statement.words.count("drop") != removals:
            return destroys("ALTER TABLE with a DROP that is not understood")
        return worst([judge_action(action, table, self._known) for action in actions])

    def _drop(self, tree: exp.Drop, statement: Statement) -> Verdict:
        kind = statement.words[1] if len(statement.words) > 1 else ""
        if "cascade" in statement.words:
            return destroys(f"DROP {kind.upper()} … CASCADE drops whatever depends on it")
        if kind == "table":
            names = [name_of(table) for table in tree.args.get("tables") or []]
            if names and len(names) == statement.commas + 1 and all(name in self._known.tables for name in names):
                for name in names:
                    self._known.forget(name)
                return changes(f"{_listed('table', names)} is dropped, which these migrations made")
            return destroys(f"{_listed('table', names)} is dropped with every row")
        if kind in _DROPS_DATA:
            return destroys(f"DROP {kind.upper()}: what it holds is gone")
        if kind in ("view", "function", "procedure", "trigger", "policy", "rule"):
            return changes(f"a {kind} is dropped that the running release may use", breaks=True)
        return destroys(f"DROP {kind.upper()} is not known here")

    def _insert(self, tree: exp.Insert) -> Verdict:
        target = tree.this.this if isinstance(tree.this, exp.Schema) else tree.this
        table = name_of(target) if isinstance(target, exp.Table) else "?"
        if table == BOOKKEEPING:
            return adds("the revision at which the database stands")
        if self._may_fire(table):
            return destroys(f"INSERT INTO {table} may fire code that these migrations make and that is not read")
        conflict = tree.args.get("conflict")
        if conflict is not None and (conflict.args.get("expressions") or "UPDATE" in str(conflict.args.get("action"))):
            return destroys("INSERT … ON CONFLICT DO UPDATE rewrites rows that are there")
        return adds("rows")

    def _update(self, tree: exp.Update) -> Verdict:
        table = name_of(tree.this) if isinstance(tree.this, exp.Table) else "?"
        if table == BOOKKEEPING:
            return adds("the revision at which the database stands")
        if self._may_fire(table):
            return destroys(f"UPDATE {table} may fire code that these migrations make and that is not read")
        if table in self._known.tables:
            return changes(f"rows of {table}, which is new")
        targets = [_assigned(item) for item in tree.expressions]
        if targets and all(name is not None and (table, name) in self._known.columns for name in targets):
            return changes(f"a new column of {table} is filled")
        return destroys(f"UPDATE overwrites what is in {table}")

    def _empty(self, tree: exp.Expression) -> Verdict:
        verb = "DELETE FROM" if isinstance(tree, exp.Delete) else "TRUNCATE"
        tables = [tree.this] if isinstance(tree, exp.Delete) else tree.expressions
        names = [name_of(table) for table in tables if isinstance(table, exp.Table)]
        others = any(map(self._may_fire, names)) or tree.args.get("option") or len(names) != len(tables)
        if names and not others and all(name in self._known.tables for name in names):
            return changes(f"{verb} {', '.join(names)}, which these migrations made")
        return destroys(f"{verb} {', '.join(names) or '?'} removes rows")

    def _may_fire(self, table: str) -> bool:
        known = self._known
        return known.has_code or table in known.fired or table.rpartition(".")[2] in known.fired


def _judge_calls(tree: exp.Expression) -> Verdict:
    for call in tree.find_all(exp.Anonymous):
        name = str(call.this).lower()
        if name not in PURE_FUNCTIONS or isinstance(call.parent, exp.Dot):
            return destroys(f"the function {name} is called, whose effect is not known")
    return adds("")


def _judge_inside(tree: exp.Expression, statement: Statement) -> Verdict:
    """What may hide inside a statement that looks harmless: changes of data in WITH, and commands left unparsed."""
    inner = (exp.Delete, exp.Update, exp.Insert, exp.Merge, exp.Command, exp.TruncateTable, exp.Copy)
    hidden = [node for node in tree.find_all(*inner) if node is not tree]
    if hidden:
        return destroys(f"{type(hidden[0]).__name__.upper()} inside another statement")
    words = statement.words
    loose = {"merge", "execute"} if isinstance(tree, exp.Drop | exp.Alter) else {"merge", "execute", "drop"}
    if not isinstance(tree, exp.TruncateTable):
        loose.add("truncate")
    if loose.intersection(words):
        return destroys(f"contains the word {min(loose.intersection(words)).upper()}")
    for before, word in itertools.pairwise(words):
        if word in ("delete", "update") and before not in ("on", "for", "do", "grant"):
            return destroys(f"contains {word.upper()} inside another statement")
    return adds("")


def _assigned(item: exp.Expression) -> str | None:
    target = item.this if isinstance(item, exp.EQ) else None
    return folded(target.this) if isinstance(target, exp.Column) else None


def _set(tree: exp.Set) -> Verdict:
    names = [item.this.this.name.lower() for item in tree.expressions if isinstance(item.this, exp.EQ)]
    if len(names) == len(tree.expressions) and set(names) <= SETTINGS_ALLOWED:
        return adds("a limit of this session")
    return destroys("SET of something that may change what other statements mean")


def _listed(noun: str, names: Sequence[str]) -> str:
    return f"{noun} {', '.join(names) or '?'}"


def _finding(statement: str, verdict: Verdict) -> Finding:
    shown = " ".join(statement.split())
    if len(shown) > STATEMENT_SHOWN_CHARACTERS_MAX:
        shown = shown[:STATEMENT_SHOWN_CHARACTERS_MAX] + " …"
    return Finding(shown, verdict.kind, verdict.reason, verdict.breaks)
