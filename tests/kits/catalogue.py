"""What of a schema running code relies on, before and after a step: what an `expand` may not do (docs/upgrade.md)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

# Tables of a row a process, camera, key or the like: an index is made in no time.
SMALL = frozenset(
    {
        "access_state", "api_keys", "browser_sessions", "camera_configurations", "camera_quality", "capture_leases",
        "deleted_cameras", "event_log", "kept_streams", "retention_policy", "retention_tallies", "schema_steps",
        "secret_canaries", "storage_usage", "sweeper_state", "upload_sessions", "worker_calls", "workers", "ws_tickets",
    }
)  # fmt: skip

_COLUMNS = """
SELECT c.relname AS in_table, a.attname AS name, format_type(a.atttypid, a.atttypmod) AS type, a.attnotnull AS required,
       a.atthasdef OR a.attidentity <> '' AS filled, a.attgenerated <> '' AS generated
FROM pg_attribute a JOIN pg_class c ON c.oid = a.attrelid
WHERE c.relnamespace = 'public'::regnamespace AND c.relkind = 'r' AND a.attnum > 0 AND NOT a.attisdropped
  AND c.relname <> 'alembic_version'
"""
_CONSTRAINTS = """
SELECT r.conrelid::regclass::text AS in_table, r.conname AS name, r.contype::text AS kind, r.convalidated AS validated,
       pg_get_constraintdef(r.oid) AS definition,
       ARRAY(SELECT attname::text FROM pg_attribute WHERE attrelid = r.conrelid AND attnum = ANY(r.conkey)) AS columns
FROM pg_constraint r WHERE r.connamespace = 'public'::regnamespace AND r.contype <> 'n' AND r.conrelid <> 0
"""
_INDEXES = """
SELECT i.indrelid::regclass::text AS in_table, c.relname AS name, i.indisunique AS "unique",
       pg_get_indexdef(i.indexrelid) AS definition
FROM pg_index i JOIN pg_class c ON c.oid = i.indexrelid WHERE c.relnamespace = 'public'::regnamespace
"""
_FUNCTIONS = """
SELECT p.oid::regprocedure::text AS name, pg_get_function_result(p.oid) AS result,
       pg_get_function_arguments(p.oid) AS arguments
FROM pg_proc p WHERE p.pronamespace = 'public'::regnamespace
"""


@dataclass(frozen=True, slots=True)
class Catalogue:
    """By name: (table, column), (table, constraint), (table, index); functions by their signature."""

    columns: dict[tuple[str, str], Any]
    constraints: dict[tuple[str, str], Any]
    indexes: dict[tuple[str, str], Any]
    functions: dict[str, Any]

    @property
    def tables(self) -> set[str]:
        return {table for table, _ in self.columns}


async def catalogue(connection: Any) -> Catalogue:
    async def by_name(query: str) -> dict[tuple[str, str], Any]:
        return {(row["in_table"], row["name"]): row for row in await connection.fetch(query)}

    functions = {row["name"]: row for row in await connection.fetch(_FUNCTIONS)}
    return Catalogue(await by_name(_COLUMNS), await by_name(_CONSTRAINTS), await by_name(_INDEXES), functions)


def narrowed(before: Catalogue, after: Catalogue, passes: dict[str, str]) -> list[str]:
    """What code that ran on `before` can stumble over on `after`; `passes`: what a person has judged, by name, and why."""
    gone = [f"table {name} is gone" for name in sorted(before.tables - after.tables)]
    return gone + _columns(before, after, passes) + _rules(before, after, passes) + _functions(before, after)


def _columns(before: Catalogue, after: Catalogue, passes: dict[str, str]) -> list[str]:
    found = []
    for key, old in before.columns.items():
        new, name = after.columns.get(key), ".".join(key)
        if new is None:
            found += [f"column {name} is gone"] if key[0] in after.tables else []
            continue
        if new["type"] != old["type"]:
            found.append(f"column {name} was {old['type']} and is {new['type']}")
        if new["required"] and not old["required"]:
            found.append(f"column {name} must not be null any more")
        if old["filled"] and not new["filled"]:
            found.append(f"column {name} has lost its default")
    for key in after.columns.keys() - before.columns.keys():
        new = after.columns[key]
        if key[0] in before.tables and new["required"] and not (new["filled"] or new["generated"] or key[1] in passes):
            found.append(f"new column {'.'.join(key)} has no default and must not be null")
    return found


def _rules(before: Catalogue, after: Catalogue, passes: dict[str, str]) -> list[str]:
    """Constraints and indexes of tables that were there."""
    found = []
    for key, old in before.constraints.items():  # ON CONFLICT names what is unique; fewer checks hurt nobody
        if old["kind"] in "pux" and key[0] in after.tables and key not in after.constraints:
            found.append(f"constraint {'.'.join(key)} is gone")
    for key, new in after.constraints.items():
        same = before.constraints.get(key)
        if key[0] not in before.tables or (same is not None and same["definition"] == new["definition"]):
            continue
        of_new_columns = not any((key[0], column) in before.columns for column in new["columns"])
        if new["kind"] in "pux" or (new["validated"] and not of_new_columns and key[1] not in passes):
            found.append(f"constraint {'.'.join(key)} is new, and not NOT VALID")
    for key, old in before.indexes.items():
        if old["unique"] and key[0] in after.tables and after.indexes.get(key, {"unique": False})["unique"] is False:
            found.append(f"unique index {'.'.join(key)} is gone")
    for key, new in after.indexes.items():
        if key[0] not in before.tables or (key in before.indexes and before.indexes[key]["definition"] == new["definition"]):
            continue
        if new["unique"]:
            found.append(f"unique index {'.'.join(key)} is new")
        elif key[0] not in SMALL and key[1] not in passes:
            found.append(f"index {'.'.join(key)} is new on a large table, and nothing says how it is made")
    return found


def _functions(before: Catalogue, after: Catalogue) -> list[str]:
    found = []
    for signature, old in before.functions.items():
        new = after.functions.get(signature)
        if new is None:
            found.append(f"function {signature} is gone: keep the old signature for one version")
        elif (new["result"], new["arguments"]) != (old["result"], old["arguments"]):
            found.append(f"function {signature} has other names, defaults or results")
    return found
