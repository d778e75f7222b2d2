"""The world behind the fake API: one customer with bots, money, a conversation and a history."""

from __future__ import annotations

import asyncio
import io
import json
import random
import uuid
import wave
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

Json = dict[str, Any]
ANSWER = (
    "Yes. Here is a **week of dinners** for two that stays under *$40*:\n\n"
    "1. **Monday:** lentil soup with lemon and cumin\n2. **Tuesday:** frittata with leeks and potato\n"
    "3. **Wednesday:** rice with black beans, lime and coriander\n\n"
    "The list for the market, in the order of the stalls:\n\n"
    "```text\nleeks 3 · potatoes 1 kg · lemons 4\nlentils 500 g · black beans 2 tins · eggs 10\n```\n\n"
    "| Day | Cooking | Cost |\n| --- | --- | ---: |\n| Monday | 35 min | $4.10 |\n| Tuesday | 25 min | $5.30 |\n\n"
    "You said last week that Thursdays are busy, so I left that evening free. Shall I plan it, too?"
)
TEMPLATES: list[Json] = [
    {
        "id": "companion",
        "name": "Companion",
        "summary": "Remembers what you say and picks it up again.",
        "persona": "A warm, attentive companion who remembers what matters to you.",
        "instructions": "Ask one question at a time. Keep answers short unless asked for more.",
        "model": "handbook",
        "voice": "slt",
    },
    {
        "id": "assistant",
        "name": "Assistant",
        "summary": "Plans, drafts, summarises. To the point.",
        "persona": "A precise assistant.",
        "instructions": "Answer first, then explain. Use lists for steps.",
        "model": "handbook",
        "voice": "rms",
    },
    {
        "id": "support",
        "name": "Support desk",
        "summary": "Answers customers from what you tell it.",
        "persona": "A patient support agent.",
        "instructions": "Say so when you don't know, and offer to pass the question on.",
        "model": "handbook",
        "voice": "slt",
    },
    {
        "id": "blank",
        "name": "Blank",
        "summary": "Nothing but what you write.",
        "persona": "",
        "instructions": "",
        "model": "handbook",
        "voice": "rms",
    },
]
MODELS: list[Json] = [
    {"id": "handbook", "kind": "chat", "available": True},
    {"id": "qwen2.5-1.5b-instruct", "kind": "chat", "available": True},
    {"id": "minilm", "kind": "embedding", "available": True},
    {"id": "flite", "kind": "speech", "available": True},
]
PRICES: Json = {
    "plan": {"name": "WOPR", "price_usd": "5", "credit_usd": "5"},
    "topups_cents": [500, 1000, 2500, 5000, 10000],
    "bots": [
        {"size": "small", "month_usd": "1.5"},
        {"size": "standard", "month_usd": "3"},
        {"size": "large", "month_usd": "6"},
    ],
    "models": [
        {"name": "handbook", "kind": "chat", "prompt_per_million_usd": "0.1", "completion_per_million_usd": "0.4"},
        {"name": "minilm", "kind": "embedding", "prompt_per_million_usd": "0.02"},
        {"name": "flite", "kind": "speech", "per_million_characters_usd": "5"},
        {"name": "whisper-1", "kind": "transcription", "per_minute_usd": "0.006"},
        {"name": "*chat", "kind": "chat", "prompt_per_million_usd": "0.2", "completion_per_million_usd": "0.8"},
    ],
}
STATUS: Json = {
    "status": "ok",
    "version": "0.1.0",
    "services": [
        {"name": "api", "status": "ok", "detail": None},
        {"name": "database", "status": "ok", "detail": None},
        {"name": "text", "status": "ok", "detail": "1 machine"},
        {"name": "speech", "status": "ok", "detail": "1 machine"},
        {"name": "transcription", "status": "degraded", "detail": "slow answers"},
        {"name": "embeddings", "status": "ok", "detail": "1 machine"},
    ],
}


def at(days: float = 0, minutes: float = 0) -> str:
    return (datetime.now(UTC) + timedelta(days=days, minutes=minutes)).isoformat()


