"""What is asked: the endpoints of OpenAI's API, and a request read as far as metering and routing need it."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import aiohttp

from wopr.billing.usage import UsageKind
from wopr.inference.gateway import audio
from wopr.inference.gateway.body import (
    JsonObject,
    apply,
    asks_for_usage,
    model_edits,
    parse_body,
    positive_int,
    usage_edits,
)
from wopr.inference.gateway.errors import BadParameter
from wopr.inference.routing import affinity_of

JSON_BYTES_MAX = 32 * 1024 * 1024
AUDIO_BYTES_MAX = 32 * 1024 * 1024
SPEECH_CHARACTERS_MAX = 16_384
CHOICES_MAX = 128
MODEL_CHARACTERS_MAX = 200
# What is held for an answer whose length the client left open: all at once when it can't be stopped in the middle,
# a little at a time when it can.
OUTPUT_TOKENS_WHOLE = 4_096
OUTPUT_TOKENS_STREAM = 256
OUTPUT_TOKENS_LEAST = 16
PROMPT_TOKENS_MAX = 262_144  # no engine of ours reads more
PREFIX_BYTES = 1_024
CHARACTERS_PER_TOKEN = 4
TOKENS_PER_MESSAGE = 4


@dataclass(frozen=True, slots=True)
class Endpoint:
    """One path of the API and what answers it."""

    path: str
    kind: UsageKind
    service: str
    bytes_max: int
    read: "Callable[[Endpoint, bytes, bytes], Job]"


@dataclass(slots=True)
class Job:
    """A request: what it asks of whom, and how much it can use at most."""

    endpoint: Endpoint
    model: str
    raw: bytes
    content_type: str
    json: JsonObject | None = None
    form: audio.Form | None = None
    stream: bool = False
    keep_usage: bool = True
    choices: int = 1
    prompt_bound: int = 0
    output_bound: int = 0  # tokens to hold at first; an open end holds more as it goes
    open_ended: bool = False
    units: int = 0  # characters of speech, seconds of audio at most
    affinity: int | None = None

    @property
    def service(self) -> str:
        return self.endpoint.service

    @property
    def path(self) -> str:
        return self.endpoint.path

    def body_for(self, served: str) -> bytes:
        """The body for a backend that knows the model as `served`: the client's bytes but for what we must set."""
        if self.form is not None:
            return self.raw if served == self.model else self.form.with_text("model", served)
        if self.json is None:
            return self.raw
        edits = model_edits(self.json, served) if served != self.model else []
        if self.stream and not self.keep_usage:
            edits += usage_edits(self.json)
        return apply(self.json, edits) if edits else self.raw

    def wants_whole(self, response: aiohttp.ClientResponse) -> bool:
        """Whether the answer is read to its end before it is sent on."""
        if response.status >= 400:
            return True
        if self.endpoint.kind == "speech":
            return False
        return response.content_type != "text/event-stream"

    def prompt_estimate(self) -> int:
        """Prompt tokens when the engine did not tell: a quarter of the characters, and a little for each message."""
        values = self.json.values if self.json is not None else {}
        messages = values.get("messages")
        if isinstance(messages, list):
            characters = sum(_characters(message) for message in messages)
            return math.ceil(characters / CHARACTERS_PER_TOKEN) + TOKENS_PER_MESSAGE * len(messages)
        given = values.get("prompt", values.get("input", ""))
        return math.ceil(_characters(given) / CHARACTERS_PER_TOKEN)


def read_chat(endpoint: Endpoint, raw: bytes, _content_type: bytes) -> Job:
    """A chat or text completion."""
    body = parse_body(raw)
    job = _json_job(endpoint, raw, body)
    job.stream = body.values.get("stream") is True
    job.keep_usage = not job.stream or asks_for_usage(body)
    job.choices = _choices(body)
    job.prompt_bound = min(len(raw), PROMPT_TOKENS_MAX)
    limit = positive_int(body, "max_completion_tokens", "max_tokens")
    job.open_ended = limit is None
    if limit is None:
        limit = OUTPUT_TOKENS_STREAM if job.stream else OUTPUT_TOKENS_WHOLE
    job.output_bound = limit * job.choices
    for name, mark in (("messages", b'"messages"'), ("prompt", b'"prompt"')):
        if name in body.values:
            begin = raw.find(mark)
            job.affinity = affinity_of(job.model, raw[begin : begin + PREFIX_BYTES])
            return job
    needed = "messages" if endpoint.kind == "chat" else "prompt"
    raise BadParameter(f"You must provide `{needed}`.", needed, "missing_required_parameter")


