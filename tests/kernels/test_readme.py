"""What kernels/README.md shows is true."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

from ldru_kernels.levels import LONE_NODE_RULES
from ldru_kernels.schedule import build_scan, build_schedule, fold

TEXT = (Path(__file__).parents[2] / "kernels" / "README.md").read_text()
PREFIXES = re.findall(r"^\| (\d) \| `(.*?)` \| `(.*?)` \|$", TEXT, flags=re.MULTILINE)
ROWS = re.findall(r"^\| `(\w+)` \| `(.*?)` \| `(.*?)` \|$", TEXT, flags=re.MULTILINE)
OFFSETS = re.findall(r"^\| `(\([01, ]*\))` \| `(.*?)` \| `(.*?)` \|$", TEXT, flags=re.MULTILINE)


def brackets(length, rule, offsets=()):
    padding = "E" if rule == "identity" else "0"
    inputs = [*"abcdefghij"[:length], padding]
    schedule = build_schedule([length], length, rule, offsets=offsets)
    (root,) = fold(schedule, inputs, lambda a, b: f"({a}{b})")
    return root


def test_the_table_has_every_rule():
    assert sorted(rule for rule, *_ in ROWS) == sorted(LONE_NODE_RULES)


@pytest.mark.parametrize(("rule", "three", "five"), ROWS)
def test_brackets(rule, three, five):
    assert (brackets(3, rule), brackets(5, rule)) == (three, five)


def test_brackets_with_offsets():
    assert len(OFFSETS) == 4
    for offsets, *wanted in OFFSETS:
        found = [brackets(5, rule, ast.literal_eval(offsets)) for rule in ("carry", "zero_left")]
        assert found == wanted, offsets


def test_where_carry_and_left_fold_part():
    assert f"`{brackets(7, 'carry')}` against\n`{brackets(7, 'left_fold')}`" in TEXT
    for length in range(1, 7):
        assert brackets(length, "carry") == brackets(length, "left_fold"), length


@pytest.mark.parametrize(("tokens", "prefix", "with_root"), PREFIXES)
def test_prefixes(tokens, prefix, with_root):
    length = int(tokens)
    for wanted, has_root in ((prefix, False), (with_root, True)):
        schedule = build_scan([length], length, inclusive=True, has_root=has_root)
        inputs = [*"abcdefghij"[:length], ".", "e"]
        assert fold(schedule, inputs, lambda a, b: f"({a}{b})")[-1] == wanted


def test_the_example_runs(capsys):
    (example,) = re.findall(r"```python\n(.*?)```", TEXT, flags=re.DOTALL)
    exec(example, {})
    wanted = re.findall(r"print\(.*\)  # (.*)", example)
    assert capsys.readouterr().out.splitlines() == wanted
