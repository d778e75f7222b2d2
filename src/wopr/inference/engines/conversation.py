"""What a conversation says: the facts that the person told, those that the instructions carry, and what is asked now.

Everything here is pure and knows English only, as the handbook does.
"""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import Enum

SENTENCES_MAX = 60
SENTENCE_CHARACTERS_MAX = 400
PERSONA_SENTENCES_MAX = 2
HEADING = "#"

_SENTENCE = re.compile(r"(?<=[.!?…])\s+|\n+")
_BULLET = re.compile(r"^\s*(?:[-*•]|\d+[.)])\s+")
_SPEAKER = re.compile(
    r"^\s*\[?(user|human|person|they said|assistant|bot|system|you said)\]?\s*(?:\([^)]*\))?\s*:\s*", re.IGNORECASE
)
_OPENERS = r"^(?:(?:and|but|so|ok|okay|well|please|hey|hi|hello),? )*"
_ASKS = re.compile(
    _OPENERS
    + r"(?:what|what's|whats|who|who's|whom|whose|where|where's|when|why|how|how's|which|can|could|do|does|did|"
    r"is|are|am|was|were|will|would|should|shall|may|might|have|has|tell me|explain|describe|show me|give me|list|help|"
    r"i want to know|i would like to know|i wonder|i'd like to know)\b",
    re.IGNORECASE,
)
# Speech arrives without punctuation: a question may begin in the middle of the text.
_INNER_QUESTION = re.compile(
    r"\s+(?=(?:and )?(?:what|where|when|who|how|why|which)\s+"
    r"(?:is|are|am|was|were|do|does|did|can|could|much|many|will|would|should)\b)",
    re.IGNORECASE,
)
# Two questions in one sentence: `What does it cost, and how do I pay?`
_ANOTHER_QUESTION = re.compile(r",?\s+and\s+(?=(?:also\s+)?(?:what|where|when|who|how|why|which)\b)", re.IGNORECASE)
_QUESTION_WORD_LAST = re.compile(r"\b(?:what|where|when|who|how|why|which|if|whether)$", re.IGNORECASE)
# Who or what is meant by these was named in the sentence before.
_POINTS_BACK = re.compile(r"(?:he|she|it|they|his|her|hers|its|their|theirs|him|them)\b", re.IGNORECASE)
_REMEMBER = re.compile(
    _OPENERS
    + r"(?:(?:please )?(?:remember|note|keep in mind|don't forget|do not forget|know)(?: this)?(?: that)?[:,]?\s+)?",
    re.IGNORECASE,
)
# What begins so is an order, a courtesy or a heading, and states nothing.
_ORDERS = re.compile(
    r"^(?:please |always |never |do not |don't |you (?:must|should|always|never|can|may)\b|be |use |keep |speak |"
    r"reply |respond |answer |write |say |repeat |sing |tell |explain |show |give |list |help |make |"
    r"create |translate |summari[sz]e |stop |start |let's |thanks|thank you|i want to know|i would like to|i'd like to|"
    r"i wonder|here is what|here are|what you remember|things you|relevant|earlier messages|the following|"
    r"notes from your memory|they are what was said|use them)",
    re.IGNORECASE,
)
_SWAP_TO_YOU = {
    "i": "you", "me": "you", "my": "your", "mine": "yours", "myself": "yourself", "i'm": "you're", "i've": "you've",
    "i'll": "you'll", "i'd": "you'd", "am": "are", "we": "you", "us": "you", "our": "your", "ours": "yours",
    "we're": "you're", "we've": "you've", "you": "I", "your": "my", "yours": "mine",
}  # fmt: skip
_SWAP_TO_I = {
    "you": "I",
    "your": "my",
    "yours": "mine",
    "yourself": "myself",
    "you're": "I'm",
    "you've": "I've",
    "are": "are",
}
_WORD = re.compile(r"[A-Za-z]+(?:['’][A-Za-z]+)?")


class Source(Enum):
    """Who said a fact."""

    PERSON = "person"
    INSTRUCTIONS = "instructions"


@dataclass(frozen=True)
class Message:
    """One message as text; what is not text has been left out."""

    role: str
    text: str


@dataclass(frozen=True)
class Fact:
    """One statement in the words in which it was made."""

    text: str
    source: Source


@dataclass(frozen=True)
class Asked:
    """The last message of the person, taken apart."""

    text: str
    questions: tuple[str, ...]
    statements: tuple[str, ...]


def asked(messages: Sequence[Message]) -> Asked:
    """What the person says in the last message: questions and statements apart."""
    last = next((m.text for m in reversed(messages) if m.role == "user"), "")
    parts = list(_sentences(last))
    questions = tuple(part for part in parts if is_question(part))
    return Asked(last.strip(), questions, tuple(_statements(last)))


def previous_question(messages: Sequence[Message]) -> str:
    """What the person asked before the last message; empty when nothing."""
    said = [m.text for m in messages if m.role == "user"]
    return next((part for text in reversed(said[:-1]) for part in _sentences(text) if is_question(part)), "")


