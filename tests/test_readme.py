"""What the README says can be typed, opened and run."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import click
import pytest

from ldru_study.analysis.tables import COLUMNS
from ldru_study.analysis.verdict import FLAGS
from ldru_study.cli import main
from ldru_study.results.schema import TABLES
from ldru_study.spec.study import validate_study
from ldru_study.spec.yaml_file import parse_yaml

ROOT = Path(__file__).parent.parent
TEXT = (ROOT / "README.md").read_text()
COMMANDS = [
    line.removeprefix("$ ").split("  #")[0].strip()
    for line in re.findall(r"^\$ .*$", TEXT, flags=re.MULTILINE)
] + re.findall(r"`(ldru-study [^`]+)`", TEXT)


def descend(command, arguments):
    """Parse as the command line would, through every group."""
    context = command.make_context("ldru-study", list(arguments))
    while isinstance(command, click.Group):
        name, command, rest = command.resolve_command(
            context, [*context.protected_args, *context.args]
        )
        context = command.make_context(name, rest, parent=context)
    return context


@pytest.mark.filterwarnings("ignore:'protected_args':DeprecationWarning")
@pytest.mark.parametrize("line", [c for c in COMMANDS if c.startswith("ldru-study")])
def test_every_command_parses(line):
    context = descend(main, shlex.split(line)[1:])
    for name, value in context.params.items():
        if name == "spec" and value.name != "mine.yaml":
            assert (ROOT / value).exists()


def test_every_target_exists():
    targets = re.findall(r"^(\w+):", (ROOT / "Makefile").read_text(), flags=re.MULTILINE)
    named = re.findall(r"(?:^\$ |`)make (\w+)", TEXT, flags=re.MULTILINE)
    assert {"study", "test"} <= set(named) <= set(targets)


def test_every_link_leads_somewhere():
    links = re.findall(r"\]\(([^)]+)\)", TEXT)
    assert "study_specs/quick.png" in links
    assert [link for link in links if not (ROOT / link).exists()] == []


def test_the_example_is_valid():
    # the search is what can be added to the study
    example, search = re.findall(r"```yaml\n(.*?)```", TEXT, flags=re.DOTALL)
    for text in (example, example + search):
        file = parse_yaml(text, "mine.yaml")
        assert len(validate_study(file.content, file).cells) == 8


def test_the_table_is_what_the_command_prints():
    first, _, *rows = re.findall(r"^\| (.*) \|$", TEXT, flags=re.MULTILINE)
    assert tuple(first.split(" | ")) == COLUMNS
    cells = [[cell.strip() for cell in row.split("|")] for row in rows]
    spec = (ROOT / "study_specs" / "quick.yaml").read_text()
    file = parse_yaml(spec, "quick.yaml")
    asked = validate_study(file.content, file).cells
    assert [f"{task}/{model}" for task, model, *_ in cells] == [cell.key for cell in asked]
    for *_, flags in cells:
        known = {name.replace("_", " ") for name in FLAGS}
        assert set(filter(None, flags.split(", "))) <= known


def test_every_table_of_the_store_is_named():
    for name in TABLES:
        assert f"  {name}/" in TEXT
