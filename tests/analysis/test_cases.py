"""Counts from anywhere: what is read, what is answered, and what is refused with which words."""

from __future__ import annotations

import json

import pytest
from click.testing import CliRunner

from ldru_study.analysis.cases import read_cases
from ldru_study.cli import main
from ldru_study.errors import InputError

CASE = {
    "id": "falls",
    "multiples": [4, 0.5, 1, 2, 8, 16],
    "num_correct": [[30, 64, 64, 60, 31, 33], [41, 64, 63, 63, 30, 35], [38, 64, 64, 62, 35, 29]],
    "num_total": 64,
    "chance": 0.5,
}
HOLDS = CASE | {"id": 7, "num_correct": [[64] * 6] * 3}
GUESSES = CASE | {"id": "guesses", "num_correct": [[30, 33, 31, 34, 30, 29]] * 3}


def run(*arguments, text=None):
    return CliRunner().invoke(main, ["analyze", "fit", *arguments], input=text)


def test_the_answer_has_the_ids_and_fields_of_the_question(tmp_path):
    path = tmp_path / "counts.json"
    path.write_text(json.dumps({"cases": [CASE, HOLDS, GUESSES]}))
    result = run(str(path), "--json")
    assert result.exit_code == 0
    falls, holds, guesses = json.loads(result.stdout)["cases"]
    assert [falls["id"], holds["id"], guesses["id"]] == ["falls", 7, "guesses"]
    assert falls["verdict"] == "sharp"
    low, high = falls["half_multiple_ci95"]
    assert 2 < low < falls["half_multiple"] < high < 6
    for one, verdict, beyond in ((holds, "holds", 16.0), (guesses, "never_learned", None)):
        assert one["verdict"] == verdict
        assert one["half_multiple"] is None
        assert one["half_multiple_ci95"] is None
        assert one["half_multiple_beyond"] == beyond


def test_stdin_gives_what_a_file_gives_and_a_table_without_json():
    text = json.dumps({"cases": [CASE, HOLDS]})
    assert json.loads(run("-", "--json", text=text).stdout)["cases"][1]["verdict"] == "holds"
    table = run("-", text=text).stdout
    assert "falls" in table
    assert "> 16x" in table


def test_levels_are_those_asked_for():
    # seven tenths of the way from chance to perfect, and then nothing
    plateau = CASE | {"num_correct": [[31, 54, 55, 54, 32, 31], [34, 55, 54, 55, 31, 33]]}
    text = json.dumps({"cases": [plateau | {"id": "plateau"}, CASE]})

    def kinds(*options):
        content = json.loads(run("-", "--json", *options, text=text).stdout)
        return content["settings"], [one["verdict"] for one in content["cases"]]

    usual = {"learned_level": 0.5, "near_perfect": 0.95, "sharp_ratio": 2.0, "confidence": 0.95}
    assert kinds() == (usual, ["sharp", "sharp"])
    strict = {"learned_level": 0.9, "near_perfect": 0.99}
    found = kinds("--learned-level", "0.9", "--near-perfect", "0.99")
    assert found == (usual | strict, ["never_learned", "sharp"])
    assert kinds("--sharp-ratio", "1.5")[1][1] == "gradual"
    refused = run("-", "--near-perfect", "99", text=text)
    assert refused.exit_code == 2
    assert "99" in refused.stderr


def test_totals_and_chance_may_differ_and_one_seed_needs_no_outer_list():
    totals = [[64] * 6, [128] * 6, [64, 64, 64, 64, 64, 512]]
    (case,) = read_cases(
        json.dumps([CASE | {"num_total": totals, "chance": [0.5, 0.2, 0.5, 0.5, 0.4, 0.5]}]), "x"
    )
    # in ascending order of the multiples
    assert list(case.curves[0].chance) == [0.2, 0.5, 0.5, 0.5, 0.4, 0.5]
    assert list(case.curves[2].num_total) == [64, 64, 64, 64, 64, 512]
    assert list(case.curves[0].multiples) == [0.5, 1, 2, 4, 8, 16]
    (single,) = read_cases(json.dumps([CASE | {"num_correct": [1, 2, 3, 4, 5, 6]}]), "x")
    assert len(single.curves) == 1


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"num_correct": [[65, 1, 1, 1, 1, 1]]}, "num_correct[0][0]: 65 is above num_total 64."),
        ({"num_correct": [[1, -1, 1, 1, 1, 1]]}, "num_correct[0][1]: -1 is no count"),
        ({"num_correct": [[1, 0.5, 1, 1, 1, 1]]}, "num_correct[0][1]: 0.5 is no count"),
        ({"num_correct": [[1, None, 1, 1, 1, 1]]}, "[0][1]: a number is expected, not null."),
        ({"num_correct": [[1, True, 1, 1, 1, 1]]}, "[0][1]: a number is expected, not true."),
        ({"num_correct": [[1]]}, "num_correct[0]: 1 values for 6 multiples."),
        ({"num_correct": []}, "num_correct: a list of counts per seed is expected, not a list of"),
        ({"num_total": 0}, "num_total: 0 strings can show nothing; it must be >= 1."),
        ({"num_total": [[64] * 6]}, "num_total: 1 lists for 3 seeds."),
        ({"chance": 1}, "chance: 1 is no chance; it must be >= 0 and < 1."),
        ({"chance": "half"}, 'chance: a number is expected, not "half".'),
        ({"multiples": [1, 1, 2, 3, 4, 5]}, "multiples[1]: 1 is there already, as multiples[0]."),
        ({"multiples": [0, 1, 2, 3, 4, 5]}, "multiples[0]: 0 is no multiple"),
        ({"multiples": 3}, "multiples: a list of numbers is expected, not 3."),
    ],
)
def test_bad_counts_name_case_field_and_value(change, message):
    with pytest.raises(InputError) as error:
        read_cases(json.dumps({"cases": [HOLDS, CASE | change]}), "counts.json")
    assert str(error.value).startswith("counts.json: 1 problem\n  case 'falls': ")
    assert message in str(error.value)


def test_all_problems_are_named_at_once():
    wrong = {"id": "a", "multiples": [1], "num_corect": [[1]], "num_total": 1, "chance": 0.5}
    with pytest.raises(InputError) as error:
        read_cases(json.dumps({"cases": [wrong, HOLDS, HOLDS, 3]}), "x")
    assert str(error.value).splitlines() == [
        "x: 3 problems",
        "  case 'a': num_correct: it is missing. Did you mean 'num_corect'?",
        "  case '7': id: cases[1] has the same. Give another.",
        "  cases[3]: an object with id, multiples, num_correct, num_total, chance is expected, "
        "not 3.",
    ]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "this is no JSON"),
        ('{"cases": NaN}', "NaN is no number of JSON"),
        ("{}", "cases: a list is expected"),
        ("3", "cases: a list is expected"),
    ],
)
def test_what_is_no_list_of_cases_is_refused(text, message):
    result = run("-", text=text)
    assert result.exit_code == 2
    assert result.stdout == ""
    assert message in result.stderr


def test_a_missing_file_is_not_found(tmp_path):
    result = run(str(tmp_path / "none.json"))
    assert result.exit_code == 3
    assert "there is no such file" in result.stderr
