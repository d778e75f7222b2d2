"""OpenAI's text API as the handbook model speaks it: requests parsed and checked, answers and chunks built.

A token here is a word or a mark together with the blanks before it. Prompt and answer are counted by the same rule, a
message costs three more for its frame, and a streamed chunk carries exactly one token, so that counts always agree.
"""

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from wopr.inference.engines.conversation import Message
from wopr.inference.engines.server import EngineError

CHOICES_MAX = 8
STOPS_MAX = 4
PROMPTS_MAX = 16
FRAME_TOKENS = 3
CONTEXT_TOKENS = 32_768
TOKEN = re.compile(r"\s*(?:\w{1,24}|[^\w\s])|\s+$")
ROLES = ("system", "developer", "user", "assistant", "tool", "function")

Body = Mapping[str, object]
Json = dict[str, object]


@dataclass(frozen=True)
class Wanted:
    """What a request asks of the model. `conversations` has one entry for chat, one a prompt for completions."""

    chat: bool
    conversations: Sequence[Sequence[Message]]
    choices: int
    tokens_max: int | None
    stops: Sequence[str]
    stream: bool
    usage_in_stream: bool
    as_json: bool
    prompt_tokens: int


@dataclass(frozen=True)
class Written:
    """One choice: its tokens, and why it ended (`stop` or `length`)."""

    tokens: Sequence[str]
    finish_reason: str

    @property
    def text(self) -> str:
        return "".join(self.tokens)


def parse(body: Body, *, chat: bool) -> Wanted:
    """The request as data; EngineError 400 names the field that is wrong."""
    conversations = [_messages(body)] if chat else [[Message("user", text)] for text in _prompts(body)]
    frame = FRAME_TOKENS if chat else 0
    prompt_tokens = sum(len(tokenize(m.text)) + frame for c in conversations for m in c)
    if prompt_tokens > CONTEXT_TOKENS:
        raise EngineError(
            400,
            f"The prompt has {prompt_tokens} tokens; the handbook model takes {CONTEXT_TOKENS}.",
            param="messages" if chat else "prompt",
            code="context_length_exceeded",
        )
    limit_name = "max_completion_tokens" if body.get("max_completion_tokens") is not None else "max_tokens"
    options = body.get("stream_options") or {}
    if not isinstance(options, dict):
        raise EngineError(400, "stream_options must be an object.", param="stream_options")
    return Wanted(
        chat=chat,
        conversations=conversations,
        choices=_whole(body, "n", 1, CHOICES_MAX) or 1,
        tokens_max=_whole(body, limit_name, 1, 1_000_000),
        stops=_stops(body),
        stream=_flag(body, "stream"),
        usage_in_stream=_flag(options, "include_usage"),
        as_json=_json_mode(body),
        prompt_tokens=prompt_tokens,
    )


def write(text: str, wanted: Wanted) -> Written:
    """The answer within the limits of the request: cut at the first stop sequence, then at the number of tokens."""
    whole = json.dumps({"answer": text}, ensure_ascii=False) if wanted.as_json else text
    ends = [at for stop in wanted.stops if (at := whole.find(stop)) >= 0]
    tokens = tokenize(whole[: min(ends)] if ends else whole)
    if wanted.tokens_max is not None and len(tokens) > wanted.tokens_max:
        return Written(tokens[: wanted.tokens_max], "length")
    return Written(tokens, "stop")


def tokenize(text: str) -> list[str]:
    """The text in tokens; joined, they are the text again."""
    return [match.group(0) for match in TOKEN.finditer(text)]


def usage(prompt_tokens: int, written: Iterable[Written]) -> Json:
    """OpenAI's usage object."""
    completion = sum(len(choice.tokens) for choice in written)
    return {"prompt_tokens": prompt_tokens, "completion_tokens": completion, "total_tokens": prompt_tokens + completion}


