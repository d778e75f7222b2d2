"""The proof that the journal and its logbook are what was written, and that no known secret is in them."""

from collections.abc import Sequence
from pathlib import Path

from wopr.ops.entry import Damage, lines_of
from wopr.ops.journal import Journal
from wopr.ops.logbook.history import anchor_damages, foreign_files, history_damages, page_damages, page_files
from wopr.ops.redaction import holds_secret
from wopr.ops.secrets import known_secrets


def damages(journal: Journal, folder: Path | None = None) -> Sequence[Damage]:
    """Everything that is not as it was written: chain, end, commits, their anchors, pages; and each secret that got in.

    `folder` is where the pages are, by default the logbook's own.
    """
    chain = journal.verify()
    return [
        *chain,
        *anchor_damages(journal.home, folder),
        *(history_damages(journal.home) if folder is None else ()),
        *page_damages(journal.home, folder),
        *(foreign_files(journal.home) if folder is None else ()),
        *_leaks(journal, folder),
    ]


def _leaks(journal: Journal, folder: Path | None) -> Sequence[Damage]:
    """A value that became a secret after it was written is found here; what it is, is not said again."""
    secrets = known_secrets(journal.home, journal.more_secrets)
    lines = enumerate(lines_of(journal.home), 1)
    found = [
        Damage(number, "holds a secret of this installation") for number, text in lines if holds_secret(text, secrets)
    ]
    for path in page_files(journal.home, folder):
        if holds_secret(path.read_text(encoding="utf-8", errors="replace"), secrets):
            found.append(Damage(0, f"page {path.name} holds a secret of this installation"))
    return found
