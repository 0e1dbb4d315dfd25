"""What study_specs/field/README.md says follows from the counts beside it."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest

FIELD = Path(__file__).parent.parent / "study_specs" / "field"


@pytest.fixture(scope="module")
def field():
    spec = importlib.util.spec_from_file_location("field", FIELD / "field.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_table_is_what_the_counts_say(field):
    text = (FIELD / "README.md").read_text()
    assert "\n".join(field.field_table()) in text


def test_ldru_makes_no_mistake_where_it_is_said_to_make_none(field):
    tasks = {
        "parity_check",
        "even_pairs",
        "cycle_navigation",
        "tomita_5",
        "tomita_6",
        "prefix_4_2",
    }
    cells = [cell for _, cell in field.read_cells("cpu_field") if cell.model == "ldru(mlp)"]
    curves = [curve for cell in cells if cell.task in tasks for curve in cell.curves]
    far = [curve.lengths > field.TRAINED_TO for curve in curves]
    asked = sum(int(c.num_total[beyond].sum()) for c, beyond in zip(curves, far, strict=True))
    right = sum(int(c.num_correct[beyond].sum()) for c, beyond in zip(curves, far, strict=True))
    assert (len(curves), asked, right) == (30, 229_120, 229_120)
    assert f"{asked:,} strings".replace(",", " ") in (FIELD / "README.md").read_text()


def test_the_table_of_switches_is_what_the_counts_say(field):
    text = (FIELD / "README.md").read_text()
    assert "\n".join(field.recipe_table()) in text


def test_what_each_switch_keeps_is_what_is_said_of_it(field):
    kept = {}
    for case, cell in field.read_cells("ldru_recipe"):
        tasks = kept.setdefault(field.switch(case), set())
        if min(field.mean_accuracies(cell)) > 0.99:
            tasks.add(case["task"])
    some = {"d_2", "tomita_4", "tomita_7"}
    assert kept == {
        "none": {"tomita_7"},
        "dropout 0.1": {"d_2", "d_3", "d_4", "tomita_3", "tomita_4", "tomita_7"},
        "random_brackets": {"d_2", "d_3", "tomita_3", "tomita_4", "tomita_7"},
        "node_noise 0.1": some,
        "penalty 0.1": some,
        "3 200 steps": some,
        "width 64": {"d_3", "tomita_7"},
    }