@dataclass(frozen=True)
class Envelope:
    """What all objects of one answer share."""

    id: str
    created: int
    model: str
    chat: bool

    def whole(self, written: Sequence[Written], prompt_tokens: int) -> Json:
        """The answer that is not streamed."""
        choices = [self._choice(i, choice) for i, choice in enumerate(written)]
        kind = "chat.completion" if self.chat else "text_completion"
        return {**self._head(kind), "choices": choices, "usage": usage(prompt_tokens, written)}

    def piece(self, index: int, text: str, *, first: bool = False, finish: str | None = None) -> Json:
        """One chunk of a stream: a token, or the end with its reason."""
        if not self.chat:
            choice: Json = {"index": index, "text": text, "logprobs": None, "finish_reason": finish}
            return {**self._head("text_completion"), "choices": [choice]}
        delta: Json = {} if finish is not None else {"content": text}
        if first:
            delta = {"role": "assistant", **delta}
        choice = {"index": index, "delta": delta, "logprobs": None, "finish_reason": finish}
        return {**self._head("chat.completion.chunk"), "choices": [choice]}

    def counts(self, written: Sequence[Written], prompt_tokens: int) -> Json:
        """The last chunk of a stream that asked for usage: no choices, only counts."""
        kind = "chat.completion.chunk" if self.chat else "text_completion"
        return {**self._head(kind), "choices": [], "usage": usage(prompt_tokens, written)}

    def _head(self, kind: str) -> Json:
        return {"id": self.id, "object": kind, "created": self.created, "model": self.model}

    def _choice(self, index: int, choice: Written) -> Json:
        if not self.chat:
            return {"index": index, "text": choice.text, "logprobs": None, "finish_reason": choice.finish_reason}
        message = {"role": "assistant", "content": choice.text, "refusal": None}
        return {"index": index, "message": message, "logprobs": None, "finish_reason": choice.finish_reason}


def _messages(body: Body) -> list[Message]:
    raw = body.get("messages")
    if not isinstance(raw, list) or not raw:
        raise EngineError(400, "messages must be a list with at least one message.", param="messages")
    return [_message(item, f"messages[{i}]") for i, item in enumerate(raw)]


def _message(item: object, where: str) -> Message:
    if not isinstance(item, dict) or item.get("role") not in ROLES:
        raise EngineError(400, f"{where} must be an object with a role: {', '.join(ROLES)}.", param=where)
    content = item.get("content")
    if content is None and item["role"] in ("assistant", "tool", "function"):
        return Message(str(item["role"]), "")
    if isinstance(content, str):
        return Message(str(item["role"]), content)
    if isinstance(content, list):
        return Message(str(item["role"]), "\n".join(_part(part, where) for part in content))
    raise EngineError(400, f"{where}.content must be text or a list of parts.", param=where)


def _part(part: object, where: str) -> str:
    if isinstance(part, dict) and part.get("type") == "text" and isinstance(part.get("text"), str):
        return str(part["text"])
    raise EngineError(400, f"{where}: the handbook model reads text only.", param=where, code="unsupported_content")


def _prompts(body: Body) -> list[str]:
    raw = body.get("prompt")
    prompts = [raw] if isinstance(raw, str) else raw
    if not isinstance(prompts, list) or not 0 < len(prompts) <= PROMPTS_MAX:
        raise EngineError(400, f"prompt must be text or a list of 1 to {PROMPTS_MAX} texts.", param="prompt")
    if not all(isinstance(prompt, str) for prompt in prompts):
        raise EngineError(400, "prompt must be text; the handbook model takes no token numbers.", param="prompt")
    return [str(prompt) for prompt in prompts]


def _stops(body: Body) -> list[str]:
    raw = body.get("stop")
    stops = [raw] if isinstance(raw, str) else (raw or [])
    if not isinstance(stops, list) or len(stops) > STOPS_MAX or not all(isinstance(s, str) and s for s in stops):
        raise EngineError(400, f"stop must be text or a list of up to {STOPS_MAX} texts.", param="stop")
    return [str(stop) for stop in stops]


def _json_mode(body: Body) -> bool:
    form = body.get("response_format")
    kind = form.get("type") if isinstance(form, dict) else form
    if kind in (None, "text"):
        return False
    if kind == "json_object":
        return True
    message = "The handbook model can't follow a schema: response_format may be text or json_object."
    raise EngineError(400, message, param="response_format", code="unsupported_value")


def _whole(body: Body, name: str, least: int, most: int) -> int | None:
    value = body.get(name)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= most:
        raise EngineError(400, f"{name} must be a whole number from {least} to {most}.", param=name)
    return value


def _flag(body: Body, name: str) -> bool:
    value = body.get(name)
    if value is None or isinstance(value, bool):
        return bool(value)
    raise EngineError(400, f"{name} must be true or false.", param=name)
