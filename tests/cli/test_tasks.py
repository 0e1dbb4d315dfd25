"""`tasks list`, `show` and `verify`: what they print, and with which exit code."""

from __future__ import annotations

import io
import json
import re
import zipfile
from typing import get_args

import numpy as np
import pytest
from click.testing import CliRunner
from tests.cli.test_commands import table

from ldru_study.cli import main
from ldru_study.tasks.registry import find_task, task_names
from ldru_study.tasks.samplers import Sampling, sampler_of


def run(*arguments):
    return CliRunner().invoke(main, ["tasks", *map(str, arguments)])


def test_list():
    rows = table(run("list").stdout)
    assert [row[0] for row in rows] == list(task_names())
    assert rows[0] == ["parity_check", "2", "2", "2", "2", "no", "yes", "number of 1s modulo 2"]
    listed = json.loads(run("list", "--json").stdout)
    assert [row["task"] for row in listed] == list(task_names())
    by_name = {row["task"]: row for row in listed}
    assert by_name["group_a5"]["solvable"] is False
    assert by_name["listops_3_9"]["monoid"] is None


def test_show():
    done = run("show", "tomita_5", "--lengths", "40,41,80", "--window", "20")
    assert done.exit_code == 0
    head, rows = done.stdout.split(" sampling ")
    assert head.splitlines()[:5] == [
        "tomita_5: an even number of 0s and an even number of 1s",
        "  symbols    0 1",
        "  classes    rejected, accepted",
        "  automaton  4 states, 4 maps of states, not star-free, solvable",
        "  example    0110 -> accepted",
    ]
    shown = table(" sampling " + rows)
    assert shown[:3] == [
        ["balanced", "40", "50.0 %", "50.0 %", "50.0 %"],
        ["balanced", "41", "not used: labels are missing"],
        ["balanced", "80", "50.0 %", "50.0 %", "50.0 %"],
    ]
    # what is estimated says so
    assert shown[3][:3] == ["hard", "40", "50.0 %"]
    assert shown[3][3].startswith("~")
    assert shown[7] == ["paper", "41", "100.0 %", "100.0 %", "100.0 %"]


@pytest.mark.parametrize(
    ("name", "meaning"),
    [
        ("group_s3", "0 is the identity, 1 takes 0 1 2 to 1 0 2, 2 takes 0 1 2 to 1 2 0"),
        ("group_a4", "0 is the identity, 1 takes 0 1 2 3 to 1 2 0 3, 2 takes 0 1 2 3 to 0 2 3 1"),
        ("group_z_7", "0 is the identity, 1 rotates all 7 things by one place"),
    ],
)
def test_show_says_which_permutation_each_symbol_of_a_group_is(name, meaning):
    lines = run("show", name, "--lengths", "4", "--sampling", "balanced").stdout.splitlines()
    assert f"  meaning    {meaning}" in lines
    task = find_task(name)
    # the product of one symbol is that symbol's permutation
    for symbol in range(task.num_symbols):
        label = task.automaton.label(np.array([[symbol]], dtype=np.uint8), np.array([1]))[0]
        images = task.classes[label]
        assert "rotates" in meaning or not symbol or f"{symbol} takes " in meaning
        assert "rotates" in meaning or not symbol or f" to {images}" in meaning


def test_show_as_json():
    done = run("show", "d_2", "--sampling", "paper", "--lengths", "40,41,80", "--json")
    found = json.loads(done.stdout)
    assert found["automaton"] == {"states": 4, "monoid": 15, "star_free": True, "solvable": True}
    whole, odd, long = found["lengths"]
    assert whole["first_window"] == whole["last_window"] == 1
    assert odd["chance"] == 1
    assert 0.5 < long["chance"] < 0.500001
    assert long["first_window"] > 0.9999
    assert long["is_window_exact"]
    task = find_task("d_2")
    for string, label in found["drawn"]["paper"]:
        tokens = task.encode(string)
        at = task.automaton.label(tokens[None], np.array([len(tokens)]))[0]
        assert task.classes[at] == label


def test_show_what_is_no_automaton_or_ones_own():
    lists = run("show", "listops_3_9", "--lengths", "60,160")
    assert "none: not regular at unbounded depth" in lists.stdout
    assert "window unknown: no automaton to count by" in lists.stdout
    rows = table(" sampling " + lists.stdout.split(" sampling ")[1])
    # chance is reckoned for short ones, and estimated for long ones that are drawn as they come
    assert [row[2][0] == "~" for row in rows] == [False, False, False, True]
    own = run("show", "regex:(0|1)*010(0|1)*", "--sampling", "paper", "--lengths", "10,40,160")
    assert [row[2] for row in table(" sampling " + own.stdout.split(" sampling ")[1])] == [
        "65.7 %",
        "99.3 %",
        "100.0 %",
    ]


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["show", "parity_chek"], 2, "Did you mean 'parity_check'?"),
        (["show", "d_2", "--lengths", "4,x"], 2, "'4,x' is no list of lengths such as 40,80,160"),
        (["show", "d_2", "--lengths", "0"], 2, "'0' is no list of lengths"),
        (["show", "listops_3_9", "--sampling", "hard"], 2, "Use balanced or paper."),
        (["show", "regex:(0|1"], 2, "is no regular expression"),
        (["verify", "none.npz"], 3, "none.npz: no such file. Give the path of an .npz file."),
    ],
)
def test_mistakes(arguments, code, message):
    done = run(*arguments)
    assert done.exit_code == code
    assert message in done.stderr
    assert done.stdout == ""


