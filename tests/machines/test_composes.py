"""Both composes: an installation made with 1.29 goes on when the operator has v2, and loses nothing by that."""

import dataclasses
from collections.abc import Iterator, Mapping
from typing import Any

import pytest
from tests.machines.engine import Engine
from tests.machines.installation import Installation, Load, fresh
from tests.machines.test_releases import SLOTS, whole

MADE_BY = "com.docker.compose.version"


@pytest.fixture(scope="module")
def old(engine: Engine, platform_image: str, third_party_images: object) -> Iterator[Installation]:
    """What a release with compose 1.29 made."""
    made = dataclasses.replace(fresh(engine, platform_image), old_compose=True)
    try:
        made.release(platform_image, *made.chosen("DRAIN_SECONDS=5", "LOG_LEVEL=warning", "BOT_RUNTIME=process"))
        yield made
    finally:
        made.remove()


def made_by(containers: Mapping[str, dict[str, Any]]) -> dict[str, str]:
    """Each service's compose, by its first number."""
    return {name: one["Config"]["Labels"][MADE_BY].partition(".")[0] for name, one in containers.items()}


def test_an_installation_of_compose_1_is_taken_over_by_v2_and_given_back(old: Installation) -> None:
    before, volumes, networks = old.containers(), old.left("volume"), old.left("network")
    assert set(made_by(before).values()) == {"1"}
    whole(old)
    old.psql("CREATE TABLE precious AS SELECT 42 AS answer")

    new = dataclasses.replace(old, old_compose=False)
    with Load(new) as load:
        new.release(new.derive())
    assert (load.failures, load.answered > 50) == ([], True)
    whole(new)
    after = new.containers()
    slot = new.state()["active"]["slot"]
    assert {made_by(after)[name] for name in SLOTS if name.endswith(slot)} == {"2"}
    for name in ("postgres", "caddy"):
        assert after[name]["Id"] == before[name]["Id"], "what is unchanged goes on"

    # v2 compares what 1.29 made by a hash of its own: PostgreSQL and Caddy are made anew, on what they had.
    new.set_env("LOG_LEVEL", "error")
    new.release()
    whole(new)
    assert {made_by(new.containers())[name] for name in ("postgres", "caddy")} == {"2"}
    assert new.psql("SELECT answer FROM precious") == "42"
    assert (new.left("volume"), new.left("network")) == (volumes, networks)
    assert set(new.containers()) <= {"postgres", "caddy", *SLOTS}

    # Another host's deployer may still have 1.29.
    old.set_env("LOG_LEVEL", "warning")
    old.release()
    whole(old)
    assert made_by(old.containers())["postgres"] == "1"
    assert old.psql("SELECT answer FROM precious") == "42"
    done = new.wopr("teardown", "--yes", "--json")
    assert done.returncode == 0, done.stderr
    assert (new.left("container"), new.left("volume"), new.left("network")) == ([], volumes, [])
