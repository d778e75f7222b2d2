"""Rules about the code itself: size budgets, who reads the environment, and documentation that matches the settings."""

import ast
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from wopr.core.settings import Settings

ROOT = Path(__file__).parent.parent
SOURCE = ROOT / "src" / "wopr"
FILES = sorted(SOURCE.rglob("*.py"))

FUNCTION_LINES_MAX = 50
FILE_LINES_MAX = 400
PARAMETERS_MAX = 5

# Path or path:function, and why it may be larger.
EXCEPTIONS: dict[str, str] = {
    "cli/up.py:up": "Typer reads a command's options from its parameters",
    "accounts/mail.py:queue": "the parts of a mail, of which a dataclass would only repeat the names at every caller",
}
READS_ENVIRONMENT = {
    "core/settings.py": "the one reader",
    "core/environment.py": "the variables as they are, for the journal",
    "cli/terminal.py": "NO_COLOR and TERM, which belong to the terminal",
    "cli/up.py": "hands its own environment on to the children",
    "cli/processes.py": "hands its own environment on to the children",
    "fleet/runtimes/node_agent.py": "a program of its own, run in a container on each machine of a Swarm",
}


def relative(path: Path) -> str:
    return path.relative_to(SOURCE).as_posix()


def functions(tree: ast.AST) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef]:
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield node


@pytest.mark.parametrize("path", FILES, ids=relative)
def test_a_file_and_its_functions_keep_their_budgets(path: Path) -> None:
    name, text = relative(path), path.read_text(encoding="utf-8")
    over = []
    lines = text.count("\n")
    if lines > FILE_LINES_MAX and name not in EXCEPTIONS:
        over.append(f"{name}: {lines} lines")
    for function in functions(ast.parse(text)):
        key = f"{name}:{function.name}"
        length = (function.end_lineno or function.lineno) - function.lineno + 1
        arguments = function.args
        every = [*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs]
        counted = [a for a in every if a.arg not in ("self", "cls")]
        is_command = "/cli/" in f"/{name}"
        if key in EXCEPTIONS:
            continue
        if length > FUNCTION_LINES_MAX and not name.startswith("migrations/versions/"):  # a list of statements
            over.append(f"{key}: {length} lines")
        if len(counted) > PARAMETERS_MAX and not is_command:
            over.append(f"{key}: {len(counted)} parameters")
    assert not over, "split by meaning, or name it with a reason in EXCEPTIONS"


def test_every_exception_is_still_needed() -> None:
    for name in EXCEPTIONS:
        assert (SOURCE / name.partition(":")[0]).exists(), f"{name} is gone: remove its exception"


@pytest.mark.parametrize("path", FILES, ids=relative)
def test_a_file_says_why_it_exists(path: Path) -> None:
    assert ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))), f"{relative(path)} has no docstring"


def test_only_the_settings_read_the_environment() -> None:
    readers = set()
    for path in FILES:
        name = relative(path)
        if name.startswith("bot/"):
            continue  # a separate program with an environment of its own
        if re.search(r"\bos\.(environ|getenv)\b", path.read_text(encoding="utf-8")):
            readers.add(name)
    assert readers <= set(READS_ENVIRONMENT)


def test_every_setting_is_documented_with_its_description() -> None:
    text = (ROOT / "docs" / "settings.md").read_text(encoding="utf-8")
    for name, field in Settings.model_fields.items():
        assert f"`{name.upper()}`" in text, f"docs/settings.md lacks {name.upper()}"
        assert field.description, f"{name} has no description"
        assert field.description in text, f"docs/settings.md describes {name.upper()} otherwise than core/settings.py"


def test_no_setting_is_documented_that_does_not_exist() -> None:
    text = (ROOT / "docs" / "settings.md").read_text(encoding="utf-8")
    documented = set(re.findall(r"^\| `([A-Z_]+)` \|", text, re.MULTILINE))
    assert documented <= {name.upper() for name in Settings.model_fields}


def test_no_tracked_file_names_a_path_of_a_developers_machine() -> None:
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=False)
    if listed.returncode != 0:
        pytest.skip("not a git checkout")
    pattern = re.compile(r"(?<![\w.])/(?:work|farm)/[a-z]")
    guilty = []
    for name in listed.stdout.splitlines():
        path = ROOT / name
        if not path.is_file() or path.suffix in (".png", ".gguf", ".wav"):
            continue
        if pattern.search(path.read_text(encoding="utf-8", errors="ignore")) and name != "tests/test_architecture.py":
            guilty.append(name)
    assert not guilty
