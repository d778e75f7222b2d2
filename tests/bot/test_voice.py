"""Talking with the bot by voice."""

from __future__ import annotations

import asyncio
from base64 import b64encode
from typing import Any

from aiohttp import web

from wopr.bot.voice import SPOKEN_CHARS_MAX, speakable

WAV = b"RIFF\x24\x00\x00\x00WAVEfmt " + b"spoken question"
SPOKEN = b64encode(WAV).decode()


async def _sound(bot: Any, turn_id: str) -> tuple[int, str, bytes]:
    async with bot.session.get(f"{bot.url}/turns/{turn_id}/audio") as response:
        return response.status, response.content_type, await response.read()


async def test_a_spoken_question_is_written_down_answered_and_spoken(bot: Any, gateway: Any) -> None:
    events = await bot.say(None, "t1", audio_base64=SPOKEN, speak=True)
    assert [event.name for event in events if event.name != "delta"] == ["started", "transcript", "completed"]
    assert events[1].data == {"text": "what did you hear"}
    assert events[-1].data["has_audio"] is True
    assert gateway.paths()[:3] == ["/audio/transcriptions", "/chat/completions", "/audio/speech"]
    assert gateway.asked[0].body == {"model": "whisper-1", "sound": WAV}
    assert {asked.headers["x-wopr-turn"] for asked in gateway.asked[:3]} == {"t1"}
    assert (gateway.asked[2].body["voice"], gateway.asked[2].body["response_format"]) == ("rms", "wav")
    status, kind, sound = await _sound(bot, "t1")
    assert (status, kind) == (200, "audio/wav")
    assert sound.endswith(b"You said: what did you hear")
    assert gateway.paths().count("/audio/speech") == 1
    _, view = await bot.call("GET", "/turns/t1")
    assert view["user_text"] == "what did you hear"
    _, listed = await bot.call("GET", "/conversations")
    assert listed["conversations"][0]["title"] == "what did you hear"


async def test_sound_of_a_written_answer_is_made_once_when_asked_for(bot: Any, gateway: Any) -> None:
    await bot.say("hello **there**", "t1")
    first, second = await asyncio.gather(_sound(bot, "t1"), _sound(bot, "t1"))
    assert first == second
    assert first[2].endswith(b"You said: hello there")
    assert gateway.paths().count("/audio/speech") == 1
    _, page = await bot.call("GET", "/conversations/c1/messages")
    assert [item["has_audio"] for item in page["messages"]] == [False, True]
    await bot.call("DELETE", "/conversations/c1")
    assert not list((bot.data / "audio").iterdir())


async def test_a_missing_voice_does_not_spoil_the_answer(bot: Any, gateway: Any) -> None:
    gateway.refusals["/audio/speech"] = [web.Response(status=402), web.Response(status=402)]
    last = (await bot.say("hello", "t1", speak=True))[-1]
    assert (last.name, last.data["has_audio"]) == ("completed", False)
    status, _, body = await _sound(bot, "t1")
    assert (status, b"credit_empty" in body) == (402, True)
    assert (await _sound(bot, "t1"))[0] == 200


async def test_silence_and_other_files_are_told_apart_from_speech(bot: Any, gateway: Any) -> None:
    gateway.transcript = " "
    assert (await bot.say(None, "t1", audio_base64=SPOKEN))[-1].data["code"] == "no_speech"
    status, answer = await bot.call("POST", "/transcriptions", data=WAV)
    assert (status, answer["error"]["code"]) == (422, "no_speech")
    gateway.transcript = "hello bot"
    assert await bot.call("POST", "/transcriptions", data=WAV) == (200, {"text": "hello bot"})
    assert (await bot.call("POST", "/transcriptions", data=b"not sound"))[0] == 400


async def test_a_running_turn_has_no_sound_yet(bot: Any, gateway: Any) -> None:
    async def script(stream: Any, _: Any) -> None:
        await asyncio.Event().wait()

    gateway.script = script
    await bot.post("hello", "t1")
    assert (await _sound(bot, "t1"))[0] == 409
    await bot.call("POST", "/turns/t1/cancel")
    assert (await _sound(bot, "t1"))[0] == 404


def test_only_what_one_would_read_out_is_spoken() -> None:
    answer = "# Plan\n\n- **First** see [the page](http://x.example/a_b)\n\n```py\nx = 1\n```\n\nThen `run` it, 2 * 3."
    assert speakable(answer) == "Plan\nFirst see the page\n \nThen run it, 2 * 3."
    assert speakable("```only code```") == ""
    long = speakable("One sentence. " * 1_000)
    assert len(long) <= SPOKEN_CHARS_MAX
    assert long.endswith("One sentence.")