def test_every_sampling_can_be_asked_for():
    (option,) = (p for p in main.commands["tasks"].commands["show"].params if p.name == "sampling")
    assert tuple(option.type.choices) == get_args(Sampling)


def save(path, **arrays):
    np.savez(path, **{key: np.asarray(array) for key, array in arrays.items()})
    return path


def test_verify_agrees_with_ourselves_in_any_integer_type(tmp_path):
    arrays = {}
    for number, name in enumerate(task_names()):
        sampler = sampler_of(name, "paper")
        length = sampler.nearest_covered(9)
        tokens, labels = sampler.sample(np.full(20, length), np.random.default_rng(number))
        kind = (np.int8, np.uint8, np.int32, np.int64)[number % 4]
        # the length in the key need not be that of the strings
        arrays |= {f"{name}|{length + 1}|x": tokens.astype(kind), f"{name}|{length + 1}|y": labels}
    done = run("verify", save(tmp_path / "labels.npz", **arrays), "--json")
    assert done.exit_code == 0
    found = json.loads(done.stdout)
    assert found["num_disagreements"] == 0
    assert [row["task"] for row in found["tasks"]] == list(task_names())
    assert all(row["num_strings"] == 20 for row in found["tasks"])


def test_verify_counts_disagreements(tmp_path):
    path = save(
        tmp_path / "labels.npz",
        **{
            "d_4|4|x": [[0, 0, 1, 1], [0, 1, 1, 0]],
            "d_4|4|y": [1, 1],
            "d_4|2|x": [[0, 1]],
            "d_4|2|y": [True],
            "modular_arithmetic|2|x": [[3, 5]],
            "modular_arithmetic|2|y": [3],
        },
    )
    done = run("verify", path)
    assert done.exit_code == 4
    assert table(done.stdout) == [
        ["d_4", "3", "1", "string 1, 0110: file 1, ours 0"],
        ["modular_arithmetic", "1", "1", "string 0, 3+: file 3, ours no string of the task"],
    ]
    rows = json.loads(run("verify", path, "--json").stdout)["tasks"]
    assert [one["num_disagreements"] for one in rows[0]["arrays"]] == [1, 0]


GOOD = {"d_4|2|x": [[0, 1]], "d_4|2|y": [1]}


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"d_4-2-x": [[0, 1]]}, "key 'd_4-2-x' is none of ours. Write '<task>|<length>|x'"),
        ({"d_4|2|x": [[0, 1]]}, "'d_4|2|x' is there without 'd_4|2|y'."),
        ({"d_4|2|y": [1]}, "'d_4|2|y' is there without 'd_4|2|x'."),
        (GOOD | {"d4|2|x": [[0]], "d4|2|y": [0]}, "no task is called 'd4'. Did you mean 'd_4'?"),
        (GOOD | {"d_4|2|x": [[0.0, 1.0]]}, "'d_4|2|x': wants integers, found float64."),
        (GOOD | {"d_4|2|y": ["a"]}, "'d_4|2|y': wants integers, found <U1."),
        (GOOD | {"d_4|2|x": [0, 1]}, "'d_4|2|x': wants shape [num, T], found [2]."),
        (GOOD | {"d_4|2|y": [[0, 1]]}, "'d_4|2|y': wants shape [num], found [1, 2]."),
        (GOOD | {"d_4|2|y": [0, 1]}, "'d_4|2|x' has 1 strings, 'd_4|2|y' 2 labels."),
        (
            GOOD | {"d_4|2|x": [[0, 2]]},
            "'d_4|2|x': token 2 is none of d_4, which has 0 to 1: 0 1.",
        ),
        (GOOD | {"d_4|2|x": [[0, -1]]}, "'d_4|2|x': token -1 is none of d_4"),
        (GOOD | {"d_4|2|x": [[0, 257]]}, "'d_4|2|x': token 257 is none of d_4"),
        (
            {"d_4|2|x": np.array([None]), "d_4|2|y": [1]},
            "'d_4|2|x': not read as a plain array: Object arrays",
        ),
        (
            GOOD | {"d_4|2|x": np.array([[0, 2**63]], "uint64")},
            "'d_4|2|x': token 9223372036854775808 is none of d_4",
        ),
        (
            {"d_4|0|x": np.zeros((0, 2), int), "d_4|0|y": np.zeros(0, int)},
            "'d_4|0|x': shape [0, 2] has nothing to compare.",
        ),
        (
            {"prefix_2_44|2|x": [[0]], "prefix_2_44|2|y": [1]},
            "'prefix_2_44|2|x': 'prefix_2_44': prefix_p_q",
        ),
        ({"notes": "by hand"}, "key 'notes' is none of ours. Write '<task>|<length>|x'"),
    ],
)
def test_verify_names_what_it_does_not_know_beside_what_it_compares(arrays, message, tmp_path):
    others = {"even_pairs|3|x": [[0, 1, 1]], "even_pairs|3|y": [1]}
    path = save(tmp_path / "labels.npz", **arrays, **others)
    done = run("verify", path, "--json")
    assert done.exit_code == 2
    assert f"Error: {path}: " in done.stderr
    assert message in done.stderr
    told = json.loads(done.stdout)
    assert any(message in problem for problem in told["problems"])
    assert {"task": "even_pairs", "num_strings": 1, "num_disagreements": 0}.items() <= told[
        "tasks"
    ][-1].items()
    # what is wrong counts more
    done = run("verify", save(path, **arrays, **others | {"even_pairs|3|y": [0]}))
    assert done.exit_code == 4
    assert message in done.stderr
    # and alone there is nothing to print, unless another pair is good
    done = run("verify", save(path, **arrays))
    assert done.exit_code == 2
    assert message in done.stderr
    assert bool(done.stdout) == ("d4|2|x" in arrays)


