"""Releases that turn bad while they are observed: each goes back by itself, and only its own answers were wrong."""

import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest
from tests.live import wait_for
from tests.machines.customers import KINDS, customers
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
NOBODY = "503 "  # Caddy's, which waited in vain for a slot that is ready: it has no body
# What turns bad, in which of the slot's containers, and by which words it is judged.
BAD = {
    "errors of the API": ("api", "/api/auth/* /v1/*", "requests ended with 5xx"),
    "errors of pages": ("ui", "/sign-in /account", "requests ended with 5xx"),
    "readiness": ("api", "/ready", "api-"),
    "what a customer could ask": ("api", "/api/status", "no right answer from the API"),
}


@pytest.fixture(scope="module")
def site(engine: Engine, platform_image: str, third_party_images: object) -> Iterator[Installation]:
    with installed(engine, platform_image) as made:
        yield made


def test_releases_that_turn_bad_go_back_by_themselves(site: Installation) -> None:
    escaped = WRONG.replace("\\", "\\\\").replace("\n", "\\n").replace('"', '\\"').replace("%", "%%")
    compiled = f"$(dirname {SERVING})/__pycache__/serving.*"  # what is compiled counts, whatever the source says
    troubled = site.derive(f'USER 0\nRUN printf "{escaped}" >> {SERVING} && rm {compiled}\nUSER 10001:10001')
    with customers(site) as come:
        for kind in BAD:
            with come() as crowd:
                wait_for(lambda crowd=crowd: all(crowd.answered[one] for one in KINDS), "customers of every kind", 60)
                goes_back(site, kind, site.derive(base=troubled))
            others = [one for one in crowd.every_wrong() if ON_PURPOSE not in one and not one.endswith(NOBODY)]
            assert others == [], kind
            assert crowd.misdone() == [], kind


def goes_back(site: Installation, kind: str, image: str) -> None:
    role, wrong, words = BAD[kind]
    serving = site.state()["active"]["release"]
    with ThreadPoolExecutor(1) as pool:
        deploying = pool.submit(site.deploy, image, "--observe", "120")
        wait_for(lambda: deploying.done() or site.state()["active"]["release"] > serving, "it to serve", 180)
        name = f"{site.name}-{role}-{site.state()['active']['slot']}"
        site.engine.docker("exec", name, "sh", "-c", f"echo '{wrong}' >/tmp/bad")
        done = deploying.result()
    assert done.returncode == 1, (kind, done.stdout, done.stderr)
    verdict = json.loads(done.stdout)
    assert (verdict["verdict"], verdict["serving"]) == ("bad", serving), kind
    assert words in verdict["reason"], (kind, verdict["reason"])
    assert site.state()["active"]["release"] == serving, kind
    whole(site)
    assert site.deploy(image).returncode == 3, f"{kind}: it is quarantined"
    assert [one.facts["release"] for one in open_incidents(Journal(site.folder))][-1] == verdict["release"], kind
