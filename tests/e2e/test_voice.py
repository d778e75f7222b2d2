"""Voice: a recording becomes a turn and its answer is spoken; the microphone's words can be edited before they go."""

import base64
import re
from collections.abc import Callable
from pathlib import Path

from playwright.sync_api import Page, expect
from tests.e2e.browser import ANSWER_MS, say
from tests.live import Person, missing, spoken


def test_a_recording_is_understood_answered_and_the_answer_spoken(customer: Person, bot: str) -> None:
    recording = spoken("what does a bot cost")
    if recording is None:
        missing("flite")
    assert recording is not None
    said = {"audio_base64": base64.b64encode(recording).decode(), "speak": True}
    started = customer.post(f"/fleet/bots/{bot}/turns", said)
    turn = customer.wait_turn(bot, started["turn_id"])
    assert turn["state"] == "completed", turn
    assert "cost" in turn["user_text"].lower()
    audio = customer.http.get(f"/fleet/bots/{bot}/turns/{started['turn_id']}/audio")
    assert audio.status_code == 200
    assert audio.headers["content-type"] == "audio/wav"
    assert audio.content.startswith(b"RIFF")
    assert len(audio.content) > 20_000


def test_the_microphones_words_land_in_the_field_for_editing(
    window: Callable[..., Page], customer: Person, bot: str, microphone: Path | None
) -> None:
    if microphone is None:
        missing("flite")
    page = window(customer, permissions=["microphone"])
    page.goto(f"/bots/{bot}?c=new")
    button = page.get_by_role("button", name="Hold to speak")
    expect(button).to_be_enabled(timeout=ANSWER_MS)
    button.hover()
    page.mouse.down()
    expect(page.get_by_text(re.compile("Listening"))).to_be_visible()
    page.wait_for_timeout(3_000)  # a person speaks for as long
    page.mouse.up()
    field = page.get_by_role("textbox", name=re.compile("Say something"))
    expect(field).not_to_have_value("", timeout=ANSWER_MS)
    # The recording plays in a loop and is joined somewhere: not each word is understood.
    assert len({"weather", "good", "today"} & set(field.input_value().lower().split())) >= 2, field.input_value()
    assert page.locator("li.message.user").count() == 0, "nothing is sent before the person looked at it"


def test_an_answer_can_be_listened_to_and_silenced(window: Callable[..., Page], customer: Person, bot: str) -> None:
    page = window(customer)
    page.goto(f"/bots/{bot}?c=new")
    answer = say(page, "Hello")
    with page.expect_response(re.compile(r"/audio$"), timeout=ANSWER_MS) as audio:
        answer.get_by_role("button", name="Listen").click()
    assert audio.value.ok
    expect(page.get_by_text(re.compile("Reading aloud"))).to_be_visible()
    page.keyboard.press("Escape")
    expect(page.get_by_text(re.compile("Reading aloud"))).to_have_count(0)
