"""The outbox: each mail leaves once, trouble is retried, what can't be delivered is marked."""

import asyncio
import dataclasses
import email
import email.policy
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from email.message import EmailMessage

import httpx
import pytest

from wopr.accounts import mail, post
from wopr.accounts.loops import loops
from wopr.core.platform import Platform
from wopr.core.settings import Settings
from wopr.emulators.resend.app import build_resend
from wopr.emulators.resend.settings import ResendSettings

Handler = Callable[[httpx.Request], httpx.Response]
KEY = {"resend_api_key": "re_test_123456", "resend_api_base": "http://resend.test"}


def with_settings(world, transport: httpx.AsyncBaseTransport | None = None, **changes: str) -> Platform:
    settings = Settings(**{**world.platform.settings.model_dump(), **changes})
    http = httpx.AsyncClient(transport=transport) if transport else world.platform.http
    return dataclasses.replace(world.platform, settings=settings, http=http)


async def put(world, key: str = "k", to: str = "ada@example.com") -> None:
    async with world.platform.db.begin() as session:
        await mail.queue(session, to, "Hello", "Plain words", "<p>Rich words</p>", key)


async def state(world, to: str = "ada@example.com") -> tuple[str, int, str | None]:
    [row] = await world.mails(to)
    return row.state, row.attempts, row.last_error


async def test_a_mail_is_queued_once_for_one_occasion_and_only_with_its_transaction(world) -> None:
    async with world.platform.db.begin() as session:
        assert await mail.queue(session, "ada@example.com", "S", "t", None, "one occasion")
        assert not await mail.queue(session, "ada@example.com", "S", "t", None, "one occasion")

    async def fails_after_queueing() -> None:
        async with world.platform.db.begin() as session:
            await mail.queue(session, "bob@example.com", "S", "t", None, "another")
            raise RuntimeError

    with pytest.raises(RuntimeError):
        await fails_after_queueing()
    assert len(await world.mails("ada@example.com")) == 1
    assert await world.mails("bob@example.com") == []


async def test_mails_go_to_resend_and_their_texts_are_forgotten(world) -> None:
    app = build_resend(ResendSettings(strict=True))
    platform = with_settings(world, httpx.ASGITransport(app), **KEY)
    await world.sign_up("ada@example.com")
    token = await world.token("ada@example.com")
    assert await post.deliver(platform) == {"sent": 1}
    assert await post.deliver(platform) == {}
    [row] = await world.mails("ada@example.com")
    assert (row.state, row.text, row.html, row.sent_at) == ("sent", "", None, world.clock.now())
    listed = (await platform.http.get("http://resend.test/emails", headers={"authorization": "Bearer re_x"})).json()
    assert [(m["to"], m["from"]) for m in listed["data"]] == [(["ada@example.com"], "WOPR <hello@wopr.bot>")]
    shown = await platform.http.get(
        f"http://resend.test/emails/{listed['data'][0]['id']}", headers={"authorization": "Bearer re_x"}
    )
    assert token in shown.json()["text"]
    assert token in shown.json()["html"]
    app.state.documents.close()
    await platform.http.aclose()


async def test_two_processes_send_each_mail_once(world) -> None:
    sent: list[str] = []

    async def accept(request: httpx.Request) -> httpx.Response:
        sent.append(request.headers["idempotency-key"])
        await asyncio.sleep(0)
        return httpx.Response(200, json={"id": "x"})

    for n in range(30):
        await put(world, f"k{n}", f"user{n}@example.com")
    async with httpx.AsyncClient(transport=httpx.MockTransport(accept)) as http:
        platform = dataclasses.replace(with_settings(world, **KEY), http=http)
        counts = await asyncio.gather(post.deliver(platform), post.deliver(platform))
    assert sum(count.get("sent", 0) for count in counts) == len(sent) == len(set(sent)) == 30


@pytest.mark.parametrize("status", [401, 403, 409, 429, 500, 503])
async def test_trouble_that_passes_is_tried_again_later_with_the_same_idempotency_key(world, status: int) -> None:
    keys: list[str] = []
    answers = iter([httpx.Response(status, text="not now"), httpx.Response(200, json={"id": "x"})])

    def answer(request: httpx.Request) -> httpx.Response:
        keys.append(request.headers["idempotency-key"])
        return next(answers)

    await put(world)
    async with httpx.AsyncClient(transport=httpx.MockTransport(answer)) as http:
        platform = dataclasses.replace(with_settings(world, **KEY), http=http)
        assert await post.deliver(platform) == {"retried": 1}
        assert (await state(world))[2] == f"Resend answered {status}: not now"
        assert await post.deliver(platform) == {}
        world.clock.advance(post.RETRY_SECONDS_FIRST)
        assert await post.deliver(platform) == {"sent": 1}
    assert keys[0] == keys[1]
    assert (await state(world))[:2] == ("sent", 2)


async def test_the_wait_that_resend_asks_for_is_kept(world) -> None:
    await put(world)
    answer = httpx.Response(429, headers={"retry-after": "120"})
    async with httpx.AsyncClient(transport=httpx.MockTransport(lambda _: answer)) as http:
        platform = dataclasses.replace(with_settings(world, **KEY), http=http)
        await post.deliver(platform)
        world.clock.advance(119)
        assert await post.deliver(platform) == {}
        world.clock.advance(1)
        assert await post.deliver(platform) == {"retried": 1}


