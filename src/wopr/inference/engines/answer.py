"""Compose the handbook model's answer: from the handbook, from what the conversation said, or an honest no.

Deterministic: the same conversation gets the same words. It never invents: every sentence is the handbook's, the
person's own, the instructions', or says what the model is.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass

from wopr.inference.engines.conversation import (
    Fact,
    Message,
    Source,
    asked,
    facts,
    halves_of,
    persona_line,
    persona_name,
    previous_question,
    to_second_person,
)
from wopr.inference.engines.pages import Passage
from wopr.inference.engines.search import Searcher, rarity_of

QUESTIONS_MAX = 3
FACTS_TOLD_MAX = 12
# Cosines of MiniLM: above GOOD a text is about the question, between the two it is worth a mention.
GOOD = 0.5
NEAR = 0.42
# A statement this near to a page is a problem that wants help (`I can't log in`), not a fact to note.
COMPLAINT = 0.62
FACT_GOOD = 0.42
# A fact of the conversation is nearer to the person than a page, and the newest of several is the one that holds.
FACT_BONUS = 0.08
NEWEST_BONUS = 0.03

LITTLE_WORDS = frozenset({
    "your", "you", "you're", "you've", "you'll", "you'd", "yours", "the", "a", "an", "it", "its", "it's",
    "my", "there", "this", "that", "these", "those", "he", "she", "they", "his", "her", "their", "he's",
    "she's", "they're", "we", "our", "every", "each", "all", "some", "when", "on", "in", "at",
})  # fmt: skip
WHAT_I_AM = (
    "I am the handbook model of WOPR: I answer from the customer handbook and from what you tell me in our "
    "conversations. I do not make up anything beyond that."
)
NOTHING = "I found nothing about that"
LARGER = "For open questions, choose a larger model in the bot's settings."

_GREETING = re.compile(
    r"^(?:hi|hello|hey|good (?:morning|afternoon|evening|day)|greetings)(?: there| everyone| again)?\b(?P<rest>.*)$",
    re.IGNORECASE | re.DOTALL,
)
_THANKS = re.compile(
    r"^(?:many )?(?:thanks|thank you|thx|cheers|great|perfect|ok|okay|cool|nice)\b[^?]{0,40}$", re.IGNORECASE
)
_BYE = re.compile(r"^(?:bye|goodbye|good night|see you)\b[^?]{0,40}$", re.IGNORECASE)
_IDENTITY = re.compile(
    r"\b(?:who|what) (?:are|r) you\b|\bwhat(?:'s| is) your name\b|\bintroduce yourself\b|"
    r"\bare you (?:a |an )?(?:real|human|ai|bot|robot|person|machine|llm|chatgpt|model)\b|"
    r"\b(?:which|what) model (?:are you|is this)\b",
    re.IGNORECASE,
)
_ABOUT_ME = re.compile(
    r"\bwhat (?:do|did|can) you (?:know|remember|recall)(?: about me)?\s*\??$|"
    r"\bwhat (?:have|did) i (?:just )?(?:tell|told|say|said)\b|\bwhat i(?:'ve| have)? (?:told|said)\b|"
    r"\bdo you remember me\b|\bwho am i\b",
    re.IGNORECASE,
)
_PERSONAL = re.compile(r"\b(?:i|my|me|mine|we|our|us|i'm|am i)\b", re.IGNORECASE)


@dataclass(frozen=True)
class Handbook:
    """The passages and how to search them."""

    passages: Sequence[Passage]
    searcher: Searcher

    def answer(self, messages: Sequence[Message]) -> str:
        """The answer to the last message of the person."""
        known = facts(messages)
        said = asked(messages)
        small_talk = _small_talk(said.text, messages, known)
        if small_talk:
            return small_talk
        parts = [
            part for question in said.questions[:QUESTIONS_MAX] for part in self._answers_of(question, messages, known)
        ]
        if not parts and said.statements and self._best_passage(said.text)[1] < COMPLAINT:
            return _noted(said.statements)
        if not parts:
            parts = [self._answer_one(said.text, messages, [])]
        text = "\n\n".join(dict.fromkeys(parts))
        first = not any(message.role == "assistant" for message in messages)
        return f"{text}\n\n{WHAT_I_AM}" if first and WHAT_I_AM not in text else text

    def _answers_of(self, question: str, messages: Sequence[Message], known: Sequence[Fact]) -> list[str]:
        """An answer to each half of a sentence that asks two things, if each has one; else one to the whole."""
        halves = halves_of(question)
        parts = [self._answer_one(half, messages, known) for half in halves]
        if len(parts) > 1 and any(part.startswith(NOTHING) for part in parts):
            return [self._answer_one(question, messages, known)]
        return parts

    def _answer_one(self, question: str, messages: Sequence[Message], known: Sequence[Fact]) -> str:
        told = [fact for fact in known if fact.text != question]
        if _IDENTITY.search(question):
            return _identity(messages)
        if _ABOUT_ME.search(question):
            return _everything(told)
        fact, fact_score = self._best_fact(question, told)
        passage, score = self._best_passage(question)
        if score < GOOD and fact_score < FACT_GOOD and (earlier := previous_question(messages)):
            passage_again, score_again = self._best_passage(f"{earlier} {question}")
            if score_again > max(score, GOOD):
                passage, score = passage_again, score_again
        if (
            fact is not None
            and fact_score >= FACT_GOOD
            and fact_score + FACT_BONUS * _personal(question, fact) >= score
        ):
            return _told(fact)
        if score >= GOOD:
            return passage.answer
        return _nothing(passage.question if score >= NEAR else "")

    def _best_fact(self, question: str, told: Sequence[Fact]) -> tuple[Fact | None, float]:
        if not told:
            return None, 0.0
        texts = [fact.text for fact in told]
        scores = self.searcher.scores(question, texts, rarity_of([*texts, question]))
        ranked = [(score + NEWEST_BONUS * (i + 1) / len(told), i) for i, score in enumerate(scores)]
        best, index = max(ranked)
        return told[index], best

    def _best_passage(self, question: str) -> tuple[Passage, float]:
        wordings = [(text, passage) for passage in self.passages for text in passage.wordings]
        texts = [text for text, _ in wordings]
        scores = self.searcher.scores(question, texts, rarity_of(texts))
        best = max(range(len(texts)), key=lambda i: (scores[i], -i))
        return wordings[best][1], scores[best]


def _small_talk(text: str, messages: Sequence[Message], known: Sequence[Fact]) -> str:
    """Courtesies, which no page answers; empty when the message is more than one."""
    greeting = _GREETING.match(text)
    if not text or (greeting and len(greeting.group("rest").split()) <= 2 and "?" not in text):
        name = persona_name(messages)
        who = f"I am {name}, served by the handbook model" if name else "I am the handbook model"
        return (
            f"Hello{_called(known)}! {who} of WOPR. I answer from the customer handbook and from what you tell me. "
            "Ask me, for example, what a bot costs, how to create one, or what it remembers."
        )
    if _THANKS.match(text):
        return "You are welcome. Ask me whatever else you want to know about WOPR."
    if _BYE.match(text):
        return f"Goodbye{_called(known)}! What you told me stays in this conversation."
    return ""


def _called(known: Sequence[Fact]) -> str:
    for fact in reversed(known):
        match = re.match(r"(?:my name is|i am called|i'm called|call me)\s+([A-Za-z][\w-]*)", fact.text, re.IGNORECASE)
        if match and fact.source is Source.PERSON:
            return f", {match.group(1)[:1].upper()}{match.group(1)[1:]}"
    return ""


def _identity(messages: Sequence[Message]) -> str:
    line = persona_line(messages)
    if not line:
        return f"{WHAT_I_AM} {LARGER}"
    return f"{line} {WHAT_I_AM} {LARGER}"


def _noted(statements: Sequence[str]) -> str:
    noted = "; ".join(_lower_first(to_second_person(statement)) for statement in statements)
    return f"Noted: {noted}. Ask me about it whenever you like."


def _everything(told: Sequence[Fact]) -> str:
    mine = [to_second_person(fact.text) for fact in told if fact.source is Source.PERSON][-FACTS_TOLD_MAX:]
    if not mine:
        return "You have not told me anything about yourself yet. Tell me something, and I will know it when you ask."
    if len(mine) == 1:
        return f"You told me that {_lower_first(mine[0])}."
    return "You told me:\n" + "\n".join(f"- {line}" for line in mine)


def _told(fact: Fact) -> str:
    if fact.source is Source.PERSON:
        return f"You told me that {_lower_first(to_second_person(fact.text))}."
    return f"{fact.text[:1].upper()}{fact.text[1:]}."


def _nothing(nearest: str) -> str:
    near = f" The nearest page of the handbook is “{nearest}”: ask me that, if it is what you mean." if nearest else ""
    return f"{NOTHING} in the handbook or in what you told me.{near} {WHAT_I_AM} {LARGER}"


def _personal(question: str, fact: Fact) -> float:
    """1 when the question is about the person and so is the fact, else 0."""
    return float(bool(_PERSONAL.search(question)) and fact.source is Source.PERSON)


def _lower_first(text: str) -> str:
    """Lower the first letter of a pronoun or article, which stood at the beginning of a sentence; names keep theirs."""
    first = text.split(maxsplit=1)[0].lower() if text else ""
    return text[:1].lower() + text[1:] if first in LITTLE_WORDS else text
