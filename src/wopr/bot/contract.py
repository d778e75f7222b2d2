"""What the bot and its callers agree on: one module, imported by both sides, so that no name is misspelled on one.

It imports nothing but the standard library. Payloads are frozen dataclasses with `to_json` (a plain dict for
`json.dumps`) and, for what a caller sends or reads, `from_json`, which raises `ContractError` naming the field.
Times are ISO 8601 in UTC, ids are strings.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from enum import StrEnum
from typing import Final
from urllib.parse import quote

# The environment of the process. Only the bot reads it; the fleet writes it.
ENV_BOT_ID: Final = "WOPR_BOT_ID"
ENV_NAME: Final = "WOPR_BOT_NAME"
ENV_TOKEN: Final = "WOPR_BOT_TOKEN"  # noqa: S105 - the name of the variable, not a secret
ENV_HOST: Final = "WOPR_BOT_HOST"
ENV_PORT: Final = "WOPR_BOT_PORT"
ENV_DATA: Final = "WOPR_BOT_DATA"
ENV_GATEWAY_URL: Final = "WOPR_GATEWAY_URL"
ENV_SERVICE_KEY: Final = "WOPR_SERVICE_KEY"
ENV_MODEL: Final = "WOPR_BOT_MODEL"
ENV_EMBEDDING_MODEL: Final = "WOPR_BOT_EMBEDDING_MODEL"
ENV_VOICE: Final = "WOPR_BOT_VOICE"
ENV_SPEECH_MODEL: Final = "WOPR_BOT_SPEECH_MODEL"
ENV_TRANSCRIPTION_MODEL: Final = "WOPR_BOT_TRANSCRIPTION_MODEL"
ENV_PERSONA: Final = "WOPR_BOT_PERSONA"
ENV_INSTRUCTIONS: Final = "WOPR_BOT_INSTRUCTIONS"

DEFAULT_HOST: Final = "127.0.0.1"
DEFAULT_PORT: Final = 7437
DEFAULT_DATA: Final = "/data"
PROGRAM: Final = ("-m", "wopr.bot")  # arguments after the interpreter

# Headers.
TURN_HEADER: Final = "x-wopr-turn"  # bot to gateway: the turn that a request belongs to, for its receipt
LAST_EVENT_ID_HEADER: Final = "Last-Event-ID"
REPLAYED_HEADER: Final = "Idempotent-Replayed"  # "true" when a turn was there already and nothing was started
REQUEST_ID_HEADER: Final = "x-request-id"  # gateway to bot

# Route templates, as aiohttp and FastAPI both spell them; the functions below fill them in.
ROUTE_HEALTH: Final = "/health"
ROUTE_READY: Final = "/ready"
ROUTE_TURNS: Final = "/turns"
ROUTE_TURN: Final = "/turns/{turn_id}"
ROUTE_TURN_EVENTS: Final = "/turns/{turn_id}/events"
ROUTE_TURN_CANCEL: Final = "/turns/{turn_id}/cancel"
ROUTE_TURN_AUDIO: Final = "/turns/{turn_id}/audio"
ROUTE_TRANSCRIPTIONS: Final = "/transcriptions"
ROUTE_CONVERSATIONS: Final = "/conversations"
ROUTE_CONVERSATION: Final = "/conversations/{conversation_id}"
ROUTE_MESSAGES: Final = "/conversations/{conversation_id}/messages"
OPEN_ROUTES: Final = frozenset({ROUTE_HEALTH, ROUTE_READY})

# Limits that a caller meets, too.
TEXT_CHARS_MAX: Final = 32_000
AUDIO_BYTES_MAX: Final = 10 * 1024 * 1024
BODY_BYTES_MAX: Final = 15 * 1024 * 1024
ID_CHARS_MAX: Final = 64
MESSAGES_LIMIT_MAX: Final = 200
MESSAGES_LIMIT_DEFAULT: Final = 50
HEARTBEAT_SECONDS: Final = 15.0
STOP_SECONDS_MAX: Final = 3.0  # from SIGTERM to the end of the process

HEALTH_BODY: Final[Mapping[str, str]] = {"status": "ok"}


class TurnState(StrEnum):
    """Where a turn is. Queued turns are `running`: their caller waits for the same events."""

    RUNNING = "running"
    COMPLETED = "completed"
    FAILED = "failed"
    CANCELLED = "cancelled"
    INTERRUPTED = "interrupted"  # the bot's process ended in mid-turn; the partial text is kept

    @property
    def final(self) -> bool:
        """Whether nothing more will happen to the turn."""
        return self is not TurnState.RUNNING


class EventName(StrEnum):
    """Events of a turn in their order: started, transcript?, (delta | restarted)*, then exactly one final event.

    `restarted` clears the text so far: the answer broke off, was asked for anew and turned out to be another one. An
    answer that begins with the same characters goes on without it. The text is that of the deltas after the last one.
    """

    STARTED = "started"
    TRANSCRIPT = "transcript"
    DELTA = "delta"
    RESTARTED = "restarted"
    COMPLETED = "completed"
    FAILED = "failed"
    CANCELLED = "cancelled"

    @property
    def final(self) -> bool:
        """Whether the stream ends after this event."""
        return self in FINAL_EVENTS


FINAL_EVENTS: Final = frozenset({EventName.COMPLETED, EventName.FAILED, EventName.CANCELLED})


class ErrorCode(StrEnum):
    """Codes of `failed` events and of error answers; stable, since pages choose their remedy by them."""

    BAD_REQUEST = "bad_request"
    UNAUTHENTICATED = "unauthenticated"
    NOT_FOUND = "not_found"
    CONFLICT = "conflict"
    TOO_LARGE = "too_large"
    TOO_MANY_TURNS = "too_many_turns"
    NOT_READY = "not_ready"
    INTERNAL = "internal"
    CREDIT_EMPTY = "credit_empty"
    KEY_REFUSED = "key_refused"
    RATE_LIMITED = "rate_limited"
    REQUEST_REFUSED = "request_refused"
    GATEWAY_UNREACHABLE = "gateway_unreachable"
    GATEWAY_FAILED = "gateway_failed"
    GATEWAY_TIMEOUT = "gateway_timeout"
    STREAM_BROKEN = "stream_broken"
    NO_SPEECH = "no_speech"
    TURN_TIMEOUT = "turn_timeout"
    INTERRUPTED = "interrupted"


class ContractError(ValueError):
    """A payload doesn't have the shape of the contract; the message names the field."""


