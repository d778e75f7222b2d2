"""Programs that tests start end with them, also where a test run is killed and can't end anything itself."""

from collections.abc import Sequence


def mortal(command: Sequence[str]) -> list[str]:
    """The command line of a program that the kernel tells to end when we die.

    It counts for the thread that starts it: a program that shall outlive a thread must be started by the main one.
    """
    return ["setpriv", "--pdeathsig", "TERM", *command]
