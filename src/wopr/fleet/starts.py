"""Which bots may start now. Each that is starting and has not answered yet holds a place, and there are only so many.

After a restart of the engine or of the machine every bot is down. Did all come up at once, none would answer in its
time: each would be ended as one that hangs and tried again, and so on. So the others wait for their turn: first those
that somebody asks for, then the rest in the order in which they came. A bot that never answers has its place until its
time is over, then is behind everybody who waits by then. Nothing is done here and nothing is awaited.
"""

from collections import OrderedDict
from collections.abc import Collection, Iterable, Iterator
from uuid import UUID

# However many are asked for: of four places that become free, one goes to those that nobody asks for.
HURRIED_IN_A_ROW_MAX = 3


class Starts:
    """The places of one reconciler. What lives was started by somebody and counts, whether a place was free or not."""

    def __init__(self, places: int) -> None:
        self._places = places
        self._holders: set[UUID] = set()
        # Ordered sets. A plain dictionary walks over what was taken from its front whenever its first is asked for.
        self._hurried: OrderedDict[UUID, None] = OrderedDict()
        self._others: OrderedDict[UUID, None] = OrderedDict()
        self._in_a_row = 0

    def take(self, bot_id: UUID, *, hurry: bool = False) -> bool:
        """Whether the bot has a place now, so that it may start; if not, it waits for its turn."""
        if bot_id in self._holders:
            return True
        if self._has_room() and (hurry or self._first((bot_id,)) is None):
            self.occupy(bot_id)
            return True
        self.ask(bot_id, hurry=hurry)
        return False

    def ask(self, bot_id: UUID, *, hurry: bool = False) -> None:
        """Wait for a turn. Who waits already keeps it, or gets an earlier one."""
        if bot_id in self._holders or bot_id in self._hurried:
            return
        if hurry:
            self._others.pop(bot_id, None)
            self._hurried[bot_id] = None
        else:
            self._others.setdefault(bot_id)

    def occupy(self, bot_id: UUID) -> None:
        """The bot is starting, as seen."""
        self._forget(bot_id)
        self._holders.add(bot_id)

    def release(self, bot_id: UUID) -> None:
        """The bot answered, ended, or had its time."""
        self._holders.discard(bot_id)

    def next(self, busy: Collection[UUID] = ()) -> Iterator[UUID]:
        """Those whose turn it is; each has its place. Who is `busy` goes on waiting: it is being looked at just now."""
        while self._has_room() and (bot_id := self._first(busy)) is not None:
            self._in_a_row = self._in_a_row + 1 if bot_id in self._hurried else 0
            self.occupy(bot_id)
            yield bot_id

    def waiting(self) -> frozenset[UUID]:
        """Everybody who waits."""
        return frozenset((*self._hurried, *self._others))

    def withdraw(self, bot_ids: Iterable[UUID]) -> None:
        """These don't wait any more: they are not to start, or run already."""
        for bot_id in bot_ids:
            self._forget(bot_id)

    def _has_room(self) -> bool:
        return len(self._holders) < self._places

    def _first(self, busy: Collection[UUID]) -> UUID | None:
        hurried = next((bot_id for bot_id in self._hurried if bot_id not in busy), None)
        other = next((bot_id for bot_id in self._others if bot_id not in busy), None)
        if hurried is not None and (other is None or self._in_a_row < HURRIED_IN_A_ROW_MAX):
            return hurried
        return other

    def _forget(self, bot_id: UUID) -> None:
        self._hurried.pop(bot_id, None)
        self._others.pop(bot_id, None)
