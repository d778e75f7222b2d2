"""Every page of the logbook by its file name."""

from collections.abc import Mapping, Sequence

from wopr.ops.entry import Entry
from wopr.ops.logbook.incidents import incidents_page
from wopr.ops.logbook.operations import operations_page


def render(entries: Sequence[Entry]) -> Mapping[str, str]:
    """Every page by its path within the logbook's folder."""
    return {
        "OPERATIONS.md": operations_page(entries),
        "INCIDENTS.md": incidents_page(entries),
    }
