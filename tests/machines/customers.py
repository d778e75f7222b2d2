"""What customers do while releases come and go, all of it through Caddy: pages, reads, writes, answers that stream.

Each answer is looked at, not only its status, and each write can be found again afterwards: done once, and not lost.
"""

import json
import secrets
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from urllib.parse import parse_qs, urlsplit

import httpx
from tests.live import wait_for
from tests.machines import slow_model
from tests.machines.installation import Installation
from tests.machines.slow_model import SlowModel

EMAIL = "ada@example.com"
PAGES, API = "localhost", "api.localhost"
GRANT_USD = "0.01"
GRANT_NANO = 10_000_000
STREAM, STREAMERS = "stream", 4
AGAIN_SECONDS = 0.2
SETTLED_SECONDS = 60.0


@dataclass(frozen=True)
class Account:
    """Somebody with credit, a session and a key; an administrator."""

    email: str
    tenant: str
    key: str
    cookie: str
    origin: str


@dataclass
class Written:
    """Each write of all customers by its mark: whether it was answered well. Another one may have been done, or not."""

    chats: dict[str, bool] = field(default_factory=dict)
    grants: dict[str, bool] = field(default_factory=dict)


@dataclass
class Customers:
    """Requests of every kind, on kept and on new connections, one after the other in each thread.

    `answered` counts those that were right, by kind; `failures` holds for each kind what went wrong.
    """

    site: Installation
    account: Account
    model: SlowModel
    written: Written
    pace: float = 1.0
    answered: Counter[str] = field(default_factory=Counter)
    failures: dict[str, list[str]] = field(default_factory=dict)
    slowest_seconds: dict[str, float] = field(default_factory=dict)
    _stop: threading.Event = field(default_factory=threading.Event)
    _threads: list[threading.Thread] = field(default_factory=list)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def __enter__(self) -> "Customers":
        jobs = [(kind, kept) for kind in KINDS for kept in (True, False)]
        jobs += [(STREAM, False)] * (STREAMERS - 2)
        self._threads = [threading.Thread(target=self._go_on, args=job, daemon=True) for job in jobs]
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_error: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join(90)

    def wrong(self) -> list[str]:
        """What went wrong, some of each kind; nothing when nothing did."""
        return [f"{kind}, {len(found)} times: {said}" for kind, found in self.failures.items() for said in found[:3]]

    def every_wrong(self) -> list[str]:
        """All that went wrong."""
        return [f"{kind}: {said}" for kind, found in self.failures.items() for said in found]

    def failed(self, kind: str) -> int:
        """How many requests of a kind went wrong."""
        return sum(len(found) for name, found in self.failures.items() if name.partition(",")[0] == kind)

    def misdone(self) -> list[str]:
        """Writes that were done twice, and those that were answered and not done. Asked once nobody writes any more."""
        found = [f"{mark}: the model was asked {times} times" for mark, times in self._asked().items() if times > 1]
        lost = [mark for mark, well in self.written.chats.items() if well and not self.model.asked[mark]]
        kept = self._granted()
        found += [f"{mark}: granted {times} times" for mark, times in kept.items() if times > 1]
        lost += [mark for mark, well in self.written.grants.items() if well and not kept[mark]]
        return found + [f"{mark}: answered, but not done" for mark in lost]

    def unpaid(self) -> str:
        """Whether each answer of the model is in the books, once; nothing when it is, else the difference."""
        sure = sum(self.written.chats.values())
        likely = len([mark for mark in self.written.chats if self.model.asked[mark]])
        sql = "SELECT count(*) FROM usage_records WHERE kind = 'chat' AND model = 'handbook'"
        until = time.monotonic() + SETTLED_SECONDS
        while not sure <= (booked := int(self.site.psql(sql))) <= likely:
            if time.monotonic() > until:
                return f"{booked} answers are in the books, of {sure} to {likely}"
            time.sleep(0.5)
        return ""

    def _asked(self) -> Mapping[str, int]:
        return {mark: self.model.asked[mark] for mark in self.written.chats}

    def _granted(self) -> Counter[str]:
        rows = self.site.psql(f"SELECT description FROM ledger_transfers WHERE amount = {GRANT_NANO}").splitlines()
        return Counter(rows)

    def _go_on(self, kind: str, kept: bool) -> None:
        does, pause = KINDS[kind]
        headers = {} if kept else {"connection": "close"}
        base = f"http://127.0.0.1:{self.site.port}"
        with httpx.Client(base_url=base, timeout=60, trust_env=False, verify=False, headers=headers) as http:
            while not self._stop.is_set():
                began = time.monotonic()
                try:
                    said = does(self, http)
                except httpx.HTTPError as error:
                    said = f"{type(error).__name__}: {error}"
                self._note(f"{kind}, {'kept' if kept else 'new'} connection", kind, said, time.monotonic() - began)
                self._stop.wait(pause * self.pace if not said else AGAIN_SECONDS)

    def _note(self, name: str, kind: str, said: str, seconds: float) -> None:
        with self._lock:
            self.slowest_seconds[kind] = max(seconds, self.slowest_seconds.get(kind, 0.0))
            if said:
                self.failures.setdefault(name, []).append(f"{time.time():.3f} after {seconds:.2f} s: {said}")
            else:
                self.answered[kind] += 1

    def start_page(self, http: httpx.Client) -> str:
        answer = http.get("/", headers={"host": PAGES})
        return _right(answer, 200, "A bot that is really yours.", "$5 a month", "</html>")

    def sign_in_page(self, http: httpx.Client) -> str:
        return _right(http.get("/sign-in", headers={"host": PAGES}), 200, 'name="password"', "</html>")

    def own_page(self, http: httpx.Client) -> str:
        """A page for which the UI asks the API several things."""
        answer = http.get("/account", headers={"host": PAGES, "cookie": self.account.cookie})
        return _right(answer, 200, self.account.email, "</html>")

    def read(self, http: httpx.Client) -> str:
        answer = http.get("/api/auth/session", headers={"host": API, "authorization": f"Bearer {self.account.key}"})
        return _right(answer, 200, self.account.tenant)

    def grant(self, http: httpx.Client) -> str:
        """A write to the database, in which money moves."""
        mark, account = f"mark {secrets.token_hex(8)}", self.account
        self.written.grants[mark] = False
        headers = {"host": API, "origin": account.origin, "cookie": account.cookie}
        body = {"amount_usd": GRANT_USD, "reason": mark}
        answer = http.post(f"/api/admin/tenants/{account.tenant}/credit", json=body, headers=headers)
        said = _right(answer, 200, '"transfer_id"')
        self.written.grants[mark] = not said
        return said

    def chat(self, http: httpx.Client) -> str:
        """A question that the model answers at once, with the question."""
        mark = f"mark {secrets.token_hex(8)}"
        self.written.chats[mark] = False
        answer = http.post("/v1/chat/completions", json=_question(mark), headers=self._with_key())
        said = _right(answer, 200, mark, '"finish_reason"')
        self.written.chats[mark] = not said
        return said

    def stream(self, http: httpx.Client) -> str:
        """A question that is answered piece by piece; nothing when all of them came."""
        mark = f"mark {secrets.token_hex(8)}"
        self.written.chats[mark] = False
        body = {**_question(mark), "stream": True}
        with http.stream("POST", "/v1/chat/completions", json=body, headers=self._with_key()) as answer:
            text = answer.read().decode()
        if answer.status_code != 200:
            return f"{answer.status_code} {text[:200]}"
        if text.count('"content"') != self.model.pieces or not text.rstrip().endswith("[DONE]"):
            return f"cut: …{text[-300:]}"
        self.written.chats[mark] = True
        return ""

    def _with_key(self) -> dict[str, str]:
        return {"host": API, "authorization": f"Bearer {self.account.key}"}


