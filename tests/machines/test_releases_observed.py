"""Releases that turn bad while they are observed: each goes back by itself, and only its own answers were wrong."""

import json
import re
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest
from tests.live import wait_for
from tests.machines.customers import KINDS, STREAM, Customers, customers
from tests.machines.engine import Engine
from tests.machines.installation import Installation, installed
from tests.machines.test_releases import whole

from wopr.ops.incidents import open_incidents
from wopr.ops.journal import Journal

ON_PURPOSE = "wrong on purpose"
# Wraps what `wopr api` and `wopr ui` serve: the paths in /tmp/bad, or what begins with one that ends with a star, are
# answered with 500, and /ready with 503.
WRONG = f'''
_serve = serve
def serve(name, application, *rest):
    from pathlib import Path
    async def troubled(scope, receive, send):
        bad = Path("/tmp/bad")
        wrong = bad.read_text().split() if bad.exists() else ()
        path = scope.get("path", "")
        if path not in wrong and not any(word[-1] == "*" and path.startswith(word[:-1]) for word in wrong):
            return await application(scope, receive, send)
        while (await receive()).get("more_body"):  # an answer before the end of what is asked cuts the connection
            pass
        status = 503 if path == "/ready" else 500
        await send({{"type": "http.response.start", "status": status, "headers": [(b"content-type", b"text/plain")]}})
        await send({{"type": "http.response.body", "body": b"{ON_PURPOSE}"}})
    _serve(name, troubled, *rest)
'''
SERVING = "/opt/wopr/app/wopr/cli/serving.py"
# Wrong answers that are no lost request: the bad release's, what Caddy says when it waited in vain for a slot that is
# ready, and what the API says of a model or a database that is late, as on a machine that does too much at once.
# A stream of the release before is cut when that is called back out of its drain, or all others would meet the bad one.
TOLD = re.compile(rf"{ON_PURPOSE}| s: 503 | s: 502 \{{\"error\"|^{STREAM}, .*: cut: ")
# What turns bad, in which of the slot's containers, and by which words it is judged.
BAD = {  # pages ask the API for none of these
    "errors of the API": ("api", "/api/admin/* /v1/*", "requests ended with 5xx"),
    "errors of pages": ("ui", "/sign-in /account", "requests ended with 5xx"),
    "readiness": ("api", "/ready", ON_PURPOSE),
    "what a customer could ask": ("api", "/api/status", "no right answer from the API"),
}


@pytest.fixture(scope="module")
def site(engine: Engine, platform_image: str, third_party_images: object) -> Iterator[Installation]:
    with installed(engine, platform_image) as made:
        yield made


@pytest.fixture(scope="module")
def come(site: Installation) -> Iterator[Callable[[], Customers]]:
    with customers(site) as made:
        yield made


@pytest.fixture(scope="module")
def troubled(site: Installation) -> str:
    """An image that answers wrongly once it is told to."""
    escaped = WRONG.replace("\\", "\\\\").replace("\n", "\\n").replace('"', '\\"').replace("%", "%%")
    compiled = f"$(dirname {SERVING})/__pycache__/serving.*"  # what is compiled counts, whatever the source says
    return site.derive(f'USER 0\nRUN printf "{escaped}" >> {SERVING} && rm {compiled}\nUSER 10001:10001')


@pytest.mark.parametrize("kind", BAD)
def test_a_release_that_turns_bad_goes_back_by_itself(
    site: Installation, come: Callable[[], Customers], troubled: str, kind: str
) -> None:
    site.settle()
    crowd = come()
    crowd.pace = 4.0  # what is shown is who answers, not how much can be answered
    with crowd:
        wait_for(lambda: all(crowd.answered[one] for one in KINDS), "customers of every kind", 60)
        goes_back(site, kind, site.derive(base=troubled))
    assert [one for one in crowd.every_wrong() if not TOLD.search(one)] == []
    assert crowd.misdone() == []


def goes_back(site: Installation, kind: str, image: str) -> None:
    role, wrong, words = BAD[kind]
    serving = site.state()["active"]["release"]
    with ThreadPoolExecutor(1) as pool:
        deploying = pool.submit(site.deploy, image, "--observe", "120")
        wait_for(lambda: deploying.done() or site.state()["active"]["release"] > serving, "it to serve", 180)
        name = f"{site.name}-{role}-{site.state()['active']['slot']}"
        site.engine.docker("exec", name, "sh", "-c", f"echo '{wrong}' >/tmp/bad")
        done = deploying.result()
    assert done.returncode == 1, done.stdout + done.stderr
    verdict = json.loads(done.stdout)
    assert (verdict["verdict"], verdict["serving"]) == ("bad", serving)
    assert words in verdict["reason"]
    assert site.state()["active"]["release"] == serving
    whole(site)
    assert site.deploy(image).returncode == 3, "it is quarantined"
    assert [one.facts["release"] for one in open_incidents(Journal(site.folder))][-1] == verdict["release"]