@pytest.mark.parametrize("name", ["prefix_2_4", "d_4", "tomita_3", "modular_arithmetic"])
@pytest.mark.parametrize("kind", ["bool", "uint8", ">i4", "uint64"])
def test_verify_takes_any_whole_numbers(name, kind, tmp_path):
    sampler = sampler_of(name, "paper")
    tokens, labels = sampler.sample(np.full(30, 7), np.random.default_rng(0))
    arrays = {f"{name}|7|x": tokens.astype(">i4" if kind == "bool" else kind)}
    is_boolean = kind == "bool" and labels.max() == 1
    arrays[f"{name}|7|y"] = labels.astype(kind if is_boolean or kind != "bool" else "int16")
    done = run("verify", save(tmp_path / "labels.npz", **arrays), "--json")
    assert done.exit_code == 0, done.output
    assert json.loads(done.stdout)["tasks"][0]["num_strings"] == 30


def test_verify_refuses_other_files(tmp_path):
    np.save(tmp_path / "one.npy", np.arange(3))
    (tmp_path / "text.npz").write_text("no archive")
    (tmp_path / "empty.npz").write_bytes(b"")
    for name in ("one.npy", "text.npz", "empty.npz"):
        done = run("verify", tmp_path / name)
        assert done.exit_code == 2, name
        assert name in done.stderr
    assert run("verify", tmp_path).exit_code == 2
    done = run("verify", save(tmp_path / "none.npz"))
    assert done.exit_code == 2
    assert "none.npz: holds no arrays. Nothing would be compared." in done.stderr


@pytest.mark.parametrize(
    ("offset", "value", "reason"),
    [
        # of the flags: encrypted; of the method: one that nobody has
        (0, 1, "is encrypted, password required for extraction"),
        (2, 77, "compression method is not supported"),
    ],
)
def test_verify_names_entries_that_cannot_be_unpacked(offset, value, reason, tmp_path):
    path = save(tmp_path / "labels.npz", **GOOD)
    data = bytearray(path.read_bytes())
    for signature, at in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        for match in re.finditer(signature, bytes(data)):
            data[match.start() + at + offset] = value
    path.write_bytes(data)
    done = run("verify", path)
    assert done.exit_code == 2, done.output
    assert "'d_4|2|x': not read as a plain array: " in done.stderr
    assert f"{reason}. Save it with numpy.savez." in " ".join(done.stderr.split())


def test_verify_names_entries_whose_packing_is_damaged(tmp_path):
    path = tmp_path / "labels.npz"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_LZMA) as file:
        for key, array in GOOD.items():
            packed = io.BytesIO()
            np.save(packed, array)
            file.writestr(f"{key}.npy", packed.getvalue())
    assert run("verify", path).exit_code == 0
    data = bytearray(path.read_bytes())
    # the name ends in .npy, the packing begins behind it with four bytes of its own
    at = data.index(b".npy") + 4 + 4
    data[at : at + 12] = b"\xff" * 12
    path.write_bytes(data)
    done = run("verify", path)
    assert done.exit_code == 2, done.output
    assert "'d_4|2|x': not read as a plain array: " in done.stderr