@dataclass(frozen=True)
class ErrorBody:
    """The inside of `{"error": {…}}`, of `failed` events and of a turn's `error`."""

    code: str
    message: str
    remedy: str

    def to_json(self) -> dict[str, object]:
        """As it stands in a `failed` event."""
        return asdict(self)

    def envelope(self) -> dict[str, object]:
        """As the body of an error answer."""
        return {"error": asdict(self)}

    @classmethod
    def from_json(cls, data: object) -> ErrorBody:
        """Reads both the envelope and the bare form."""
        fields = _mapping(data, "error")
        if isinstance(fields.get("error"), Mapping):
            fields = _mapping(fields["error"], "error")
        return cls(_text(fields, "code"), _text(fields, "message"), _text(fields, "remedy", ""))


@dataclass(frozen=True)
class Usage:
    """Tokens of a turn's chat requests."""

    prompt_tokens: int = 0
    completion_tokens: int = 0

    def to_json(self) -> dict[str, int]:
        return {"prompt_tokens": self.prompt_tokens, "completion_tokens": self.completion_tokens}

    @classmethod
    def from_json(cls, data: object) -> Usage:
        fields = _mapping(data, "usage")
        return cls(_whole(fields, "prompt_tokens"), _whole(fields, "completion_tokens"))


@dataclass(frozen=True)
class TurnRequest:
    """Body of POST /turns: text or audio (base64 of a WAV file), exactly one of them."""

    turn_id: str
    conversation_id: str
    text: str | None = None
    audio_base64: str | None = None
    speak: bool = False

    def to_json(self) -> dict[str, object]:
        return {key: value for key, value in asdict(self).items() if value is not None}

    @classmethod
    def from_json(cls, data: object) -> TurnRequest:
        fields = _mapping(data, "body")
        text, audio = fields.get("text"), fields.get("audio_base64")
        speak = fields.get("speak", False)
        if not isinstance(speak, bool | None):
            raise ContractError("speak must be true or false")
        if (text is None) == (audio is None):
            raise ContractError("exactly one of text and audio_base64 is needed")
        if text is not None and (not isinstance(text, str) or not text.strip() or len(text) > TEXT_CHARS_MAX):
            raise ContractError(f"text must be a string of 1 to {TEXT_CHARS_MAX} characters")
        if text is not None and any("\ud800" <= char <= "\udfff" for char in text):
            raise ContractError("text must be valid Unicode")
        if audio is not None and (not isinstance(audio, str) or not audio):
            raise ContractError("audio_base64 must be a non-empty string")
        return cls(_id(fields, "turn_id"), _id(fields, "conversation_id"), text, audio, bool(speak))


@dataclass(frozen=True)
class TurnAccepted:
    """Answer to POST /turns (202) and to POST …/cancel (202)."""

    turn_id: str
    conversation_id: str
    state: TurnState

    def to_json(self) -> dict[str, object]:
        return asdict(self)

    @classmethod
    def from_json(cls, data: object) -> TurnAccepted:
        fields = _mapping(data, "body")
        return cls(_text(fields, "turn_id"), _text(fields, "conversation_id"), _state(fields))


