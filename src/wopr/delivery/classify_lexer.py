"""SQL cut into statements exactly as PostgreSQL's scanner would, so that nothing hides in a string or a comment.

A parser that is meant for twenty dialects is lenient where PostgreSQL is not, and the other way round. What decides
about data therefore first passes this scanner, which knows the rules of one server (chapter 4.1 of its manual): nested
comments, `E''` with backslashes, dollar quotes, quoted identifiers. What it can't read it refuses.
"""

import re
from dataclasses import dataclass

STATEMENT_CHARACTERS_MAX = 1_000_000
END, COMMA = ";", ","

_SPACE = re.compile(r"[ \t\n\r\f\v]+")
_LINE_COMMENT = re.compile(r"--[^\n\r]*")
_WORD = re.compile(r"[A-Za-z_][A-Za-z0-9_$]*")
_NUMBER = re.compile(r"[0-9][A-Za-z0-9_.]*")
_DOLLAR = re.compile(r"\$(?:[A-Za-z_][A-Za-z0-9_]*)?\$")
_PLAIN_STRING = re.compile(r"'(?:[^']|'')*'")
_ESCAPE_STRING = re.compile(r"'(?:[^'\\]|''|\\[\s\S])*'")
_IDENTIFIER = re.compile(r'"(?:[^"]|"")+"')
_SYMBOLS = frozenset("()[],.:;=<>+-*/%^~|&!?@#{}")


class Unreadable(ValueError):
    """The text is not SQL that this scanner can vouch for; the message says why."""


@dataclass(frozen=True)
class Statement:
    """One statement without comments. `skeleton` is it in lower case with every string emptied and spaces single."""

    text: str
    skeleton: str
    # Commas outside parentheses: in ALTER TABLE they separate the actions.
    commas: int

    @property
    def words(self) -> tuple[str, ...]:
        """Every unquoted word in lower case, in order."""
        return tuple(_WORD.findall(_IDENTIFIER.sub('""', self.skeleton)))


def statements(sql: str) -> list[Statement]:
    """The statements of `sql` in order, empty ones left out. Unreadable names what can't be vouched for."""
    if len(sql) > STATEMENT_CHARACTERS_MAX:
        raise Unreadable(f"more than {STATEMENT_CHARACTERS_MAX} characters")
    found: list[Statement] = []
    scan = _Scan(sql)
    while scan.position < len(sql):
        if statement := scan.statement():
            found.append(statement)
    return found


class _Scan:
    """A position in the text, moved forward token by token."""

    def __init__(self, sql: str) -> None:
        self.sql = sql
        self.position = 0

    def statement(self) -> Statement | None:
        """Everything up to the next semicolon; None when that is nothing but space and comments."""
        text: list[str] = []
        skeleton: list[str] = []
        depth = commas = 0
        while self.position < len(self.sql):
            piece, plain = self._token()
            if piece == END:
                break
            depth += (piece in ("(", "[")) - (piece in (")", "]"))
            if depth < 0:
                raise Unreadable("a parenthesis is closed that was not opened")
            commas += piece == COMMA and depth == 0
            text.append(piece)
            skeleton.append(plain)
        if depth:
            raise Unreadable("a parenthesis is not closed")
        whole = "".join(text).strip()
        return Statement(whole, " ".join("".join(skeleton).split()), commas) if whole else None

    def _token(self) -> tuple[str, str]:
        """The next token as it stands, and as the skeleton shows it."""
        start, rest = self.position, self.sql[self.position]
        if rest in "'\"" or rest == "$":
            return self._quoted(start, rest)
        if match := (_SPACE.match(self.sql, start) or _LINE_COMMENT.match(self.sql, start)):
            self.position = match.end()
            return " ", " "
        if self.sql.startswith("/*", start):
            self.position = self._end_of_comment(start)
            return " ", " "
        if match := _WORD.match(self.sql, start):
            return self._word(match)
        if match := _NUMBER.match(self.sql, start):
            return self._up_to(match.end())
        if rest in _SYMBOLS:
            return self._up_to(start + 1)
        raise Unreadable(f"the character {rest!r} outside a string")

    def _word(self, match: re.Match[str]) -> tuple[str, str]:
        word, end = match.group().lower(), match.end()
        following = self.sql[end : end + 1]
        if word == "e" and following == "'":
            return self._string(_ESCAPE_STRING, match.start(), end)
        if word in ("n", "b", "x") and following == "'":
            return self._string(_PLAIN_STRING, match.start(), end)
        if word == "u" and following == "&" and self.sql[end + 1 : end + 2] in ("'", '"'):
            raise Unreadable("a string or name with Unicode escapes")
        token, _ = self._up_to(end)
        return token, word

    def _quoted(self, start: int, quote: str) -> tuple[str, str]:
        if quote == "'":
            return self._string(_PLAIN_STRING, start, start)
        if quote == '"':
            match = _IDENTIFIER.match(self.sql, start)
            if match is None or "\0" in match.group():
                raise Unreadable("a quoted name that does not end")
            return self._up_to(match.end())
        match = _DOLLAR.match(self.sql, start)
        if match is None:
            raise Unreadable("a dollar that begins no quotation")
        end = self.sql.find(match.group(), match.end())
        if end < 0:
            raise Unreadable(f"the quotation {match.group()} does not end")
        token, _ = self._up_to(end + len(match.group()))
        return token, "''"

    def _string(self, shape: re.Pattern[str], start: int, quote: int) -> tuple[str, str]:
        match = shape.match(self.sql, quote)
        if match is None or "\0" in match.group():
            raise Unreadable("a string that does not end")
        self.position = match.end()
        return self.sql[start : match.end()], "''"

    def _end_of_comment(self, start: int) -> int:
        depth, position = 0, start
        while True:
            opened, closed = self.sql.find("/*", position), self.sql.find("*/", position)
            if closed < 0:
                raise Unreadable("a comment that does not end")
            if 0 <= opened < closed:
                depth, position = depth + 1, opened + 2
                continue
            depth, position = depth - 1, closed + 2
            if depth == 0:
                return position

    def _up_to(self, end: int) -> tuple[str, str]:
        token = self.sql[self.position : end]
        self.position = end
        return token, token
