"""The house itself: import directions, the standard library's `platform`, an instant --help."""

from __future__ import annotations

import ast
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
SCRIPTS = Path(sys.executable).parent


def run(*command, **more):
    return subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=False, **more)


def test_arrows_point_down():
    done = run(str(SCRIPTS / "lint-imports"), "--no-cache")
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("root", ["platform", "kernels"])
def test_source_roots_are_no_packages(root):
    assert not (ROOT / root / "__init__.py").exists()
    assert not (ROOT / f"{root}.py").exists()


@pytest.mark.parametrize(
    "command",
    [
        [sys.executable, "-c", "import platform; print(platform.__file__)"],
        [sys.executable, "-m", "pytest", "--version"],
        [sys.executable, "-c", "import uuid, platform; print(platform.machine())"],
    ],
    ids=["python -c", "python -m pytest", "uuid"],
)
def test_platform_is_the_standard_librarys_from_the_root(command):
    done = run(*command)
    assert done.returncode == 0, done.stderr
    if "__file__" in command[-1]:
        assert Path(done.stdout.strip()) == Path(os.__file__).parent / "platform.py"


HELP = """
import sys
sys.argv = ["ldru-study", *sys.argv[1:]]
from ldru_study.cli import main
try:
    main()
except SystemExit as end:
    heavy = sorted({"torch", "ray", "numpy", "pyarrow", "pydantic", "duckdb"} & set(sys.modules))
    print(end.code, heavy)
"""


def test_help_imports_nothing_heavy():
    done = run(sys.executable, "-c", HELP, "--help")
    assert done.stdout.splitlines()[-1] == "0 []", done.stdout + done.stderr


@pytest.mark.parametrize(
    "command",
    [
        ["validate", "study_specs/quick.yaml"],
        ["tasks", "list"],
        ["models", "list"],
        ["models", "show", "mamba2"],
        ["schema"],
    ],
    ids=" ".join,
)
def test_what_needs_no_training_imports_neither_torch_nor_ray(command):
    done = run(sys.executable, "-c", HELP, *command)
    last = done.stdout.splitlines()[-1]
    assert last.startswith("0 "), done.stdout + done.stderr
    assert "torch" not in last
    assert "ray" not in last


def test_no_file_is_for_everything():
    names = {path.stem for root in ("platform", "kernels") for path in (ROOT / root).rglob("*.py")}
    assert not names & {"utils", "helpers", "common", "misc"}


def test_every_command_ends_its_help_with_an_example():
    import click

    from ldru_study.cli import main

    def commands(group, path):
        for name, command in group.commands.items():
            if isinstance(command, click.Group):
                yield from commands(command, f"{path} {name}")
            else:
                yield f"{path} {name}", command

    for path, command in commands(main, "ldru-study"):
        example = (command.help or "").strip().splitlines()[-2:]
        assert any(f"Example: {path}" in line for line in example), path
        for parameter in command.params:
            if isinstance(parameter, click.Option):
                assert parameter.help, f"{path} {parameter.opts}"


def test_every_module_says_what_it_is_for():
    for root in ("platform", "kernels", "tests"):
        for path in (ROOT / root).rglob("*.py"):
            text = path.read_text()
            if text.strip():
                assert ast.get_docstring(ast.parse(text)), path