ADMIN_TENANTS: list[Json] = [
    {
        "id": f"t{n}",
        "name": name,
        "owner_email": f"{name.lower()}@example.com",
        "created_at": at(-n * 11),
        "suspended": n == 3,
        "available_usd": amount,
    }
    for n, (name, amount) in enumerate([("Ada", "4.18"), ("Grace", "23.90"), ("Edsger", "0.61"), ("Barbara", "0")])
]
INBOX: list[Json] = [
    {
        "id": f"evt_{n}Qx7",
        "type": kind,
        "state": state,
        "attempts": attempts,
        "last_error": error,
        "received_at": at(minutes=-n * 47),
        "applied_at": at(minutes=-n * 47) if state == "applied" else None,
    }
    for n, (kind, state, attempts, error) in enumerate(
        [
            ("checkout.session.completed", "applied", 1, None),
            ("invoice.paid", "pending", 0, None),
            ("payment_intent.created", "applied", 0, None),
            ("checkout.session.completed", "unmatched", 4, "No customer has the reference of this session."),
            ("charge.refunded", "failed", 6, "The charge is not known to the ledger."),
        ]
    )
]
LOOPS: list[Json] = [
    {
        "name": name,
        "why": why,
        "period_seconds": period,
        "last_started_at": at(minutes=-ago),
        "last_finished_at": at(minutes=-ago + 0.01),
        "last_counts": counts,
        "last_error": error,
        "holder": "api-1:4127",
    }
    for name, why, period, ago, counts, error in [
        ("reconcile_bots", "Brings every bot to what is wanted of it.", 10, 0.1, {"looked_at": 4, "started": 0}, None),
        ("watch_nodes", "Probes the services of every machine.", 5, 0.05, {"probed": 4, "failed": 0}, None),
        ("apply_payments", "Turns payment events into credit.", 5, 0.08, {"applied": 0}, None),
        ("deliver_mail", "Sends the mails of the outbox.", 5, 0.09, {}, "The mail company answered 503."),
        ("check_ledger", "Proves that the sums of the ledger agree.", 600, 7, {"accounts": 14, "problems": 0}, None),
    ]
]


def nodes() -> list[Json]:
    healthy = {"llama": True, "chatterbox": True, "whisper": True, "qwen": True}
    common = {"region": "local", "size": "cpu", "provision_stage": "done", "ports": {"llama": 8080, "qwen": 8083}}
    return [
        common
        | {"id": "local", "host": "127.0.0.1", "status": "active", "service_health": healthy}
        | {"last_health_at": at(minutes=-0.05), "monthly_cost_usd": "0"},
        common
        | {"id": "gpu-fra-1", "host": "10.0.4.17", "region": "fra1", "status": "degraded"}
        | {"service_health": healthy | {"whisper": False}, "last_health_at": at(minutes=-3), "monthly_cost_usd": "184"}
        | {"repair": "restarting whisper"},
        common
        | {"id": "gpu-fra-2", "host": "10.0.4.18", "status": "active", "service_health": healthy, "desired": "drained"}
        | {"last_health_at": at(minutes=-0.05), "monthly_cost_usd": "184", "rented": True, "running": 3},
        rented_node("gpu-tor1-3f9a2c", "downloading_models"),
        rented_node("gpu-tor1-77c0de", "failed"),
    ]


def rented_node(node_id: str, stage: str) -> Json:
    """A node whose machine is rented, on its way or stranded."""
    failed = stage == "failed"
    reached = ["creating", "waiting_active", "waiting_agent", "installing_drivers", "installing_docker"]
    log = [{"stage": name, "at": at(minutes=index - 9), "detail": ""} for index, name in enumerate(reached)]
    words = "curl: (28) Operation timed out\nhttps://models.example.com/llama.gguf is not what it should be"
    return {
        "id": node_id,
        "host": "10.118.0.5",
        "region": "tor1",
        "size": "gpu-4000adax1-20gb",
        "status": "failed" if failed else "provisioning",
        "provision_stage": stage,
        "provision_error": words if failed else None,
        "service_health": {"llama": False, "chatterbox": False, "whisper": False, "qwen": False},
        "ports": {"llama": 8080, "qwen": 8083},
        "monthly_cost_usd": "565.44",
        "hourly_cost_usd": "0.76",
        "cost_so_far_usd": "0.114",
        "rented": True,
        "desired": "serving",
        "machine_id": "480000007",
        "stage_at": at(minutes=-2),
        "log": [
            *log,
            {"stage": stage, "at": at(minutes=-2), "detail": f"downloading_models: {words}" if failed else ""},
        ],
    }


