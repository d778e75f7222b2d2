"""What can stop a release, by who must act: a check refused it, or the host did not do what it was told."""

import re

from wopr.core.errors import Conflict, UpstreamFailed

NO_ROOM = re.compile(r"no space left|disk quota exceeded|could not extend file", re.IGNORECASE)
ROOM_REMEDY = "Make room, then run it again: df -h, docker system df, docker image prune. What serves goes on."


class Refused(Conflict):
    """A check said no; nothing was changed. The remedy names what would override it."""

    default_code = "refused"


class Locked(Refused):
    """Somebody else changes this installation now, or took over from us."""

    default_code = "locked"


class HostFailed(UpstreamFailed):
    """A command on the host did not succeed, or the host could not be reached."""

    default_code = "host_failed"

    def __init__(self, message: str, *, remedy: str = "") -> None:
        super().__init__(message, remedy=ROOM_REMEDY if NO_ROOM.search(message) else remedy)

    @property
    def no_room(self) -> bool:
        """Whether the disk is full: then no release is at fault."""
        return NO_ROOM.search(self.message) is not None
