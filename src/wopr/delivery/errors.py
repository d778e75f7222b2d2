"""What can stop a release, by who must act: a check refused it, or the host did not do what it was told."""

from wopr.core.errors import Conflict, UpstreamFailed


class Refused(Conflict):
    """A check said no; nothing was changed. The remedy names what would override it."""

    default_code = "refused"


class Locked(Refused):
    """Somebody else changes this installation now, or took over from us."""

    default_code = "locked"


class HostFailed(UpstreamFailed):
    """A command on the host did not succeed, or the host could not be reached."""

    default_code = "host_failed"