SIZES: Json = {
    "default_size": "gpu-4000adax1-20gb",
    "default_region": "tor1",
    "sizes": [
        {
            "slug": slug,
            "gpu": gpu,
            "vcpus": vcpus,
            "memory_mib": gib * 1024,
            "hourly_usd": hourly,
            "monthly_usd": monthly,
            "regions": regions,
        }
        for slug, gpu, vcpus, gib, hourly, monthly, regions in (
            ("s-4vcpu-8gb", None, 4, 8, "0.07143", "48.00", ["fra1", "tor1"]),
            ("gpu-4000adax1-20gb", "1 × nvidia_rtx4000_ada", 8, 32, "0.76", "565.44", ["tor1"]),
            ("gpu-h100x1-80gb", "1 × nvidia_h100", 20, 240, "3.39", "2522.16", ["nyc2", "tor1"]),
        )
    ],
}


def receipt_line(turn_id: str, kind: str = "chat") -> Json:
    chat = kind == "chat"
    return {
        "request_id": f"0198c2f4-7a11-7b{'20' if chat else '21'}-9c0e-5f6a1d2b3c4d",
        "kind": kind,
        "model": "handbook" if chat else "minilm",
        "node_id": "local",
        "turn_id": turn_id,
        "prompt_tokens": 412 if chat else 38,
        "completion_tokens": 186 if chat else 0,
        "units": 0,
        "cost_usd": "0.000408" if chat else "0.000004",
        "status": "ok",
        "started_at": at(minutes=-2),
        "duration_ms": 1840 if chat else 12,
        "first_token_ms": 96 if chat else None,
    }


def identity(store: Store) -> Json:
    user = {"id": "u1", "email": "ada@example.com", "name": store.name, "email_verified": store.verified}
    tenant = {"id": "t1", "name": "Ada", "role": "owner", "suspended": store.suspended}
    session = {"id": "s1", "created_at": at(-1), "expires_at": at(29)}
    return {"user": user | {"platform_admin": store.admin}, "tenant": tenant, "session": session}


def event_text(name: str, data: Json, number: int | None = None) -> str:
    head = f"id: {number}\n" if number is not None else ""
    return f"{head}event: {name}\ndata: {json.dumps(data)}\n\n"


def silence(seconds: float = 0.2) -> bytes:
    buffer = io.BytesIO()
    with wave.open(buffer, "wb") as out:
        out.setnchannels(1)
        out.setsampwidth(2)
        out.setframerate(16000)
        out.writeframes(b"\0\0" * int(16000 * seconds))
    return buffer.getvalue()


@dataclass
class FakeTurn:
    """A turn whose events exist from the start; `gate` holds the rest back until a test lets it go."""

    turn_id: str
    conversation_id: str
    user_text: str
    answer: str = ANSWER
    state: str = "running"
    created_at: str = field(default_factory=at)
    gate: asyncio.Event = field(default_factory=asyncio.Event)
    cut_after: int | None = None
    restart_after: int | None = None  # an answer that broke off there and was another one then

    def events(self) -> list[tuple[str, Json]]:
        pieces = [self.answer[start : start + 24] for start in range(0, len(self.answer), 24)]
        ids = {"turn_id": self.turn_id, "conversation_id": self.conversation_id, "user_text": self.user_text}
        usage = {"prompt_tokens": 412, "completion_tokens": 186}
        done = {"text": self.answer, "finish_reason": "stop", "usage": usage, "request_ids": ["r1"], "has_audio": False}
        said: list[tuple[str, Json]] = [("delta", {"text": piece}) for piece in pieces]
        if self.restart_after is not None:
            other = [("delta", {"text": "Something else. "})] * self.restart_after
            said = [*other, ("restarted", {}), *said]
        return [("started", ids), *said, ("completed", done)]

    async def stream(self, after: int) -> AsyncIterator[str]:
        for number, (name, data) in enumerate(self.events(), 1):
            if number <= after:
                continue
            if number > 6:
                await self.gate.wait()
            if self.state == "cancelled":
                yield event_text("cancelled", {}, number)
                return
            if name == "completed":
                self.state = "completed"
            yield event_text(name, data, number)
            if self.cut_after == number:
                self.cut_after = None
                return

    def as_json(self) -> Json:
        text = self.answer if self.state == "completed" else self.answer[:120]
        return {
            "turn_id": self.turn_id,
            "conversation_id": self.conversation_id,
            "state": self.state,
            "user_text": self.user_text,
            "text": text,
            "error": None,
            "request_ids": ["r1"],
            "usage": {"prompt_tokens": 412, "completion_tokens": 186},
            "created_at": self.created_at,
            "finished_at": None,
        }