async def test_waits_grow_and_end_in_a_visible_failure(world) -> None:
    def down(_request: httpx.Request) -> httpx.Response:
        raise httpx.ConnectError("nobody listens")

    await put(world)
    waits = []
    async with httpx.AsyncClient(transport=httpx.MockTransport(down)) as http:
        platform = dataclasses.replace(with_settings(world, **KEY), http=http)
        for _ in range(post.ATTEMPTS_MAX - 1):
            assert await post.deliver(platform) == {"retried": 1}
            [row] = await world.mails("ada@example.com")
            waits.append((row.next_attempt_at - world.clock.now()).total_seconds())
            world.clock.advance(waits[-1])
        assert await post.deliver(platform) == {"failed": 1}
    assert waits[:4] == [10, 20, 40, 80]
    assert (await state(world))[0] == "failed"
    assert "nobody listens" in str((await state(world))[2])


async def test_a_mail_that_resend_will_never_take_is_marked_at_once(world) -> None:
    await put(world)
    answer = httpx.Response(422, json={"name": "validation_error", "message": "bad address"})
    async with httpx.AsyncClient(transport=httpx.MockTransport(lambda _: answer)) as http:
        assert await post.deliver(dataclasses.replace(with_settings(world, **KEY), http=http)) == {"failed": 1}
    assert (await state(world))[0] == "failed"


async def test_a_crash_between_claim_and_mark_only_delays_the_mail(world) -> None:
    await put(world)

    async def dies(_platform: Platform, _mail: object) -> post.Attempt:
        raise RuntimeError("killed")

    platform = with_settings(world)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(post, "_send", dies)
        with pytest.raises(RuntimeError):
            await post.deliver(platform)
    assert await post.deliver(platform) == {}
    world.clock.advance(post.CLAIM_SECONDS)
    assert await post.deliver(platform) == {"kept": 1}


async def test_without_a_way_to_send_mails_are_kept_with_their_texts(world) -> None:
    await put(world)
    assert await post.deliver(world.platform) == {"kept": 1}
    [row] = await world.mails("ada@example.com")
    assert (row.state, row.text) == ("kept", "Plain words")
    assert "RESEND_API_KEY" in str(row.last_error)


@asynccontextmanager
async def smtp_server(reply_to_recipient: str = "250 ok") -> AsyncIterator[tuple[int, list[str], list[EmailMessage]]]:
    """A mail server on loopback that accepts, or answers RCPT as told; what it was told and what it took."""
    heard: list[str] = []
    taken: list[EmailMessage] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"220 test\r\n")
        while line := (await reader.readline()).decode().strip():
            heard.append(line)
            word = line.upper().split()[0]
            if word == "DATA":
                writer.write(b"354 go on\r\n")
                body = await reader.readuntil(b"\r\n.\r\n")
                taken.append(email.message_from_bytes(body, policy=email.policy.default))  # type: ignore[arg-type]
                writer.write(b"250 taken\r\n")
            elif word == "QUIT":
                writer.write(b"221 bye\r\n")
                break
            else:
                writer.write((reply_to_recipient if word == "RCPT" else "250 AUTH PLAIN").encode() + b"\r\n")
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    try:
        yield server.sockets[0].getsockname()[1], heard, taken
    finally:
        server.close()
        await server.wait_closed()


async def test_mails_go_by_smtp_with_both_forms_and_a_constant_id(world) -> None:
    await put(world)
    async with smtp_server() as (port, heard, taken):
        assert await post.deliver(with_settings(world, smtp_url=f"smtp://127.0.0.1:{port}")) == {"sent": 1}
    [message] = taken
    [row] = await world.mails("ada@example.com")
    assert (message["to"], message["subject"]) == ("ada@example.com", "Hello")
    assert message["message-id"] == f"<{row.id}@wopr.bot>"
    parts = [part.get_content().strip() for part in message.iter_parts()]
    assert parts == ["Plain words", "<p>Rich words</p>"]
    assert any(line.upper().startswith("MAIL FROM:<HELLO@WOPR.BOT>") for line in heard)


@pytest.mark.parametrize(("reply", "verdict"), [("550 no such mailbox", "failed"), ("451 try again", "retried")])
async def test_a_mail_server_decides_between_never_and_later(world, reply: str, verdict: str) -> None:
    await put(world)
    async with smtp_server(reply) as (port, _heard, _taken):
        assert await post.deliver(with_settings(world, smtp_url=f"smtp://127.0.0.1:{port}")) == {verdict: 1}
    assert reply[:3] in str((await state(world))[2])


async def test_a_mail_server_that_is_away_is_tried_again(world) -> None:
    async with smtp_server() as (port, _heard, _taken):
        pass
    await put(world)
    assert await post.deliver(with_settings(world, smtp_url=f"smtp://127.0.0.1:{port}")) == {"retried": 1}


async def test_the_table_of_loops_sends_mails_and_purges_what_has_run_out(world) -> None:
    await world.person("ada@example.com")
    await (await world.client()).post("/api/auth/reset-request", json={"email": "ada@example.com"})
    deliver, purge = loops(world.platform)
    assert (deliver.name, tuple(deliver.wake)) == ("deliver_mail", (mail.MAIL_CHANNEL,))
    assert await deliver.run() == {"kept": 2}
    assert await purge.run() == {"sessions": 0, "links": 0, "mails": 0, "limits": 0, "answers": 0}
    world.clock.advance(31 * 24 * 3600)
    counts = await purge.run()
    assert (counts["sessions"], counts["links"], counts["mails"]) == (1, 1, 2)
    assert counts["limits"] >= 3
    assert await world.scalar("SELECT count(*) FROM rate_limits") == 0
