"""The API as its contract spells it, in memory: what the UI's tests and its pictures are made against.

It forgives nothing that the real one refuses: no cookie is 401, another origin is 403, somebody else's bot is 404.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from typing import Any

from fake_data import (
    ADMIN_TENANTS,
    INBOX,
    LOOPS,
    MODELS,
    PRICES,
    SIZES,
    STATUS,
    TEMPLATES,
    Store,
    event_text,
    identity,
    nodes,
    receipt_line,
    silence,
)
from fastapi import APIRouter, FastAPI, Request
from fastapi.responses import JSONResponse, Response, StreamingResponse

Json = dict[str, Any]
accounts = APIRouter()
money = APIRouter()
fleet = APIRouter()
admin = APIRouter(prefix="/api/admin")


class Refused(Exception):
    def __init__(self, status: int, code: str, message: str, remedy: str = "") -> None:
        self.status, self.body = status, {"error": {"code": code, "message": message, "remedy": remedy}}


def build_fake_api(store: Store) -> FastAPI:
    app = FastAPI()
    app.state.store = store
    app.add_exception_handler(Refused, lambda _, error: JSONResponse(error.body, error.status))

    @app.middleware("http")
    async def guard(request: Request, call_next: Any) -> Any:
        store.seen.append((request.method, request.url.path, dict(request.headers)))
        open_paths = ("/api/auth/", "/api/status", "/health", "/api/billing/prices")
        opened = request.url.path.startswith(open_paths) and request.url.path != "/api/auth/session"
        if store.down:
            return JSONResponse({"error": {"code": "unavailable", "message": "Starting.", "remedy": "Wait."}}, 503)
        if not opened and request.cookies.get("wopr_session") != store.session:
            return refusal(401, "unauthenticated", "Sign in first.")
        if request.method not in ("GET", "HEAD") and request.headers.get("origin") != store.ui_origin:
            return refusal(403, "wrong_origin", "This origin may not send forms.")
        return await call_next(request)

    for router in (accounts, money, fleet, admin):
        app.include_router(router)
    return app


def refusal(status: int, code: str, message: str) -> JSONResponse:
    return JSONResponse({"error": {"code": code, "message": message, "remedy": ""}}, status)


def store_of(request: Request) -> Store:
    return request.app.state.store


def with_cookie(store: Store) -> JSONResponse:
    answer = JSONResponse(identity(store))
    answer.set_cookie("wopr_session", store.session, httponly=True, samesite="lax", max_age=86400)
    return answer


@accounts.post("/api/auth/sign-up")
async def sign_up(request: Request) -> Json:
    body = await request.json()
    if len(body["password"]) < 12:
        raise Refused(422, "weak_password", "The password is too short.", "Use 12 characters or more.")
    return {"status": "verification_sent"}


@accounts.post("/api/auth/resend-verification")
@accounts.post("/api/auth/reset-request")
async def accepted() -> Json:
    return {"status": "sent"}


@accounts.post("/api/auth/verify")
@accounts.post("/api/auth/one-time")
async def by_token(request: Request) -> JSONResponse:
    if (await request.json())["token"] != "good":
        raise Refused(422, "link_used", "This link was used or is too old.", "Ask for a new one.")
    return with_cookie(store_of(request))


@accounts.post("/api/auth/reset")
async def reset(request: Request) -> Response:
    if (await request.json())["token"] == "old":
        raise Refused(400, "bad_link", "This link was used already, has expired or is incomplete.", "Ask for another.")
    return Response(status_code=204)


@accounts.post("/api/auth/sign-in")
async def sign_in(request: Request) -> JSONResponse:
    body = await request.json()
    if body["password"] != "correct horse battery":
        raise Refused(401, "wrong_credentials", "Address or password is wrong.", "Try again, or reset the password.")
    return with_cookie(store_of(request))


@accounts.post("/api/auth/sign-out")
@accounts.post("/api/auth/sign-out-everywhere")
async def sign_out() -> Response:
    answer = Response(status_code=204)
    answer.delete_cookie("wopr_session")
    return answer


@accounts.get("/api/auth/session")
async def session(request: Request) -> Json:
    return identity(store_of(request))


@accounts.get("/api/account/sessions")
async def sessions(request: Request) -> Json:
    return {"sessions": store_of(request).sessions}


@accounts.delete("/api/account/sessions/{session_id}")
async def revoke_session(request: Request, session_id: str) -> Response:
    store = store_of(request)
    store.sessions = [one for one in store.sessions if one["id"] != session_id]
    return Response(status_code=204)


@accounts.patch("/api/account")
async def rename(request: Request) -> Json:
    store_of(request).name = (await request.json())["name"]
    return identity(store_of(request))


@accounts.post("/api/account/password")
async def password(request: Request) -> Response:
    if (await request.json())["current"] != "correct horse battery":
        raise Refused(403, "wrong_password", "The current password is wrong.", "Type the one you sign in with.")
    return Response(status_code=204)


@accounts.get("/api/keys")
async def keys(request: Request) -> Json:
    return {"keys": store_of(request).keys}


@accounts.post("/api/keys", status_code=201)
async def create_key(request: Request) -> Json:
    body = await request.json()
    if not body["name"]:
        raise Refused(422, "invalid", "A key needs a name.", "Name it after where it is used.")
    key = store_of(request).add_key(body["name"], body["scope"], body["expires_in_days"])
    return {"key": key, "secret": f"wopr_{body['scope']}_k3Jd82hQpXv7LmN4tYs9RbWc"}


@accounts.delete("/api/keys/{key_id}")
async def revoke_key(request: Request, key_id: str) -> Response:
    for key in store_of(request).keys:
        if key["id"] == key_id:
            key["revoked_at"] = datetime.now(UTC).isoformat()
    return Response(status_code=204)


@money.get("/api/billing")
async def billing(request: Request) -> Json:
    return store_of(request).billing()


@money.get("/api/billing/prices")
async def prices() -> Json:
    return PRICES


@money.get("/api/billing/transactions")
async def transactions(request: Request) -> Json:
    return {"transactions": store_of(request).transactions, "next_cursor": None}


@money.get("/api/billing/usage")
async def usage(request: Request) -> Json:
    return {"usage": store_of(request).usage(), "next_cursor": None}


@money.post("/api/billing/checkout")
@money.post("/api/billing/portal")
async def checkout(request: Request) -> Json:
    return {"url": f"{store_of(request).payment_origin}/c/pay/cs_1"}


@money.post("/api/billing/checkout/confirm")
async def confirm(request: Request) -> Json:
    if (await request.json())["session_id"] == "cs_gone":
        raise Refused(404, "not_found", "There is no such payment.", "Look at the transactions.")
    store_of(request).confirmed += 1
    state = "applied" if store_of(request).confirmed > 1 else "pending"
    return {"state": state, "balance": store_of(request).billing()["balance"]}


@money.get("/api/models")
async def models() -> Json:
    return {"models": MODELS, "voices": ["rms", "slt", "lessac"]}


@money.get("/api/status")
async def status() -> Json:
    return STATUS


def bot_of(request: Request, bot_id: str) -> Json:
    for bot in store_of(request).bots:
        if bot["id"] == bot_id:
            return bot
    raise Refused(404, "not_found", "There is no such bot.")


@fleet.get("/fleet/templates")
async def templates() -> Json:
    return {"templates": TEMPLATES}


@fleet.get("/fleet/bots")
async def bots(request: Request) -> Json:
    return {"bots": store_of(request).bots}


@fleet.post("/fleet/bots", status_code=201)
async def create_bot(request: Request) -> Json:
    body = await request.json()
    if not body.get("name"):
        raise Refused(422, "invalid", "A bot needs a name.", "Type one.")
    return store_of(request).add_bot(**body)


@fleet.get("/fleet/bots/{bot_id}")
async def bot(request: Request, bot_id: str) -> Json:
    return bot_of(request, bot_id)


@fleet.patch("/fleet/bots/{bot_id}")
async def update_bot(request: Request, bot_id: str) -> Json:
    found = bot_of(request, bot_id)
    found.update(await request.json())
    return found


@fleet.delete("/fleet/bots/{bot_id}", status_code=204)
async def delete_bot(request: Request, bot_id: str) -> Response:
    store_of(request).bots.remove(bot_of(request, bot_id))
    return Response(status_code=204)


@fleet.post("/fleet/bots/{bot_id}/{action}")
async def bot_action(request: Request, bot_id: str, action: str) -> Any:
    found = bot_of(request, bot_id)
    if action == "turns":
        return JSONResponse(store_of(request).start_turn(await request.json()), 202)
    if action == "transcriptions":
        return {"text": "what is the capital of france"}
    found["desired"] = "stopped" if action == "stop" else "running"
    found["state"] = {"stop": "stopped"}.get(action, "starting")
    return found


@fleet.get("/fleet/bots/{bot_id}/logs")
async def logs(request: Request, bot_id: str, follow: bool = False) -> Any:
    lines = store_of(request).logs
    if not follow:
        return {"lines": lines}

    async def stream() -> AsyncIterator[str]:
        for line in lines:
            yield event_text("line", line)
        for number in range(3):
            await asyncio.sleep(0.05)
            line = {"at": datetime.now(UTC).isoformat(), "stream": "stdout", "text": f"heartbeat {number}"}
            yield event_text("line", line)

    return StreamingResponse(stream(), media_type="text/event-stream")


@fleet.get("/fleet/bots/{bot_id}/turns/{turn_id}")
async def turn(request: Request, bot_id: str, turn_id: str) -> Json:
    return turn_of(request, turn_id).as_json()


def turn_of(request: Request, turn_id: str) -> Any:
    found = store_of(request).turns.get(turn_id)
    if found is None:
        raise Refused(404, "not_found", "There is no such turn.")
    return found


@fleet.get("/fleet/bots/{bot_id}/turns/{turn_id}/events")
async def turn_events(request: Request, bot_id: str, turn_id: str) -> StreamingResponse:
    found = turn_of(request, turn_id)
    after = int(request.headers.get("last-event-id") or 0)
    return StreamingResponse(found.stream(after), media_type="text/event-stream")


@fleet.post("/fleet/bots/{bot_id}/turns/{turn_id}/cancel", status_code=202)
async def cancel(request: Request, bot_id: str, turn_id: str) -> Json:
    turn = turn_of(request, turn_id)
    turn.state = "cancelled"
    turn.gate.set()
    return {}


@fleet.get("/fleet/bots/{bot_id}/turns/{turn_id}/audio")
async def audio() -> Response:
    return Response(silence(), media_type="audio/wav")


@fleet.get("/fleet/bots/{bot_id}/turns/{turn_id}/receipt")
async def receipt(turn_id: str) -> Json:
    lines = [receipt_line(turn_id), receipt_line(turn_id, "embedding")]
    return {"turn_id": turn_id, "total_usd": "0.000412", "lines": lines}


@fleet.get("/fleet/bots/{bot_id}/conversations")
async def conversations(request: Request, bot_id: str) -> Json:
    if store_of(request).silenced:
        raise Refused(*store_of(request).silenced, "The bot is stopped.", "See why.")
    answering = ("running", "starting") if store_of(request).early else ("running",)
    if bot_of(request, bot_id)["state"] not in answering:
        raise Refused(409, "not_running", "The bot is not running.", "Start it.")
    return {"conversations": store_of(request).conversations}


@fleet.get("/fleet/bots/{bot_id}/conversations/{conversation_id}/messages")
async def messages(request: Request, conversation_id: str) -> Json:
    return {"messages": store_of(request).messages.get(conversation_id, [])}


@fleet.delete("/fleet/bots/{bot_id}/conversations/{conversation_id}")
async def delete_conversation(request: Request, conversation_id: str) -> Response:
    store = store_of(request)
    store.conversations = [one for one in store.conversations if one["id"] != conversation_id]
    return Response(status_code=204)


@fleet.get("/fleet/bots/{bot_id}/usage")
async def bot_usage(request: Request, bot_id: str) -> Json:
    return {"usage": store_of(request).usage(), "total_usd": "0.04120", "next_cursor": None}


@admin.get("/tenants")
async def tenants() -> Json:
    return {"tenants": ADMIN_TENANTS, "next_cursor": None}


@admin.post("/tenants/{tenant_id}/credit")
async def credit(request: Request, tenant_id: str) -> Json:
    store_of(request).credits.append((tenant_id, await request.json()))
    return {}


@admin.post("/tenants/{tenant_id}/{action}", status_code=204)
async def suspend(request: Request, tenant_id: str, action: str) -> Response:
    store_of(request).credits.append((tenant_id, {"action": action}))
    return Response(status_code=204)


@admin.get("/bots")
async def admin_bots(request: Request) -> Json:
    return {"bots": [bot | {"tenant_id": "t1", "tenant_name": "Ada"} for bot in store_of(request).bots]}


@admin.get("/nodes")
async def admin_nodes() -> Json:
    return {"nodes": nodes()}


@admin.post("/nodes", status_code=201)
async def add_node(request: Request) -> Json:
    return await request.json()


@admin.post("/nodes/{node_id}/desired")
async def want_node(node_id: str, request: Request) -> Json:
    return {"id": node_id, **await request.json()}


@admin.post("/nodes/{node_id}/repair", status_code=202)
async def repair_node(node_id: str, request: Request) -> Response:
    if (await request.json())["rung"] == "replace" and node_id == "local":
        error = {"code": "conflict", "message": "local was registered by hand.", "remedy": "See to it yourself."}
        return JSONResponse({"error": error}, 409)
    return JSONResponse({"id": node_id}, 202)


@admin.get("/node-sizes")
async def node_sizes(request: Request) -> Json:
    if store_of(request).no_cloud:
        raise Refused(503, "not_configured", "Renting machines needs DO_API_TOKEN.", "Set DO_API_TOKEN.")
    return SIZES


@admin.post("/nodes/provision", status_code=202)
async def rent_nodes(request: Request) -> Json:
    body = await request.json()
    store_of(request).rented.append(body)
    if body["region"] == "mars":
        raise Refused(422, "invalid", "This size is not to be had in mars.", "It is in: tor1.")
    return {"nodes": []}


@admin.get("/nodes/{node_id}")
async def one_node(node_id: str) -> Json:
    for node in nodes():
        if node["id"] == node_id:
            return {"log": [], **node}
    raise Refused(404, "not_found", "There is no such node.")


@admin.get("/nodes/{node_id}/logs")
async def node_logs(request: Request, node_id: str, source: str, lines: int) -> Json:
    await one_node(node_id)
    if store_of(request).gated:
        await store_of(request).told.wait()
    if node_id == "gpu-fra-2":
        raise Refused(502, "ssh_failed", "root@10.0.4.18 can't be reached.", "Try: ssh -p 22 root@10.0.4.18 true")
    words = "said <nothing> of interest, at a length that no phone has: https://models.example.com/" + "long/" * 30
    return {"node": node_id, "source": source, "lines": [f"line {one} of {source} {words}" for one in range(lines)]}


@admin.post("/nodes/{node_id}/{verb}", status_code=202)
async def change_node(request: Request, node_id: str, verb: str) -> Json:
    store_of(request).rented.append({verb: node_id})
    return {"action_id": "7"} if verb == "reboot" else {"log": [], **(await one_node(node_id))}


@admin.delete("/nodes/{node_id}", status_code=204)
async def remove_node(node_id: str) -> Response:
    return Response(status_code=204)


@admin.get("/inbox")
async def inbox(state: str = "") -> Json:
    return {"events": [event for event in INBOX if state in ("", event["state"])], "next_cursor": None}


@admin.post("/inbox/{event_id}/retry")
async def retry(event_id: str) -> Json:
    return {}


@admin.get("/loops")
async def loops() -> Json:
    return {"loops": LOOPS}


@admin.get("/ledger")
async def ledger() -> Json:
    return {"ok": True, "problems": []}
