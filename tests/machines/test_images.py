"""Our images: built through the command line, run with the restrictions that they run with in production."""

from tests.live import wait_for
from tests.machines.engine import Engine

# What bots and the platform get in production: nothing is prepared at the start, nothing outside is writable.
RESTRICTED = (
    *("--read-only", "--tmpfs", "/tmp:rw,noexec,nosuid,size=64m"),
    *("--cap-drop", "ALL", "--security-opt", "no-new-privileges", "--pids-limit", "256"),
)


def test_a_bot_runs_with_nothing_but_its_data_folder(engine: Engine, bot_image: str) -> None:
    environment = {
        "WOPR_BOT_TOKEN": "t" * 32,
        "WOPR_GATEWAY_URL": "http://127.0.0.1:9/v1",
        "WOPR_SERVICE_KEY": "k" * 32,
        "WOPR_BOT_MODEL": "handbook",
    }
    variables = [part for name, value in environment.items() for part in ("--env", f"{name}={value}")]
    options = (*RESTRICTED, *variables, "--memory", "128m", "--volume", f"{engine.volume('wopr-test-bot')}:/data")
    bot = engine.run(bot_image, options=options)
    try:
        wait_for(lambda: engine.docker("exec", bot, "wopr-probe", "/health", check=False).returncode == 0, "health")
        asked = engine.docker("exec", bot, "wopr-probe", check=False)
        assert asked.returncode == 1
        assert "gateway" in asked.stdout  # it says why it is not ready
        assert engine.docker("exec", bot, "id", "-u").stdout.strip() == "10001"
        assert "Read-only file system" in engine.docker("exec", bot, "touch", "/opt/x", check=False).stderr
        first = engine.docker("exec", bot, "cat", "/proc/1/comm").stdout.strip()
        assert first == "tini"
        engine.docker("stop", "--time", "10", bot)
        assert engine.state(bot, ".State.ExitCode") == "0"
    finally:
        engine.remove(bot)