@dataclass(frozen=True)
class TurnsView:
    """Answer to GET /turns: how many turns are under way, those that wait included."""

    running: int

    def to_json(self) -> dict[str, int]:
        return asdict(self)

    @classmethod
    def from_json(cls, data: object) -> TurnsView:
        return cls(_whole(_mapping(data, "body"), "running"))


@dataclass(frozen=True)
class TurnView:
    """Answer to GET /turns/{id}. `text` is the answer so far; `request_ids` are the gateway's, in order."""

    turn_id: str
    conversation_id: str
    state: TurnState
    user_text: str
    text: str
    error: ErrorBody | None
    request_ids: tuple[str, ...]
    usage: Usage | None
    created_at: str
    finished_at: str | None

    def to_json(self) -> dict[str, object]:
        return {**asdict(self), "request_ids": list(self.request_ids)}

    @classmethod
    def from_json(cls, data: object) -> TurnView:
        fields = _mapping(data, "body")
        error, usage, ids = fields.get("error"), fields.get("usage"), fields.get("request_ids")
        finished = fields.get("finished_at")
        return cls(
            turn_id=_text(fields, "turn_id"),
            conversation_id=_text(fields, "conversation_id"),
            state=_state(fields),
            user_text=_text(fields, "user_text", ""),
            text=_text(fields, "text", ""),
            error=None if error is None else ErrorBody.from_json(error),
            request_ids=tuple(str(item) for item in ids) if isinstance(ids, list) else (),
            usage=None if usage is None else Usage.from_json(usage),
            created_at=_text(fields, "created_at"),
            finished_at=finished if isinstance(finished, str) else None,
        )


@dataclass(frozen=True)
class ConversationView:
    """One row of GET /conversations; `messages` is their number."""

    id: str
    title: str
    created_at: str
    updated_at: str
    messages: int

    def to_json(self) -> dict[str, object]:
        return asdict(self)


@dataclass(frozen=True)
class MessageView:
    """One row of GET /conversations/{id}/messages, oldest first; role is user or assistant.

    `state` is the state of the message's turn, so that a page can mark an answer that was cut off. An answer is listed
    when its turn has ended; until then it comes through the turn's events.
    """

    id: str
    role: str
    text: str
    turn_id: str
    created_at: str
    has_audio: bool
    state: TurnState

    def to_json(self) -> dict[str, object]:
        return asdict(self)


def turn_path(turn_id: str) -> str:
    """GET: a `TurnView`."""
    return ROUTE_TURN.replace("{turn_id}", quote(turn_id, safe=""))


def turn_events_path(turn_id: str) -> str:
    """GET: server-sent events; `Last-Event-ID` or `?after=N` replays what came after event N."""
    return turn_path(turn_id) + "/events"


def turn_cancel_path(turn_id: str) -> str:
    """POST: a `TurnAccepted`."""
    return turn_path(turn_id) + "/cancel"


def turn_audio_path(turn_id: str) -> str:
    """GET: the answer as audio/wav, made on demand and kept."""
    return turn_path(turn_id) + "/audio"


def conversation_path(conversation_id: str) -> str:
    """DELETE: 204."""
    return ROUTE_CONVERSATION.replace("{conversation_id}", quote(conversation_id, safe=""))


def messages_path(conversation_id: str) -> str:
    """GET: {"messages": [MessageView…]}; `?before=<message id>&limit=N` pages backward."""
    return conversation_path(conversation_id) + "/messages"


def _mapping(data: object, name: str) -> Mapping[str, object]:
    if not isinstance(data, Mapping):
        raise ContractError(f"{name} must be a JSON object")
    return data


def _text(fields: Mapping[str, object], name: str, default: str | None = None) -> str:
    value = fields.get(name, default)
    if not isinstance(value, str):
        raise ContractError(f"{name} must be a string")
    return value


def _id(fields: Mapping[str, object], name: str) -> str:
    value = _text(fields, name)
    # Ids become file names and parts of addresses, so that only harmless characters are let in.
    if not 0 < len(value) <= ID_CHARS_MAX or not all(
        char.isascii() and (char.isalnum() or char in "-_") for char in value
    ):
        raise ContractError(f"{name} must be 1 to {ID_CHARS_MAX} letters, digits, - or _")
    return value


def _whole(fields: Mapping[str, object], name: str) -> int:
    value = fields.get(name, 0)
    return value if isinstance(value, int) and value >= 0 else 0


def _state(fields: Mapping[str, object]) -> TurnState:
    try:
        return TurnState(_text(fields, "state"))
    except ValueError as error:
        raise ContractError("state must be one of " + ", ".join(TurnState)) from error
