"""Machines that serve models: one page for all of them, and one for each with its own history."""

import hashlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from wopr.ops.entry import Entry
from wopr.ops.logbook.deeds import Deed, deed_section, deeds
from wopr.ops.logbook.observed import NODES, last_seen, sights
from wopr.ops.logbook.text import HEADER, ROWS_MAX, SECTIONS_MAX, facts, newest, plain, span, table, when

FAMILIES = ("nodes", "provision", "node", "gpu")
FOLDER = "nodes"
FILE_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")


@dataclass
class NodeStory:
    """One node: what was last seen of it, and every operation on it."""

    id: str
    row: Mapping[str, Any] = field(default_factory=dict)
    since: str = ""
    deeds: list[Deed] = field(default_factory=list)
    gone: bool = False

    @property
    def page(self) -> str:
        """The path of its page. Ids are names, not paths: an unfit one is replaced, with a hash that keeps it apart."""
        if FILE_NAME.fullmatch(self.id) and self.id == self.id.lower():
            return f"{FOLDER}/{self.id}.md"
        fit = re.sub(r"[^a-z0-9-]+", "-", self.id.lower())[:40].strip("-") or "node"
        return f"{FOLDER}/{fit}-{hashlib.sha256(self.id.encode()).hexdigest()[:8]}.md"

    @property
    def status(self) -> str:
        if self.gone:
            return "gone"
        last = self.deeds[-1] if self.deeds else None
        return str(self.row.get("status") or (f"{last.name} {last.outcome}" if last else "unknown"))


def node_stories(entries: Sequence[Entry]) -> Sequence[NodeStory]:
    """Every node that the journal knows, by id."""
    stories: dict[str, NodeStory] = {}
    present, gone = sights(entries, NODES, "status")
    for each in (*present, *gone):
        stories[each.name] = NodeStory(each.name, each.row, each.since, gone=each in gone)
    for deed in deeds(entries, *FAMILIES):
        name = deed.get("node")
        if name:
            story = stories.setdefault(name, NodeStory(name))
            story.deeds.append(deed)
    for story in stories.values():
        removed = [deed for deed in story.deeds if deed.name == "nodes.remove" and deed.outcome == "done"]
        story.gone = story.gone or (not story.row and bool(removed) and removed[-1] is story.deeds[-1])
    return [stories[name] for name in sorted(stories)]


def node_page(story: NodeStory) -> str:
    """nodes/<id>.md."""
    head = f"# Node {plain(story.id)}\n\n{HEADER}\n"
    rows = [("Status", story.status)]
    rows += [("Since", when(story.since))] if story.since else []
    seen = facts(story.row, ("name", "status", "services"))
    parts = [head + table(("Field", "Value"), rows) + (f"\n{seen}" if seen else "")]
    services = story.row.get("services")
    if isinstance(services, Mapping) and services:
        told = [(name, "ok" if serves else "down") for name, serves in sorted(services.items())]
        parts.append("## Services\n\n" + table(("Service", "State"), told))
    parts += [
        deed_section(f"{when(d.started_at)} {d.name}", d, ("node", "seconds"))
        for d in newest(story.deeds, SECTIONS_MAX)
    ]
    return "\n".join(parts)


def gpu_page(entries: Sequence[Entry]) -> str:
    """GPU.md: every node, what it serves, and what was done to nodes."""
    stories = node_stories(entries)
    at, _ = last_seen(entries, NODES)
    head = f"# WOPR GPU Nodes\n\n{HEADER}\n"
    if not stories:
        return f"{head}No node was recorded yet. `wopr nodes register` adds one.\n"
    seen = f"Last seen {when(at)} UTC.\n" if at else "No node was looked at yet: `wopr status` does.\n"
    rows = [
        (
            f"[{story.id}]({story.page})",
            story.status,
            story.row.get("host") or _said(story, "host"),
            story.row.get("region", ""),
            story.row.get("size", ""),
            _services(story),
            _monthly(story.row.get("monthly_cost_cents")),
        )
        for story in stories
    ]
    headers = ("Node", "Status", "Host", "Region", "Size", "Services", "A month")
    parts = [head + seen, table(headers, rows)]
    known = deeds(entries, *FAMILIES)
    if known:
        told = [
            (when(d.started_at), d.name, d.get("node"), d.outcome, span(d.seconds), d.actor)
            for d in newest(known, ROWS_MAX)
        ]
        history = table(("Time (UTC)", "What", "Node", "Outcome", "Duration", "By"), told)
        parts.append(f"## What was done\n\n{history}")
    return "\n".join(parts)


def _services(story: NodeStory) -> str:
    services = story.row.get("services")
    if not isinstance(services, Mapping):
        return ""
    return ", ".join(f"{name} {'ok' if serves else 'down'}" for name, serves in sorted(services.items()))


def _said(story: NodeStory, name: str) -> str:
    return next((deed.get(name) for deed in reversed(story.deeds) if deed.get(name)), "")


def _monthly(cents: object) -> str:
    return f"${cents / 100:.2f}" if isinstance(cents, int | float) and cents else ""
