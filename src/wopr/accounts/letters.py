"""The words of our mails, in plain text and in the same words as simple HTML."""

from dataclasses import dataclass
from html import escape

PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>{title}</title></head>
<body style="margin:0;padding:32px 16px;background:#f5f5f4;color:#1c1917;font:16px/1.55 system-ui,sans-serif">
<div style="max-width:34em;margin:0 auto;padding:32px;background:#fff;border:1px solid #e7e5e4;border-radius:12px">
<p style="margin:0 0 24px;font-weight:700;letter-spacing:.04em">WOPR</p>
{body}
</div></body></html>
"""
BUTTON = (
    '<p style="margin:24px 0"><a href="{url}" style="display:inline-block;padding:12px 20px;border-radius:8px;'
    'background:#1c1917;color:#fff;text-decoration:none;font-weight:600">{label}</a></p>'
    '<p style="font-size:14px;color:#57534e">Or copy this address into your browser:<br>'
    '<a href="{url}" style="color:#57534e;word-break:break-all">{url}</a></p>'
)


@dataclass(frozen=True)
class Letter:
    """A mail without its recipient."""

    subject: str
    text: str
    html: str


@dataclass(frozen=True)
class Action:
    """The one thing to do: a button in HTML, an address on a line of its own in text."""

    label: str
    url: str


def verification(link: str) -> Letter:
    """After sign-up."""
    return letter(
        "Confirm your address for WOPR",
        ["Welcome to WOPR.", "Please confirm that this is your address, and you can create your first bot."],
        Action("Confirm my address", link),
        ["The link works once, within 24 hours. If you did not sign up, ignore this mail: nothing happens then."],
    )


def already_registered(sign_in: str, forgotten: str) -> Letter:
    """A sign-up with the address of an account: told to its owner, not to whoever asked."""
    return letter(
        "Someone tried to sign up with your address",
        [
            "Someone, perhaps you, tried to create a WOPR account with this address. You have one already, so nothing"
            " was changed.",
        ],
        Action("Sign in", sign_in),
        [
            f"Forgotten your password? Choose a new one here: {forgotten}",
            "If this was not you, you need not do anything.",
        ],
    )


def reset(link: str) -> Letter:
    """Forgotten password."""
    return letter(
        "Choose a new password for WOPR",
        ["You asked for a new password.", "It takes effect at once, and signs you out everywhere."],
        Action("Choose a new password", link),
        ["The link works once, within one hour. If you did not ask for it, ignore this mail: your password stays."],
    )


def password_changed(forgotten: str) -> Letter:
    """After any change of the password."""
    return letter(
        "Your WOPR password was changed",
        ["The password of your account was changed just now, and other browsers were signed out."],
        None,
        [
            "If this was you, all is well.",
            f"If it was not, choose a new password at once: {forgotten}",
            "Then look at your API keys and revoke those that you don't know.",
        ],
    )


def letter(subject: str, before: list[str], action: Action | None, after: list[str]) -> Letter:
    """A mail of paragraphs around one thing to do, if there is one."""
    middle = [] if action is None else [f"{action.label}:\n{action.url}"]
    text = "\n\n".join([*before, *middle, *after, "WOPR"]) + "\n"
    button = "" if action is None else BUTTON.format(url=escape(action.url), label=escape(action.label))
    body = _paragraphs(before) + button + _paragraphs(after)
    return Letter(subject, text, PAGE.format(title=escape(subject), body=body))


def _paragraphs(lines: list[str]) -> str:
    return "".join(f'<p style="margin:0 0 12px">{_linked(line)}</p>' for line in lines)


def _linked(line: str) -> str:
    words = (
        f'<a href="{escape(word)}" style="color:#1c1917">{escape(word)}</a>'
        if word.startswith(("https://", "http://"))
        else escape(word)
        for word in line.split(" ")
    )
    return " ".join(words)
