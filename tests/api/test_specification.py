"""schemathesis over the OpenAPI document of the running platform: whatever is sent, no answer is a 5xx."""

from collections.abc import Iterator
from typing import Any

import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from schemathesis.generation import GenerationMode
from tests.live import Person, as_administrator, sign_up
from tests.stack import Stack

pytestmark = pytest.mark.slow

EXAMPLES = 15
ANSWER_SECONDS = 60
# These end the session with which everything else is tried; the matrix tries them.
ENDS_THE_SESSION = {"auth_sign_out", "auth_sign_out_everywhere"}
# These would take away the bot on which the others are tried.
TAKES_THE_BOT_AWAY = {"bots_delete", "bots_stop", "bots_restart", "bots_update", "conversations_delete"}


@pytest.fixture(scope="module")
def payer(live: Stack) -> Iterator[Person]:
    """A customer with credit whose objects may be broken."""
    with sign_up(live, "Fuzz") as person:
        person.pay()
        yield person
        for bot in person.get("/fleet/bots")["bots"]:
            person.http.delete(f"/fleet/bots/{bot['id']}")


@pytest.fixture(scope="module")
def real(payer: Person) -> dict[str, str]:
    """Objects that exist, which random ids never hit."""
    bot = payer.make_bot()
    turn = payer.ask(bot, "Hello")
    return {"bot_id": bot, "turn_id": turn["turn_id"], "conversation_id": turn["conversation_id"]}


@pytest.fixture(scope="module")
def operator(live: Stack) -> Iterator[Person]:
    """An administrator; the machines that they register by chance are taken out again."""
    with as_administrator(live) as person:
        before = {node["id"] for node in person.get("/api/admin/nodes")["nodes"]}
        yield person
        for node in person.get("/api/admin/nodes")["nodes"]:
            if node["id"] not in before:
                person.http.delete(f"/api/admin/nodes/{node['id']}")


def test_nothing_that_is_sent_makes_the_platform_fail(
    live: Stack, payer: Person, operator: Person, real: dict[str, str]
) -> None:
    schema = schemathesis.openapi.from_url(f"{live.api}/openapi.json")
    schema.config.generation.update(with_security_parameters=False)  # else most tries are those of nobody
    failures: list[str] = []
    tried = 0
    for found in schema.get_all_operations():
        operation: Any = found.ok()
        name = operation.definition.raw["operationId"]
        if name in ENDS_THE_SESSION:
            continue
        caller = operator if operation.path.startswith("/api/admin") else payer
        tried += 1
        try:
            _try(operation, caller, {} if name in TAKES_THE_BOT_AWAY else real)
        except AssertionError as failure:
            failures.append(f"{name}: {failure}")
    assert tried > 50
    assert not failures, "\n".join(failures)


def _try(operation: Any, caller: Person, real: dict[str, str]) -> None:  # Any: schemathesis names its own type
    cookie = {"wopr_session": caller.http.cookies["wopr_session"]}

    @settings(
        max_examples=EXAMPLES,
        deadline=None,
        database=None,
        derandomize=True,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(data=st.data())
    def attempt(data: st.DataObject) -> None:
        mode = data.draw(st.sampled_from([GenerationMode.POSITIVE, GenerationMode.NEGATIVE]))
        try:
            case = data.draw(operation.as_strategy(generation_mode=mode))
        except schemathesis.errors.SchemathesisError:
            return  # nothing of this kind can be made for it, such as a wrong request without parameters
        for parameter in case.path_parameters or {}:
            if parameter in real and data.draw(st.booleans()):
                case.path_parameters[parameter] = real[parameter]
        if case.query:
            case.query.pop("follow", None)  # a log that is followed never ends
        answer = case.call(
            base_url=caller.stack.api,
            cookies=cookie,
            headers={"origin": caller.stack.ui},
            timeout=ANSWER_SECONDS,
        )
        if answer.status_code == 503 and answer.json()["error"]["code"] == "not_configured":
            return  # this platform has no cloud to rent machines from, and says so
        if answer.status_code == 502 and answer.json()["error"]["code"] == "ssh_failed":
            return  # the nodes that are registered by chance are no machines
        assert answer.status_code < 500, f"{answer.status_code} {case.as_curl_command()} {answer.text[:200]}"

    attempt()
