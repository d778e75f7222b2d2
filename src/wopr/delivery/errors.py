"""What can stop a release, by who must act: a check refused it, or the host did not do what it was told."""

import re

from wopr.core.errors import Conflict, UpstreamFailed

# What the docker command says when nothing answers, from 20.10 to 29.
ENGINE_AWAY = ("cannot connect to the docker daemon", "error during connect", "failed to connect to the docker api")
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
        """Whether the disk is full."""
        return NO_ROOM.search(self.message) is not None

    @property
    def says_nothing(self) -> bool:
        """Whether no release is at fault for it: it is not judged by this, and may be tried again."""
        return self.no_room


class HostAway(HostFailed):
    """The machine, or the engine on it, does not answer, or not to the end."""

    @property
    def says_nothing(self) -> bool:
        return True


def refuse_away(complaint: str, machine: str) -> None:
    """HostAway when the docker command failed because its engine does not answer, as while that restarts."""
    if any(words in complaint.lower() for words in ENGINE_AWAY):
        raise HostAway(f"Docker on {machine} does not answer: {complaint}", remedy="docker info")
