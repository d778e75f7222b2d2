"""Every page of the logbook by its file name."""

from collections.abc import Mapping, Sequence

from wopr.ops.entry import Entry
from wopr.ops.logbook.decisions import decisions_page
from wopr.ops.logbook.deployments import deployments_page
from wopr.ops.logbook.incidents import incidents_page
from wopr.ops.logbook.migrations import migrations_page
from wopr.ops.logbook.nodes import gpu_page, node_page, node_stories
from wopr.ops.logbook.operations import operations_page
from wopr.ops.logbook.runbook import runbook_page


def render(entries: Sequence[Entry]) -> Mapping[str, str]:
    """Every page by its path within the logbook's folder."""
    return {
        "RUNBOOK.md": runbook_page(entries),
        "OPERATIONS.md": operations_page(entries),
        "DEPLOYMENTS.md": deployments_page(entries),
        "INCIDENTS.md": incidents_page(entries),
        "MIGRATIONS.md": migrations_page(entries),
        "DECISIONS.md": decisions_page(entries),
        "GPU.md": gpu_page(entries),
        **{story.page: node_page(story) for story in node_stories(entries)},
    }
