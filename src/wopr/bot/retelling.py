"""One answer out of several attempts: what was shown stays, and what comes again is not shown again.

When an answer breaks off it is asked for anew. Models at temperature 0, the handbook among them, then say the same, so
the beginning that listeners have is skipped and they notice nothing. A new answer that differs replaces the old one:
listeners are told to clear what they show.
"""

from collections.abc import Callable


class Retelling:
    """`add` shows more of the answer, `clear` takes all of it back."""

    def __init__(self, add: Callable[[str], None], clear: Callable[[], None]) -> None:
        self._add = add
        self._clear = clear
        self._shown: list[str] = []
        self._before = ""  # shown by earlier attempts
        self._same = 0  # characters of it that this attempt has said, too

    @property
    def text(self) -> str:
        """What is shown: never less than a listener has."""
        return "".join(self._shown)

    def begin(self) -> None:
        """A new attempt, which says the answer from its beginning."""
        self._before, self._same = self.text, 0

    def hear(self, text: str) -> None:
        """The next piece of this attempt."""
        expected = self._before[self._same : self._same + len(text)]
        if text.startswith(expected):
            self._same += len(expected)
            self._show(text[len(expected) :])
        else:
            self._replace(text)

    def end(self) -> None:
        """The attempt is the whole answer; it may be shorter than what is shown."""
        if self._same < len(self._before):
            self._replace("")

    def _replace(self, text: str) -> None:
        said = self._before[: self._same] + text
        self._before, self._same = "", 0
        self._shown.clear()
        self._clear()
        self._show(said)

    def _show(self, text: str) -> None:
        if text:
            self._shown.append(text)
            self._add(text)
