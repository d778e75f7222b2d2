"""What of the runbook's commands is done otherwise here, and why. Everything that is not named runs as it stands.

The words in braces are those of one run: `Shell.values`.
"""

from dataclasses import dataclass

PAGE = "runbook.md"
# Headings whose commands are executed; what stands elsewhere in the page are tables and lists without commands.
SECTIONS = ("Rollback Procedure", "Local Development")


@dataclass(frozen=True)
class Substitution:
    """A part of commands that is replaced."""

    what: str
    by: str
    why: str


FREE_PORT = "a fixed port may be taken on the machine of the tests"
SUBSTITUTIONS = (
    Substitution(
        "git clone https://github.com/wopr-network/wopr-ops.git",
        "cp -r {checkout}/deploy",
        "there is no network; what the runbook calls wopr-ops is the folder deploy/ of this repository",
    ),
    Substitution(
        "/path/to/",
        "{home}/",
        "a placeholder; the Dockerfile there stands on the image of this checkout, since a build can fetch no packages",
    ),
    Substitution("<token>", "{password}", "a placeholder"),
    Substitution("<github-username>", "{username}", "a placeholder"),
    Substitution(
        "docker login ghcr.io", "docker login {registry}", "there is no network; a real registry stands for it"
    ),
    Substitution("localhost:3100", "localhost:{api}", FREE_PORT),
    Substitution("127.0.0.1:3100", "127.0.0.1:{api}", FREE_PORT),
    Substitution("localhost:8080", "localhost:{llama}", FREE_PORT),
    Substitution("localhost:8081", "localhost:{chatterbox}", FREE_PORT),
    Substitution("localhost:8082", "localhost:{whisper}", FREE_PORT),
    Substitution("localhost:8083", "localhost:{qwen}", FREE_PORT),
    Substitution("http://127.0.0.1/", "http://127.0.0.1:{http}/", FREE_PORT),
    Substitution("curl -I http://localhost", "curl -I http://localhost:{http}", FREE_PORT),
    Substitution(
        "https://api.wopr.bot/health",
        "http://api.localhost:{http}/health",
        "the VPS here has no public name and no certificate",
    ),
    Substitution(
        "cd /root/wopr-platform",
        "docker exec wopr-vps ls -d /root/wopr-platform",
        "nobody is signed in to the VPS over SSH here",
    ),
    Substitution(
        "docker compose up -d --force-recreate",
        "docker exec wopr-vps wopr rollback",
        "releases are digests that the tool records and pins: nobody edits a compose file (decision 0016)",
    ),
)
# Commands that go on until they are stopped, and what they must have shown by then.
FOLLOWED = {
    "docker logs -f wopr-vps": "==> VPS stack started.",
    "docker exec wopr-vps docker logs -f wopr-vps-watchtower": "new: ",
    "docker compose -f docker-compose.local.yml logs -f platform-api": "listens on",
}
NOT_EXECUTED = {
    "docker-compose.yml": "the name of a file in which the next step pins tags; see the substitution of that one",
    "127.0.0.1 api.localhost app.localhost": "a line for the host's /etc/hosts, which no test edits; curl asks for the"
    " same names by its Host header in that section",
}
# Commands that the runbook names within its sentences, of the sections that are executed.
IN_PROSE_NOT_EXECUTED = {
    "nvidia-smi": "no machine of the tests has a GPU",
    "docker run --rm --gpus all nvidia/cuda:12.0-base nvidia-smi": "no machine of the tests has a GPU",
    "docker exec wopr-vps docker login ghcr.io -u <user> -p <token>": "there is no way to that registry; the machines"
    " sign in to the one of the tests by vps/.env",
}
