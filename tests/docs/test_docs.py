"""What the documents say is so: commands exist, links lead somewhere, prices are those charged, snippets compile."""

import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from typer.core import TyperCommand, TyperGroup

from wopr.billing.prices import load_prices
from wopr.core.settings import Settings
from wopr.inference.engines.pages import read_handbook

ROOT = Path(__file__).parent.parent.parent
HANDBOOK = ROOT / "docs" / "handbook"
DOCUMENTS = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]
SPOKEN = [ROOT / "README.md", *sorted(HANDBOOK.glob("*.md")), ROOT / ".env.example"]
COMMAND = re.compile(r"\bwopr((?: +[a-z][a-z-]+)+)")
OPTION = re.compile(r"(?<!\S)(--[a-z][a-z-]*)")


def name(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def code_of(path: Path) -> Iterator[str]:
    """Every line of code in a document: fenced blocks, and what stands in backquotes."""
    text = path.read_text(encoding="utf-8")
    for block in re.findall(r"^```(?:sh|text)\n(.*?)^```", text, re.M | re.S):
        yield from block.splitlines()
    yield from re.findall(r"`([^`\n]+)`", re.sub(r"^```.*?^```", "", text, flags=re.M | re.S))


def commands_of(path: Path) -> list[str]:
    """The calls of `wopr` in a document: lines that begin with it, perhaps after a prompt or a path."""
    calls = [re.match(r"(?:\$ |(?:\S*/)?)(wopr [a-z].*)", line.strip()) for line in code_of(path)]
    return [call.group(1) for call in calls if call is not None]


@pytest.fixture(scope="module")
def tree() -> TyperGroup:
    from wopr.cli.root import build

    return build()


def find(tree: TyperGroup, call: str) -> TyperCommand | TyperGroup:
    """The command that a call names; AssertionError when a word is none."""
    command: TyperCommand | TyperGroup = tree
    words = COMMAND.match(call)
    assert words is not None
    for word in words.group(1).split():
        if isinstance(command, TyperCommand):
            break  # what follows are arguments
        assert word in command.commands, f"there is no `{word}` in: {call}"
        found = command.commands[word]
        assert isinstance(found, TyperCommand | TyperGroup)
        command = found
    return command


@pytest.mark.parametrize("path", SPOKEN, ids=name)
def test_every_command_that_is_mentioned_exists_with_its_options(path: Path, tree: TyperGroup) -> None:
    for call in commands_of(path):
        command = find(tree, call)
        known = {option for parameter in command.params for option in parameter.opts} | {"--help"}
        unknown = set(OPTION.findall(call.partition("#")[0])) - known
        assert not unknown, f"`{call}` has no {', '.join(sorted(unknown))}"


def test_the_handbooks_mention_every_group_of_commands(tree: TyperGroup) -> None:
    mentioned = {call.split()[1] for path in SPOKEN for call in commands_of(path)}
    assert set(tree.commands) <= mentioned


@pytest.mark.parametrize("path", DOCUMENTS, ids=name)
def test_every_link_within_the_repository_leads_somewhere(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        if re.match(r"[a-z]+:", target):
            continue
        file, _, anchor = target.partition("#")
        there = (path.parent / file).resolve() if file else path
        assert there.exists(), f"{name(path)} links to {target}"
        if anchor:
            assert anchor in anchors(there), f"{name(path)} links to {target}"


def anchors(path: Path) -> set[str]:
    """The headings of a document as GitHub names them in addresses."""
    headings = re.findall(r"^#+ (.+)$", path.read_text(encoding="utf-8"), re.M)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("path", SPOKEN, ids=name)
def test_every_python_snippet_compiles(path: Path) -> None:
    for number, snippet in enumerate(
        re.findall(r"^```python\n(.*?)^```", path.read_text(encoding="utf-8"), re.M | re.S)
    ):
        compile(snippet, f"{name(path)}:{number}", "exec")


def dollars(text: str) -> set[str]:
    return {f"{float(amount):g}" for amount in re.findall(r"\$([0-9]+(?:\.[0-9]+)?)", text)}


def usd(nanos: int) -> str:
    return f"{nanos / 1e9:g}"


def test_the_customers_handbook_names_the_prices_that_are_charged() -> None:
    text = (HANDBOOK / "customer.md").read_text(encoding="utf-8")
    sheet = load_prices()
    for size, price in sheet.bots.items():
        assert re.search(rf"\| {size} \| \${re.escape(f'{price.month / 1e9:.2f}')} \|", text), size
    for cents in sheet.topups_cents:
        assert f"${cents // 100}" in text
    assert f"${usd(sheet.plan.price)} a month" in text


def test_the_customers_handbook_names_the_price_of_every_model() -> None:
    rows = (HANDBOOK / "customer.md").read_text(encoding="utf-8").splitlines()
    for model, price in load_prices().models.items():
        if model.startswith("*"):
            continue  # what a model without an entry costs depends on what the operator offers
        row = next(row for row in rows if row.startswith(f"| `{model}` |"))
        rates = (price.price.prompt, price.price.completion, price.price.unit)
        assert dollars(row) == {usd(rate) for rate in rates if rate}, row


def test_the_packaged_handbook_and_the_customers_handbook_agree_on_amounts() -> None:
    told = {amount for passage in read_handbook() for amount in dollars(passage.answer)}
    written = dollars((HANDBOOK / "customer.md").read_text(encoding="utf-8"))
    assert told <= {amount.rstrip("0").rstrip(".") if "." in amount else amount for amount in written}


def test_the_days_of_each_stage_are_those_of_the_price_sheet() -> None:
    text = (HANDBOOK / "customer.md").read_text(encoding="utf-8")
    stages = load_prices().stages
    lengths = {
        "Warning": stages.warning_days,
        "Grace": stages.grace_days,
        "Suspended": stages.suspended_days,
        "Archived": stages.archived_days,
    }
    day = 0
    for stage, days in lengths.items():
        row = next(line for line in text.splitlines() if f"**{stage}**" in line)
        assert f"{days} days." in row, row
        assert row.startswith("| credit is used up" if day == 0 else f"| after {day} days"), row
        day += days
    assert f"| after {day} days | **Deleted**" in text
    assert f"| {stages.reminder_days} days before the end" in text


def test_the_example_names_every_setting_and_no_secret() -> None:
    lines = (ROOT / ".env.example").read_text(encoding="utf-8").splitlines()
    settings = [re.fullmatch(r"#?([A-Z][A-Z0-9_]*)=(.*)", line) for line in lines]
    given = {setting.group(1): setting.group(2) for setting in settings if setting is not None}
    names = {"BETTER_AUTH_URL" if field == "api_url" else field.upper() for field in Settings.model_fields}
    assert set(given) == names
    for field, info in Settings.model_fields.items():
        if "SecretStr" in str(info.annotation):
            assert given[field.upper()] == "", f"{field.upper()} has a value"