def bot_json(**given: Any) -> Json:
    shape = {
        "id": str(uuid.uuid4()),
        "template": "companion",
        "persona": TEMPLATES[0]["persona"],
        "instructions": TEMPLATES[0]["instructions"],
        "model": "handbook",
        "voice": "slt",
        "size": "standard",
        "desired": "running",
        "state": "running",
        "reason": None,
        "restarts": 0,
        "last_error": None,
        "created_at": at(-12),
        "updated_at": at(-1),
        "started_at": at(-1),
        "price_month_usd": "3",
    }
    return shape | given


@dataclass
class Store:
    """Everything that changes."""

    ui_origin: str = "http://testserver"
    payment_origin: str = "http://127.0.0.1:4101"
    session: str = "session-of-ada"
    name: str = "Ada"
    admin: bool = True
    verified: bool = True
    down: bool = False
    suspended: bool = False
    silenced: tuple[int, str] | None = None  # status and code of what bots answer
    early: bool = False  # a bot answers before its state says that it runs
    gated: bool = False
    confirmed: int = 0
    answer: str = ANSWER
    available_usd: str = "4.18203"
    lasts_days: float | None = 24.6
    entitlement: Json = field(default_factory=lambda: {"state": "active"})
    plan: Json = field(default_factory=lambda: {"status": "active", "price_usd": "5", "renews_at": at(18)})
    seen: list[tuple[str, str, dict[str, str]]] = field(default_factory=list)
    credits: list[tuple[str, Json]] = field(default_factory=list)
    rented: list[Json] = field(default_factory=list)
    no_cloud: bool = False
    told: asyncio.Event = field(default_factory=asyncio.Event)  # while `gated`, machines keep their logs until then
    bots: list[Json] = field(default_factory=list)
    keys: list[Json] = field(default_factory=list)
    sessions: list[Json] = field(default_factory=list)
    transactions: list[Json] = field(default_factory=list)
    logs: list[Json] = field(default_factory=list)
    turns: dict[str, FakeTurn] = field(default_factory=dict)
    conversations: list[Json] = field(default_factory=list)
    messages: dict[str, list[Json]] = field(default_factory=dict)

    def billing(self) -> Json:
        chance = random.Random(5)
        spend = [
            {
                "date": (datetime.now(UTC).date() - timedelta(days=29 - day)).isoformat(),
                "inference_usd": f"{chance.random() * 0.11:.4f}" if day > 6 else "0",
                "runtime_usd": "0.1000" if day > 17 else "0.0333" if day > 6 else "0",
            }
            for day in range(30)
        ]
        return {
            "balance": {
                "available_usd": self.available_usd,
                "held_usd": "0.01" if self.available_usd != "0" else "0",
                "debt_usd": "0",
            },
            "lasts_days": self.lasts_days if self.available_usd != "0" else 0,
            "plan": self.plan,
            "entitlement": self.entitlement,
            "spend": spend if self.bots else [],
            "spend_30d_usd": "3.42",
        }

    def usage(self) -> list[Json]:
        lines = []
        for number in range(6 if self.bots else 0):
            turn = f"turn-{number}"
            lines += [receipt_line(turn), receipt_line(turn, "embedding")]
        return lines

    def add_bot(self, **given: Any) -> Json:
        bot = bot_json(**given)
        self.bots.insert(0, bot)
        return bot

    def add_key(self, name: str, scope: str, days: int | None) -> Json:
        key = {
            "id": str(uuid.uuid4()),
            "name": name,
            "scope": scope,
            "prefix": f"wopr_{scope}_k3Jd",
            "created_at": at(),
            "expires_at": at(days) if days else None,
            "last_used_at": None,
            "revoked_at": None,
            "spend_30d_usd": "0.00",
            "spend_usd": "0.00",
        }
        self.keys.insert(0, key)
        return key

    def start_turn(self, body: Json) -> Json:
        turn_id = body.get("turn_id") or str(uuid.uuid4())
        conversation = body.get("conversation_id") or f"c{len(self.conversations) + 1}"
        if turn_id not in self.turns:
            turn = FakeTurn(turn_id, conversation, body.get("text", ""), self.answer)
            if not self.gated:
                turn.gate.set()
            self.turns[turn_id] = turn
            self.messages.setdefault(conversation, []).append(message(turn_id, "user", turn.user_text))
            self.messages[conversation].append(message(turn_id, "assistant", turn.answer)) if not self.gated else None
            if conversation not in [one["id"] for one in self.conversations]:
                self.conversations.insert(0, conversation_json(conversation, turn.user_text))
        return {"turn_id": turn_id, "conversation_id": conversation, "state": "running"}


