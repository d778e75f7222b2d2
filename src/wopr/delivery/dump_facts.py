"""What a dump must bring back: every table, column, constraint, index, sequence and trigger, and each table's rows.

Both sides are asked by the same script: the source in the very snapshot that pg_dump reads, the restored copy later.
The text of defaults and checks is not compared: PostgreSQL writes some of them differently once they were read again.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from wopr.delivery.dump_source import DATABASE, USER

DIFFERENCES_SHOWN_MAX = 5

# Objects of extensions are left out: the extension brings them itself.
_OURS = """n.nspname <> 'information_schema' AND n.nspname NOT LIKE 'pg\\_%' AND NOT EXISTS (
    SELECT 1 FROM pg_depend e WHERE e.objid = c.oid AND e.classid = 'pg_class'::regclass AND e.deptype = 'e')"""

FACTS_SQL = f"""\
SELECT json_build_array('relation', format('%I.%I', n.nspname, c.relname), c.relkind)
  FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
  WHERE c.relkind IN ('r', 'p', 'v', 'm', 'S') AND {_OURS};
SELECT json_build_array('column', format('%I.%I', n.nspname, c.relname), a.attname,
    format_type(a.atttypid, a.atttypmod), a.attnotnull, a.atthasdef, a.attidentity, a.attgenerated)
  FROM pg_attribute a JOIN pg_class c ON c.oid = a.attrelid JOIN pg_namespace n ON n.oid = c.relnamespace
  WHERE c.relkind IN ('r', 'p', 'v', 'm') AND a.attnum > 0 AND NOT a.attisdropped AND {_OURS};
SELECT json_build_array('constraint', format('%I.%I', n.nspname, c.relname), k.conname, k.contype, k.convalidated,
    ARRAY(SELECT a.attname FROM pg_attribute a WHERE a.attrelid = k.conrelid AND a.attnum = ANY (k.conkey) ORDER BY 1))
  FROM pg_constraint k JOIN pg_class c ON c.oid = k.conrelid JOIN pg_namespace n ON n.oid = c.relnamespace
  WHERE k.contype <> 'n' AND {_OURS};
SELECT json_build_array('index', format('%I.%I', n.nspname, c.relname), i.relname, x.indisunique, x.indisvalid)
  FROM pg_index x JOIN pg_class i ON i.oid = x.indexrelid JOIN pg_class c ON c.oid = x.indrelid
  JOIN pg_namespace n ON n.oid = c.relnamespace WHERE {_OURS};
SELECT json_build_array('trigger', format('%I.%I', n.nspname, c.relname), t.tgname)
  FROM pg_trigger t JOIN pg_class c ON c.oid = t.tgrelid JOIN pg_namespace n ON n.oid = c.relnamespace
  WHERE NOT t.tgisinternal AND {_OURS};
SELECT format('SELECT json_build_array(''rows'', %L, count(*)) FROM %I.%I;',
    format('%I.%I', n.nspname, c.relname), n.nspname, c.relname)
  FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace WHERE c.relkind = 'r' AND {_OURS} \\gexec
"""  # noqa: S608 - constants of ours


@dataclass(frozen=True)
class Facts:
    """What a database consists of, in an order that does not matter."""

    structure: frozenset[tuple[str, ...]]
    rows: dict[str, int]

    @property
    def tables(self) -> int:
        return len(self.rows)

    @property
    def rows_total(self) -> int:
        return sum(self.rows.values())


def dump_script(file: str) -> str:
    """psql's script: one transaction whose snapshot pg_dump shares, and in which the rows are counted afterwards."""
    options = f'--format=custom --compress=1 --no-owner --snapshot="$WOPR_SNAPSHOT" --file={file}'
    return "\n".join(
        (
            "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY;",
            "SELECT pg_export_snapshot() AS snapshot \\gset",
            "\\setenv WOPR_SNAPSHOT :snapshot",
            # The exit code is the last line; pg_dump's own words come before it.
            f"\\set ended `umask 077; pg_dump -U {USER} -d {DATABASE} {options} 2>&1; echo $?`",
            "SELECT json_build_array('ended', :'ended');",
            FACTS_SQL,
            "COMMIT;",
        )
    )


def facts_of(rows: Sequence[Sequence[Any]]) -> Facts:
    """The facts in what the script wrote."""
    structure = frozenset(tuple(str(part) for part in row) for row in rows if row[0] not in ("rows", "ended"))
    return Facts(structure, {str(row[1]): int(row[2]) for row in rows if row[0] == "rows"})


def ending_of(rows: Sequence[Sequence[Any]]) -> str:
    """Why pg_dump failed; empty when it did not."""
    text = next((str(row[1]) for row in rows if row[0] == "ended"), "it was not run")
    said, _, code = text.strip().rpartition("\n")
    return "" if code.strip() == "0" else said.strip().splitlines()[-1] if said.strip() else text


def differences(source: Facts, copy: Facts) -> list[str]:
    """Every way in which the copy is not the source, in words; at most a few."""
    found = [f"{' '.join(fact)} is missing" for fact in sorted(source.structure - copy.structure)]
    found += [f"{' '.join(fact)} is not in the source" for fact in sorted(copy.structure - source.structure)]
    for table in sorted(source.rows.keys() | copy.rows.keys()):
        before, after = source.rows.get(table), copy.rows.get(table)
        if before != after:
            found.append(f"{table} has {before} rows and its copy {after}")
    return found[:DIFFERENCES_SHOWN_MAX]
