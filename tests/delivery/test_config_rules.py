"""The runbook's gotchas, planted into compose files and Caddyfiles: each is named with its remedy; ours have none."""

from pathlib import Path

import pytest

from wopr.delivery.config_checks import checks
from wopr.delivery.hosts import LocalHost
from wopr.delivery.place import Place
from wopr.ops.checks import Finding, Verdict, run_checks

PROJECT = Path(__file__).parents[2]
LOGIN = "REGISTRY_USERNAME=robot\nREGISTRY_PASSWORD=a-token-of-the-registry\n"
SOUND = """
services:
  llama-cpp:
    image: ghcr.io/ggml-org/llama.cpp:server-cuda
    command: ["--model", "/models/llama.gguf", "--flash-attn", "${FLASH:-off}", "--port", "8080"]
  chatterbox:
    image: ${CHATTERBOX_IMAGE:-travisvn/chatterbox-tts-api:gpu}
    environment: {DEVICE: cuda}
  platform-api:
    image: ghcr.io/wopr-network/wopr-platform:3f2a1c9
    environment: [WOPR_HOME=/var/lib/wopr, "METER_DB_PATH=/data/meter.sqlite"]
"""
CADDYFILE = (
    "# the proxy\n{\n\tadmin off\n}\n(slots) {\n\tlb_policy first\n}\n%s {\n\treverse_proxy api:3100 {\n\t}\n}\n"
)
COMPLAINTS = (Verdict.FAILED, Verdict.WARNING)


async def found(folder: Path) -> dict[str, Finding]:
    outcomes = await run_checks(checks(LocalHost(), Place(str(folder))))
    return {outcome.name: outcome.finding for outcome in outcomes}


async def planted(folder: Path, compose: str = SOUND, env: str = LOGIN, sites: str = "http://localhost") -> set[str]:
    """The names of the checks that complain of these files, each of which must name a remedy."""
    (folder / "docker-compose.yml").write_text(compose)
    (folder / "Caddyfile").write_text(CADDYFILE % sites)
    (folder / ".env").write_text(env)
    wrong = {name: one for name, one in (await found(folder)).items() if one.verdict in COMPLAINTS}
    assert all(one.remedy and one.evidence for one in wrong.values())
    return set(wrong)


async def test_sound_files_raise_no_alarm(tmp_path: Path) -> None:
    assert await planted(tmp_path) == set()


@pytest.mark.parametrize(
    ("old", "new", "check"),
    [
        ("ggml-org/llama.cpp", "ggerganov/llama.cpp", "config.images"),
        ("chatterbox-tts-api:gpu", "chatterbox-tts-api:v1.0.1", "config.images"),
        (":server-cuda", ":server", "config.images"),
        ('"--flash-attn", "${FLASH:-off}"', '"--flash-attn"', "config.flash-attn"),
        ('"--flash-attn", "${FLASH:-off}"', '"--flash-attn=maybe"', "config.flash-attn"),
        ('"8080"]', '"8080", "-fa"]', "config.flash-attn"),
        ("wopr-platform:3f2a1c9", "wopr-platform:latest", "config.tags"),
        ("wopr-platform:3f2a1c9", "wopr-platform", "config.tags"),
        ("/data/meter.sqlite", "./data/meter.sqlite", "config.paths"),
        ("services:", "services: [", "config.readable"),
        ("services:", "parts:", "config.readable"),
    ],
)
async def test_a_fault_in_a_compose_file_is_named(tmp_path: Path, old: str, new: str, check: str) -> None:
    assert old in SOUND
    assert check in await planted(tmp_path, compose=SOUND.replace(old, new))


async def test_the_variables_of_env_count_as_compose_counts_them(tmp_path: Path) -> None:
    assert await planted(tmp_path, env=f"{LOGIN}FLASH=--port\n") == {"config.flash-attn"}
    cpu = "CHATTERBOX_IMAGE=travisvn/chatterbox-tts-api:cpu\n"
    assert await planted(tmp_path, env=LOGIN + cpu) == {"config.images"}
    # Who says that there is no GPU means the image without one.
    assert await planted(tmp_path, SOUND.replace("DEVICE: cuda", "DEVICE: cpu"), LOGIN + cpu) == set()


@pytest.mark.parametrize("env", ["", "REGISTRY_USERNAME=robot\n"])
async def test_a_private_image_without_a_login_is_named(tmp_path: Path, env: str) -> None:
    assert await planted(tmp_path, env=env) == {"config.login"}


async def test_an_image_that_was_built_here_wants_no_login(tmp_path: Path) -> None:
    assert await planted(tmp_path, SOUND.replace("3f2a1c9", "local"), env="") == set()


@pytest.mark.parametrize("site", ["localhost", "api.localhost", "127.0.0.1", "wopr.example, app.localhost"])
async def test_a_bare_local_site_is_named(tmp_path: Path, site: str) -> None:
    assert await planted(tmp_path, sites=site) == {"config.sites"}


@pytest.mark.parametrize("site", ["http://localhost", "localhost:8443", ":80", "wopr.example", "*.wopr.example"])
async def test_other_sites_are_fine(tmp_path: Path, site: str) -> None:
    assert await planted(tmp_path, sites=site) == set()


async def test_what_we_ship_has_none_of_the_faults(tmp_path: Path) -> None:
    for name in ("compose.yaml", "Caddyfile", "docker-compose.local.yml", "Caddyfile.local"):
        (tmp_path / name).write_text((PROJECT / "deploy" / name).read_text())
    values = "WOPR_DOMAIN=localhost\nWOPR_SCHEME=http://\nWOPR_BLUE_IMAGE=ghcr.io/wopr-network/wopr-platform:1\n"
    (tmp_path / ".env").write_text(LOGIN + values)
    assert {name: one for name, one in (await found(tmp_path)).items() if one.verdict is not Verdict.OK} == {}


async def test_an_empty_folder_has_nothing_to_check(tmp_path: Path) -> None:
    assert {one.verdict for one in (await found(tmp_path)).values()} == {Verdict.SKIPPED}