# What is done, and after how many seconds once more. The gateway lets an account ask ten times a second.
KINDS: Mapping[str, tuple[Callable[[Customers, httpx.Client], str], float]] = {
    "health": (lambda _, http: _right(http.get("/health", headers={"host": API}), 200, '{"status":"ok"}'), 0.02),
    "start page": (Customers.start_page, 0.1),
    "sign-in page": (Customers.sign_in_page, 0.1),
    "own page": (Customers.own_page, 0.2),
    "read": (Customers.read, 0.05),
    "grant": (Customers.grant, 0.1),
    "chat": (Customers.chat, 0.3),
    STREAM: (Customers.stream, 0.0),
}


@contextmanager
def customers(site: Installation) -> Iterator[Callable[[], Customers]]:
    """Makes customers, one after the other, whose questions are answered by a slow model behind the platform."""
    network = json.loads(site.engine.docker("network", "inspect", f"{site.name}-platform").stdout)[0]
    with slow_model.running(network["IPAM"]["Config"][0]["Gateway"]) as model:
        account, written = _account(site, model), Written()
        trial = Customers(site, account, model, written)
        with httpx.Client(base_url=f"http://127.0.0.1:{site.port}", timeout=60, trust_env=False) as http:
            wait_for(lambda: trial.chat(http) == "", "the model to be reached through the gateway", 60)
        yield lambda: Customers(site, account, model, written)


def _question(words: str) -> dict[str, object]:
    return {"model": "handbook", "messages": [{"role": "user", "content": words}]}


def _right(answer: httpx.Response, status: int, *words: str) -> str:
    """What is wrong with an answer; nothing when it is the one that was wanted."""
    text = answer.text
    if answer.status_code != status:
        return f"{answer.status_code} {text[:200]}"
    return next((f"without {word!r}: {text[:200]}" for word in words if word not in text), "")


def _account(site: Installation, model: SlowModel) -> Account:
    """The administrator, with credit and the model behind the platform."""
    slot = site.state()["active"]["slot"]
    inside = ("exec", f"{site.name}-api-{slot}", "wopr", "admin")
    site.engine.docker(*inside, "create", EMAIL)
    link = json.loads(site.engine.docker(*inside, "link", EMAIL, "--json").stdout)["link"]
    token = parse_qs(urlsplit(link).query)["token"][0]
    env = dict(line.partition("=")[::2] for line in (site.folder / ".env").read_text().splitlines())
    headers = {"host": API, "origin": env["UI_URL"]}
    with httpx.Client(base_url=f"http://127.0.0.1:{site.port}", headers=headers, timeout=60, trust_env=False) as http:
        who = http.post("/api/auth/one-time", json={"token": token}).raise_for_status()
        cookie = who.headers["set-cookie"].partition(";")[0]
        http.headers["cookie"] = cookie
        tenant = who.json()["tenant"]["id"]
        credit = {"amount_usd": "50", "reason": "to talk"}
        http.post(f"/api/admin/tenants/{tenant}/credit", json=credit).raise_for_status()
        node = {"id": "slow", "host": model.host, "region": "here", "size": "small", "ports": {"llama": model.port}}
        http.post("/api/admin/nodes", json=node).raise_for_status()
        made = http.post("/api/keys", json={"name": "a program", "scope": "write", "expires_in_days": None})
        key = str(made.raise_for_status().json()["secret"])
    return Account(EMAIL, tenant, key, cookie, env["UI_URL"])
