"""How a server of ours is told to end: SIGTERM and SIGHUP stop it, and so does Ctrl-C, in the same good order.

The difference is told afterwards: Ctrl-C goes on as KeyboardInterrupt, out of which the command line makes its exit
code 130; the others end with 0.
"""

import asyncio
import signal
from collections.abc import Callable, Sequence


def ending_signals() -> Sequence[signal.Signals]:
    """What ends a server. Who started it with `nohup` does not want it to end with the terminal."""
    hangs_up = signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN
    return (signal.SIGINT, signal.SIGTERM, *((signal.SIGHUP,) if hangs_up else ()))


class Stop(asyncio.Event):
    """Set by the first signal that ends this process, which the running loop handles from now on."""

    def __init__(self, at_once: Callable[[], object] | None = None) -> None:
        super().__init__()
        self._interrupted = False
        self._at_once = at_once
        for number in ending_signals():
            asyncio.get_running_loop().add_signal_handler(number, self._told, number)

    def pass_on(self) -> None:
        """To be called when everything has ended: KeyboardInterrupt when it was Ctrl-C."""
        if self._interrupted:
            raise KeyboardInterrupt

    def _told(self, number: signal.Signals) -> None:
        self._interrupted = self._interrupted or number == signal.SIGINT
        self.set()
        if self._at_once is not None:
            self._at_once()
