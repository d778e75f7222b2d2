"""Results of forms, shown where they happened: a redirect carries a code, and this table knows its words.

Only codes travel in the address, never words, so that nobody can make a page of ours say something by a link.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Result:
    """A banner: the part of the page where it stands, its tone (good, warn, bad) and its words."""

    place: str
    tone: str
    title: str
    text: str = ""


RESULTS = {
    "signed-out": Result("page", "good", "You are signed out."),
    "signed-out-everywhere": Result("page", "good", "You are signed out everywhere.", "Sign in again to go on."),
    "verified": Result("page", "good", "Your address is confirmed.", "Welcome aboard."),
    "password-reset": Result(
        "page", "good", "Your new password is set.", "All sessions were ended; sign in with it now."
    ),
    "resent": Result(
        "page", "good", "A new link is on its way.", "If the address is waiting to be confirmed, check its inbox."
    ),
    "bot-created": Result("page", "good", "Your bot is made.", "It answers within a few seconds. Say hello."),
    "bot-deleted": Result("page", "good", "The bot and its memory are deleted.", "It no longer costs anything."),
    "bot-saved": Result(
        "settings", "good", "Saved.", "The bot restarts with the new settings by itself if they need it."
    ),
    "bot-started": Result("life", "good", "The bot is being started."),
    "bot-stopped": Result("life", "good", "The bot is being stopped.", "While it is stopped it costs nothing."),
    "bot-restarted": Result("life", "good", "The bot is being restarted."),
    "conversation-deleted": Result("page", "good", "The conversation is deleted."),
    "key-revoked": Result("keys", "good", "The key is revoked.", "It is refused from the next request on."),
    "name-saved": Result("profile", "good", "Your name is saved."),
    "password-changed": Result("password", "good", "Your password is changed."),
    "session-revoked": Result("sessions", "good", "That browser is signed out."),
    "preferences-saved": Result("preferences", "good", "Your preferences are saved in this browser."),
    "payment-arrived": Result("page", "good", "Your payment arrived.", "Now give your first bot a name."),
    "payment-cancelled": Result("page", "warn", "No payment was made.", "Nothing was charged."),
    "credit-granted": Result("tenants", "good", "The credit is granted.", "It stands in the tenant's transactions."),
    "tenant-suspended": Result("tenants", "good", "The tenant is suspended.", "Keys are refused and bots are stopped."),
    "tenant-reinstated": Result("tenants", "good", "The tenant may go on."),
    "event-retried": Result("inbox", "good", "The event is applied again.", "Its state below is the result."),
    "node-registered": Result("nodes", "good", "The node is registered.", "The watchdog looks at it within seconds."),
    "node-serving": Result("nodes", "good", "The node gets requests again.", "As soon as its services are well."),
    "node-cordoned": Result("nodes", "good", "The node gets no new requests.", "What runs there may end."),
    "node-drained": Result("nodes", "good", "The node is being emptied.", "Its state says when nothing runs there."),
    "node-repair": Result("nodes", "good", "The repair begins within seconds.", "Its state says what is being done."),
    "nodes-ordered": Result(
        "nodes", "good", "The machines are ordered.", "They become nodes by themselves; their stages are below."
    ),
    "node-given-back": Result("nodes", "good", "The node is being given back.", "Its costs end with its machine."),
    "node-retried": Result("nodes", "good", "The node is made again.", "Its machine before is given back first."),
    "node-rebooted": Result("nodes", "good", "The machine restarts.", "Its services come back by themselves."),
    "node-removed": Result("nodes", "good", "The node is out of routing and forgotten."),
}


def result_of(code: str | None) -> Result | None:
    """The banner for a code in the address; None for one we don't know."""
    return RESULTS.get(code or "")