def message(turn_id: str, role: str, text: str, minutes: float = 0) -> Json:
    ids = {"id": str(uuid.uuid4()), "turn_id": turn_id, "role": role}
    return ids | {"text": text, "created_at": at(minutes=minutes), "has_audio": False}


def conversation_json(conversation_id: str, title: str, days: float = 0) -> Json:
    return {"id": conversation_id, "title": title, "created_at": at(days), "updated_at": at(days), "messages": 4}


def full_store() -> Store:
    """A customer in the middle of using the product."""
    store = Store()
    store.bots = [
        bot_json(name="Marvin", started_at=at(-3)),
        bot_json(name="Kitchen", template="assistant", persona="Plans meals and shopping.", state="starting"),
        bot_json(name="Front desk", template="support", persona="Answers guests.", state="stopped", desired="stopped"),
        bot_json(name="Scribe", persona="Takes notes.", state="failed", last_error="The process ended 5 times."),
    ]
    store.keys = [store.add_key("Laptop", "write", 90), store.add_key("Dashboard at work", "read", None)]
    store.keys[0]["last_used_at"] = at(minutes=-4)
    store.keys[0] |= {"spend_30d_usd": "0.1342", "spend_usd": "12.503127"}
    chrome = "Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 Chrome/126.0 Safari/537.36"
    iphone = "Mozilla/5.0 (iPhone; CPU iPhone OS 17_5 like Mac OS X) Version/17.5 Safari/604.1"
    store.sessions = [
        {
            "id": "s1",
            "created_at": at(-1),
            "last_used_at": at(),
            "ip": "203.0.113.9",
            "user_agent": chrome,
            "current": True,
        },
        {"id": "s2", "created_at": at(-9), "last_used_at": at(-2), "ip": "2001:db8::1", "user_agent": iphone},
    ]
    movements = [
        ("usage", "Talking on 22 Nov", "-0.0873"),
        ("runtime", "Marvin, running for 24 h", "-0.1000"),
        ("topup", "Top-up", "10"),
        ("subscription", "Plan, November", "5"),
    ]
    store.transactions = [
        {"id": str(n), "created_at": at(-n), "kind": kind, "description": words, "amount_usd": amount}
        for n, (kind, words, amount) in enumerate(movements, 1)
    ]
    lines = [
        ("stdout", "bot ready in 0.41 s, memory 31 MB"),
        ("stdout", "conversation opened title=Dinner plans"),
        ("stderr", "gateway answered 429, trying again in 1 s"),
        ("stdout", "turn completed tokens=598 seconds=1.84"),
        ("stdout", "recall found 3 of 41 memories"),
    ]
    store.logs = [
        {"at": at(minutes=number - 60), "stream": lines[number % 5][0], "text": lines[number % 5][1]}
        for number in range(40)
    ]
    store.conversations = [
        conversation_json("c1", "Dinner plans for the week"),
        conversation_json("c0", "The move", -6),
    ]
    store.messages["c1"] = [
        message("t0", "user", "We are two, and Thursdays are busy. Remember that.", -9000),
        message("t0", "assistant", "Noted: **two people**, and Thursdays are busy.", -9000),
        message("t1", "user", "Can you plan dinners for this week? Not too expensive.", -2),
        message("t1", "assistant", ANSWER, -2),
    ]
    return store
