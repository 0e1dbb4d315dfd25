"""What the README says about adding things, done word for word to a copy of the source."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree

import pytest

ROOT = Path(__file__).parent.parent
SECTION = re.search(
    r"^## Adding a task, a model, an operator$(.*?)^## ",
    (ROOT / "README.md").read_text(),
    flags=re.MULTILINE | re.DOTALL,
)[1]
BLOCKS = re.findall(r"```python\n# (\S+)\n(.*?)```", SECTION, flags=re.DOTALL)
TASK, MODEL, OPERATOR = "double_one", "average", "tanh_linear"
CONTRACTS = (
    "tests/kernels/test_ops.py",
    "tests/kernels/test_prefix_scan.py",
    "tests/kernels/test_tree_reduce.py",
    "tests/models/test_contract.py",
    "tests/models/test_sizes.py",
    "tests/spec/test_bad_specs.py",
    "tests/tasks/test_languages.py",
    "tests/tasks/test_sampling.py",
    "tests/tasks/test_samplers.py",
    "tests/cli/test_commands.py",
    "tests/cli/test_tasks.py",
)
# what meets all tasks or models at once, without their names
LISTS = (
    "test_every_task_is_checked",
    "test_every_listed_name_belongs_to_one_family",
    "test_list",
    "test_models",
)


@pytest.fixture
def source(tmp_path):
    for name in ("platform", "kernels", "tests"):
        unread = shutil.ignore_patterns("__pycache__")
        shutil.copytree(ROOT / name, tmp_path / name, ignore=unread)
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    return tmp_path


def add(root):
    """Do what the section says: write what is new, register it in what is there."""
    new = []
    for path, text in BLOCKS:
        place = root / path
        if not place.exists():
            place.write_text(text)
            new.append(path)
            continue
        old = place.read_text()
        if text.startswith("class "):
            changed = old.replace("def _by_kind(", f"{text}\n\ndef _by_kind(")
        elif text.startswith("    "):
            changed = old.replace('    "mlp": (', f'{text}    "mlp": (')
        else:
            changed = re.sub(rf"^{text.split()[0]} = .*\n", text, old, flags=re.MULTILINE)
        assert changed != old, path
        place.write_text(changed)
    return new


def outcomes(root):
    """Return the outcome of every contract test that meets the new names, by its id."""
    subprocess.run(
        [
            *(sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider"),
            *(
                "-k",
                " or ".join((TASK, MODEL, OPERATOR, "unknown", *LISTS)),
                "--junitxml",
                "found.xml",
                *CONTRACTS,
            ),
        ],
        cwd=root,
        env=os.environ | {"PYTHONPATH": f"{root / 'platform'}{os.pathsep}{root / 'kernels'}"},
        check=True,
    )
    cases = ElementTree.parse(root / "found.xml").iter("testcase")
    return {case.get("name"): [each.tag for each in case] for case in cases}


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_file_and_a_registration_are_all_it_takes(source):
    assert len(BLOCKS) == 6
    assert add(source) == [
        f"platform/ldru_study/tasks/{TASK}.py",
        f"platform/ldru_study/models/{MODEL}.py",
        f"kernels/ldru_kernels/operators/{OPERATOR}.py",
    ]
    found = outcomes(source)
    assert {name: failed for name, failed in found.items() if failed not in ([], ["skipped"])} == {}
    passed = {name for name, skipped in found.items() if not skipped}
    assert passed >= {
        *LISTS,
        "test_each_problem_is_named[unknown model kind]",
        "test_each_problem_is_named[unknown operator]",
        f"test_a_trial_trains_the_model[{MODEL}]",
        f"test_what_stands_in_the_padding_does_not_matter[{MODEL}]",
        f"test_the_formula_counts_the_parameters[{MODEL}]",
        f"test_flops_grow_with_length_and_width[{MODEL}]",
        f"test_a_model_is_shown[{MODEL}]",
        f"test_the_width_with_the_wanted_parameters[20000-{MODEL}]",
        f"test_all_short_strings_have_the_label_of_the_definition[{TASK}]",
        f"test_worked_examples[{TASK}]",
        f"test_contract[{TASK}-balanced]",
        f"test_contract[{TASK}-hard]",
        f"test_contract[{TASK}-paper]",
        f"test_the_formula_counts_the_parameters[ldru-{OPERATOR}]",
        f"test_the_padding_has_no_gradient[ldru-{OPERATOR}]",
        f"test_roots_and_every_gradient_agree_with_the_reference[{OPERATOR}-zero_left]",
        f"test_a_population_is_its_members_side_by_side[{OPERATOR}-zero_left]",
        f"test_recomputing_changes_memory_only[{OPERATOR}]",
        f"test_gradients_of_every_operator_agree_with_finite_differences[True-{OPERATOR}]",
    }