def read_embedding(endpoint: Endpoint, raw: bytes, _content_type: bytes) -> Job:
    """Embeddings: the prompt is all there is to pay."""
    body = parse_body(raw)
    job = _json_job(endpoint, raw, body)
    if "input" not in body.values:
        raise BadParameter("You must provide `input`.", "input", "missing_required_parameter")
    job.prompt_bound = len(raw)
    return job


def read_speech(endpoint: Endpoint, raw: bytes, _content_type: bytes) -> Job:
    """Speech: charged by the characters of the text."""
    body = parse_body(raw)
    job = _json_job(endpoint, raw, body)
    text = body.values.get("input")
    if not isinstance(text, str) or not text:
        raise BadParameter("`input` must be the text to speak.", "input", "missing_required_parameter")
    if len(text) > SPEECH_CHARACTERS_MAX:
        raise BadParameter(f"`input` is longer than {SPEECH_CHARACTERS_MAX} characters.", "input", "string_too_long")
    job.units = len(text)
    return job


def read_transcription(endpoint: Endpoint, raw: bytes, content_type: bytes) -> Job:
    """A transcription: charged by the seconds of the sound."""
    form = audio.parse_form(content_type, raw)
    model, file = form.text("model"), form.file("file")
    if not model:
        raise _no_model()
    _check_name(model)
    if not file:
        raise BadParameter("You must provide `file`.", "file", "missing_required_parameter")
    job = Job(endpoint, model, raw, content_type.decode("latin-1"), form=form)
    job.units = math.ceil(audio.seconds_at_most(file))
    return job


ENDPOINTS = {
    endpoint.path: endpoint
    for endpoint in (
        Endpoint("/v1/chat/completions", "chat", "llama", JSON_BYTES_MAX, read_chat),
        Endpoint("/v1/completions", "completion", "llama", JSON_BYTES_MAX, read_chat),
        Endpoint("/v1/embeddings", "embedding", "qwen", JSON_BYTES_MAX, read_embedding),
        Endpoint("/v1/audio/speech", "speech", "chatterbox", JSON_BYTES_MAX, read_speech),
        Endpoint("/v1/audio/transcriptions", "transcription", "whisper", AUDIO_BYTES_MAX, read_transcription),
    )
}


def _json_job(endpoint: Endpoint, raw: bytes, body: JsonObject) -> Job:
    model = body.values.get("model")
    if not isinstance(model, str) or not model:
        raise _no_model()
    _check_name(model)
    return Job(endpoint, model, raw, "application/json", json=body)


def _no_model() -> BadParameter:
    return BadParameter("You must provide a model.", "model", "missing_required_parameter")


def _check_name(model: str) -> None:
    if len(model) > MODEL_CHARACTERS_MAX or not model.isascii() or not model.isprintable():
        raise BadParameter("That can't be the name of a model.", "model")


def _choices(body: JsonObject) -> int:
    count = max(positive_int(body, "n") or 1, positive_int(body, "best_of") or 1)
    prompts = body.values.get("prompt")
    if isinstance(prompts, list) and prompts and not isinstance(prompts[0], int):
        count *= len(prompts)
    if count > CHOICES_MAX:
        raise BadParameter(f"More than {CHOICES_MAX} answers at once are not possible.", "n")
    return count


def _characters(value: Any) -> int:  # any JSON value of a request
    if isinstance(value, str):
        return len(value)
    if isinstance(value, list):
        if value and isinstance(value[0], int):
            return len(value) * CHARACTERS_PER_TOKEN
        return sum(_characters(each) for each in value)
    if isinstance(value, dict):
        return sum(_characters(value[name]) for name in ("content", "text", "arguments") if name in value)
    return 0