def facts(messages: Sequence[Message]) -> list[Fact]:
    """Every statement of the person and of the instructions, oldest first, each once; the latest SENTENCES_MAX."""
    found: dict[str, Fact] = {}
    for message in messages:
        for fact in _facts_of(message):
            # Said again: it moves to the end, where the newest are.
            found.pop(fact.text.lower(), None)
            found[fact.text.lower()] = fact
    return list(found.values())[-SENTENCES_MAX:]


def persona_name(messages: Sequence[Message]) -> str:
    """The name that the instructions give (`You are Luna, …`); empty when they give none."""
    for message in messages:
        if message.role in ("system", "developer"):
            match = re.search(
                r"\b(?:[Yy]ou are|[Yy]our name is|[Yy]ou're called|named)\s+([A-Z][\w-]{1,30})\b", message.text
            )
            if match and match.group(1) not in ("A", "An", "The", "WOPR"):
                return match.group(1)
    return ""


def persona_line(messages: Sequence[Message]) -> str:
    """How the instructions describe the bot, in the first person: `I am Luna. I am a tutor.`; empty without any."""
    described = [
        _sentence_case(re.sub(r"\bI are\b", "I am", _swap(sentence, _SWAP_TO_I)))
        for message in messages
        if message.role in ("system", "developer")
        for sentence in _sentences(message.text)
        if re.match(r"you(?: are|'re)\b", sentence, re.IGNORECASE)
    ]
    return " ".join(f"{line.rstrip('.')}." for line in described[:PERSONA_SENTENCES_MAX])


def is_question(sentence: str) -> bool:
    """Whether a sentence asks for an answer; spoken ones have no question mark."""
    return sentence.rstrip().endswith("?") or _ASKS.match(sentence) is not None


def halves_of(question: str) -> tuple[str, ...]:
    """The questions that one sentence joins by `and`; the sentence alone when it asks one thing."""
    found = [question]
    for match in _ANOTHER_QUESTION.finditer(question):
        # `when and how do I pay` asks one thing.
        if is_question(question[: match.start()]) and not _QUESTION_WORD_LAST.search(question[: match.start()]):
            found = [question[: match.start()], question[match.end() :]]
            break
    return tuple(found)


def to_second_person(statement: str) -> str:
    """The same statement said to the person who made it: `my name is Ada` → `your name is Ada`."""
    swapped = _swap(statement, _SWAP_TO_YOU)
    swapped = re.sub(r"\b([Yy]ou) was\b", r"\1 were", swapped)
    return re.sub(r"\bI are\b", "I am", swapped)


def _facts_of(message: Message) -> Iterator[Fact]:
    if message.role == "user":
        for statement in _statements(message.text):
            yield Fact(statement, Source.PERSON)
    elif message.role in ("system", "developer"):
        for line in message.text.splitlines():
            if not line.startswith(HEADING):
                yield from _facts_of_line(_BULLET.sub("", line))


def _facts_of_line(line: str) -> Iterator[Fact]:
    """A line of the instructions; recalled messages are marked with who said them."""
    speaker = _SPEAKER.match(line)
    by_person = speaker is not None and speaker.group(1).lower() in ("user", "human", "person", "they said")
    if speaker is not None and not by_person:
        return
    for statement in _statements(line[speaker.end() :] if speaker else line):
        if by_person or not re.match(r"you\b", statement, re.IGNORECASE):
            first_person = re.match(r"(?:i|my|we|our)\b", statement, re.IGNORECASE) is not None
            yield Fact(statement, Source.PERSON if by_person or first_person else Source.INSTRUCTIONS)


def _statements(text: str) -> Iterator[str]:
    """The facts of a text, each with the sentences after it that say more about the same: `My sister … Her …`."""
    whole = ""
    for sentence in _sentences(text):
        statement = _statement(sentence)
        if statement and whole and _POINTS_BACK.match(statement) and len(whole) < SENTENCE_CHARACTERS_MAX:
            whole = f"{whole}. {_sentence_case(statement)}"
            continue
        if whole:
            yield whole
        whole = statement or ""
    if whole:
        yield whole


def _statement(sentence: str) -> str | None:
    """The fact in a sentence without its wrapping (`Remember that …`); None when it states none."""
    if is_question(sentence):
        return None
    bare = sentence[_match_end(_REMEMBER, sentence) :].strip().strip('"“”')
    bare = bare.rstrip(" .!…")
    if len(bare.split()) < 3 or bare.endswith(":") or _ORDERS.match(bare):
        return None
    return bare


def _match_end(pattern: re.Pattern[str], text: str) -> int:
    match = pattern.match(text)
    return match.end() if match else 0


def _sentences(text: str) -> Iterator[str]:
    spoken = not re.search(r"[.!?,;:\n]", text)
    parts = _INNER_QUESTION.split(text) if spoken else _SENTENCE.split(text)
    for part in parts:
        stripped = _BULLET.sub("", part).strip()
        if stripped:
            yield stripped[:SENTENCE_CHARACTERS_MAX]


def _swap(text: str, table: dict[str, str]) -> str:
    def other(match: re.Match[str]) -> str:
        word = match.group(0)
        new = table.get(word.lower().replace("’", "'"))
        if new is None:
            return word
        return new[0].upper() + new[1:] if match.start() == 0 and word[0].isupper() else new

    return _WORD.sub(other, text)


def _sentence_case(text: str) -> str:
    return text[:1].upper() + text[1:]
