"""The page `/docs`: the OpenAPI document as plain HTML, whole, for people.

Written on the server, since FastAPI's own page loads its scripts and styles from another company's machines: this one
asks nobody for anything, runs no script, and its policy forbids both.
"""

import base64
import hashlib
import json
import re
from collections.abc import Iterator, Mapping
from html import escape
from typing import Any

METHODS = ("get", "post", "put", "patch", "delete")
REF = "#/components/schemas/"
LIMITS = {
    "minLength": "at least {} characters",
    "maxLength": "at most {} characters",
    "minimum": "at least {}",
    "maximum": "at most {}",
    "pattern": "pattern {}",
    "default": "default {}",
}
STYLE = """
:root { color-scheme: light dark; font: 1rem/1.5 system-ui, sans-serif; }
body { max-width: 60rem; margin: 0 auto; padding: 1rem; overflow-wrap: break-word; }
details, article { border: 1px solid; border-radius: .4rem; padding: .4rem .8rem; margin: .4rem 0; overflow-x: auto; }
table { border-collapse: collapse; width: 100%; }
th, td { text-align: left; vertical-align: top; padding: .2rem .8rem .2rem 0; }
code { font-family: ui-monospace, monospace; }
"""
STYLE_HASH = base64.b64encode(hashlib.sha256(STYLE.encode()).digest()).decode()
HEADERS = {
    "content-security-policy": f"default-src 'none'; style-src 'sha256-{STYLE_HASH}'; base-uri 'none'; "
    "form-action 'none'; frame-ancestors 'none'"
}
ERRORS = (
    '<p>Errors are <code>{"error": {"code", "message", "remedy"}}</code>. Requests carry '
    "<code>Authorization: Bearer wopr_…</code> or the cookie of a signed-in browser.</p>"
)

Document = Mapping[str, Any]  # as loose as JSON


def render(document: Document) -> str:
    """The page of an OpenAPI document."""
    title = escape(f"{document['info']['title']} API {document['info']['version']}")
    groups = _groups(document)
    schemas = document.get("components", {}).get("schemas", {})
    parts = [
        f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>{title}</title>',
        f'<meta name="viewport" content="width=device-width"><style>{STYLE}</style></head><body><h1>{title}</h1>',
        f'<p>{escape(document["info"].get("description", ""))} For programs: <a href="/openapi.json">openapi.json</a>.',
        f"</p>{ERRORS}<nav>{' · '.join(_link(f'tag-{tag}', tag) for tag in [*groups, 'bodies'])}</nav><main>",
    ]
    for tag, operations in groups.items():
        parts.append(f'<h2 id="tag-{escape(tag)}">{escape(tag)}</h2>')
        parts += [_operation(path, method, operation) for path, method, operation in operations]
    parts.append('<h2 id="tag-bodies">bodies</h2>')
    parts += [_schema(name, schema) for name, schema in sorted(schemas.items())]
    return "".join([*parts, "</main></body></html>"])


def _groups(document: Document) -> dict[str, list[tuple[str, str, Document]]]:
    groups: dict[str, list[tuple[str, str, Document]]] = {}
    for path, methods in document["paths"].items():
        for method in METHODS:
            if operation := methods.get(method):
                groups.setdefault((operation.get("tags") or ["others"])[0], []).append((path, method, operation))
    return groups


def _operation(path: str, method: str, operation: Document) -> str:
    name = escape(operation["operationId"])
    first, _, rest = operation.get("description", "").partition("\n")
    given = operation.get("parameters", ())
    rows = [(each["name"], each["in"], each["schema"], each.get("required", False)) for each in given]
    return (
        f'<details id="{name}"><summary><code>{method.upper()} {escape(path)}</code> {_words(first)}'
        f"</summary><p>{_words(rest)}</p><p>Operation <code>{name}</code>.</p>"
        f"{_table(rows)}{''.join(_contents(operation))}</details>"
    )


def _contents(operation: Document) -> Iterator[str]:
    for kind, content in operation.get("requestBody", {}).get("content", {}).items():
        yield f"<p>Takes {escape(kind)}: {_type(content.get('schema', {}))}</p>"
    for status, answer in operation["responses"].items():
        content = answer.get("content", {}).items()
        bodies = [f"{escape(kind)}: {_type(body.get('schema', {}))}" for kind, body in content]
        yield f"<p>Answers <b>{escape(status)}</b> {', or '.join(bodies) or escape(answer['description'])}</p>"


def _schema(name: str, schema: Document) -> str:
    required = set(schema.get("required", ()))
    rows = [(field, "", about, field in required) for field, about in schema.get("properties", {}).items()]
    words = _words(schema.get("description", ""))
    body = _table(rows) or f"<p>{_type(schema)}</p>"
    return f'<article id="schema-{escape(name)}"><h3>{escape(name)}</h3><p>{words}</p>{body}</article>'


def _table(rows: list[tuple[str, str, Document, bool]]) -> str:
    if not rows:
        return ""
    lines = [
        f"<tr><td><code>{escape(name)}</code> {escape(where)}</td><td>{_type(schema)}</td>"
        f"<td>{'required' if required else ''} {_words(schema.get('description', ''))}</td></tr>"
        for name, where, schema, required in rows
    ]
    head = "<thead><tr><th>Name</th><th>Type</th><th>About</th></tr></thead>"
    return f"<table>{head}<tbody>{''.join(lines)}</tbody></table>"


def _type(schema: Document) -> str:
    """What a value is, in words; named bodies are links to where they are told."""
    if "$ref" in schema:
        name = str(schema["$ref"]).removeprefix(REF)
        return _link(f"schema-{name}", name)
    for choice in ("anyOf", "oneOf", "allOf"):
        if choice in schema:
            words = " or ".join(_type(each) for each in schema[choice])
            return words + _limits(schema)
    if "enum" in schema or "const" in schema:
        values = schema.get("enum", [schema.get("const")])
        return " or ".join(f"<code>{escape(json.dumps(value))}</code>" for value in values) + _limits(schema)
    if schema.get("type") == "array":
        return f"list of {_type(schema.get('items', {}))}"
    return escape(str(schema.get("format") or schema.get("type") or "anything")) + _limits(schema)


def _limits(schema: Document) -> str:
    said = [words.format(schema[name]) for name, words in LIMITS.items() if schema.get(name) is not None]
    return f" ({escape('; '.join(said))})" if said else ""


def _words(text: str) -> str:
    """A description as it is written in the code: what stands in backticks is code."""
    return re.sub(r"`([^`]+)`", r"<code>\1</code>", escape(text))


def _link(anchor: str, words: str) -> str:
    return f'<a href="#{escape(anchor)}">{escape(words)}</a>'
