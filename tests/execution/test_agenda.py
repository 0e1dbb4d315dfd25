"""What is run next, without Ray: searches, their winners, budgets, and resumption."""

from __future__ import annotations

import json

import pytest
from tests.conftest import TINY, submission_of

from ldru_study.analysis.cell import judge_cells
from ldru_study.analysis.collect import collect
from ldru_study.analysis.report import write_report
from ldru_study.errors import OtherVersionError, SpecError
from ldru_study.execution.agenda import Agenda
from ldru_study.execution.brake import Brake
from ldru_study.results.facts import read_facts
from ldru_study.results.query import Database
from ldru_study.results.search_table import read_searches, rows_of
from ldru_study.results.searches import TRANSIENT
from ldru_study.results.store import Store
from ldru_study.training import failures
from ldru_study.training.attempt import run_attempt
from ldru_study.training.work import Outcome

SEARCH = """
name: found
task: parity_check
grid: {model: [{kind: rnn, width: 4}, {kind: lstm, width: 4}]}
train: {steps: 12, max_length: 8, batch_size: 8}
seeds: 2
evaluate: {multiples: [1, 2], strings: 64, validation_strings: 64}
search:
  trials: 4
  space:
    train.learning_rate: {kind: log_uniform, low: 1e-4, high: 1e-1}
    model.width: {kind: choice, values: [4, 8], when: {model.kind: lstm}}
"""


def run(store, text=SEARCH, *, most=10**6):
    """Run a study, one trial after the other; return the works and what was said."""
    submission, brake, said = submission_of(text, store), Brake(), []
    agenda = Agenda(submission, brake, said.append)
    works = []
    while len(works) < most and (work := agenda.next()) is not None:
        works.append(work)
        agenda.ended(work, run_attempt(work))
    return works, said, agenda, brake


def suggestions_of(store):
    _, searches = read_searches(store, "found")
    return {search.cell.key: search.suggestions for search in searches}


def test_a_search_then_the_seeds_with_what_won(store):
    works, said, agenda, _ = run(store)
    assert agenda.is_over
    # two cells with four settings and two seeds each
    assert [work.suggestion is None for work in works].count(False) == 8
    assert len(works) == 12
    assert len(said) == 2
    for cell, suggestions in suggestions_of(store).items():
        best = min(suggestions, key=lambda one: one.values)
        judged = [work for work in works if work.cell == cell and work.suggestion is None]
        assert {work.config.seed for work in judged} == {0, 1}
        for work in judged:
            assert work.config.train.learning_rate == best.params["train.learning_rate"]
            assert work.config.model.width == best.params.get("model.width", 4)
    # what a search tried judges nobody
    database = Database(store)
    assert len(database.rows("select distinct trial_id from evaluations")) == 4
    chosen = database.rows("select distinct chosen_by, suggestion is null as judges from trials")
    assert {row["chosen_by"] for row in chosen} == {"search"}
    # and the same command has nothing left to do
    assert submission_of(SEARCH, store).plan.is_complete


def test_a_resumed_search_goes_on_as_if_never_interrupted(store, tmp_path):
    run(store)
    cut = Store(str(tmp_path / "cut"))
    for most in (1, 2, 3, 2, 10**6):
        run(cut, most=most)
    assert suggestions_of(cut) == suggestions_of(store)
    wanted, found = (
        [(row["trial_id"], row["length"], row["num_correct"]) for row in rows]
        for rows in (read_facts(one).evaluations.to_pylist() for one in (store, cut))
    )
    assert found == wanted


def test_a_suggestion_that_was_interrupted_is_made_once(store):
    submission = submission_of(SEARCH, store)
    agenda = Agenda(submission, Brake(), print)
    open_work = agenda.next()
    works, *_ = run(store)
    assert works[0].config == open_work.config
    assert [row.number for row in rows_of(read_searches(store, "found")[1])] == [0, 1, 2, 3] * 2


def test_seeds_are_still_to_come_while_a_search_goes_on(store):
    run(store, most=3)
    assert [cell.num_unfinished for cell in collect(store, "found").cells] == [2, 2]


def test_what_another_version_searched_is_refused_and_what_it_found_is_judged(store, tmp_path):
    run(store)
    page, path = tmp_path / "page.html", "studies/found/resolved.json"
    write_report(store, "found", page)
    assert '"winner": true' in page.read_text().replace('":true', '": true')
    record = json.loads(store.files.read(path))
    record["cells"][1]["search"]["search_id"] = "0" * 16
    store.save_study("found", {"resolved.json": json.dumps(record).encode()})
    with pytest.raises(OtherVersionError, match="found: parity_check/lstm: submitted by another"):
        read_searches(store, "found")
    judged = judge_cells(collect(store, "found").cells)
    assert [len(verdict.seeds) for verdict in judged] == [2, 2]
    write_report(store, "found", page)
    assert '"winner":' not in page.read_text()
    assert "Not shown: found: parity_check/lstm: submitted by another" in page.read_text()


def test_more_trials_go_on_from_the_same_history(store):
    run(store)
    before = suggestions_of(store)
    works, *_ = run(store, SEARCH.replace("trials: 4", "trials: 6"))
    after = suggestions_of(store)
    assert all(after[cell][:4] == before[cell] for cell in before)
    assert [work.suggestion for work in works if work.suggestion is not None] == [4, 4, 5, 5]


def test_the_budget_of_trials_is_kept_and_can_be_raised(store):
    text = SEARCH + "budget: {trials: 5}\n"
    works, _, agenda, brake = run(store, text)
    assert len(works) == 5
    assert (brake.mode, brake.reason) == ("drain", "budget")
    assert not agenda.is_over
    works, _, agenda, brake = run(store, text)
    assert not works
    works, _, agenda, brake = run(store, text.replace("trials: 5}", "trials: 50}"))
    assert len(works) == 7
    assert agenda.is_over
    assert brake.mode is None


def test_one_at_a_time_when_asked(store):
    submission = submission_of(SEARCH + "  max_concurrent: 1\n", store)
    agenda = Agenda(submission, Brake(), print)
    first, second = agenda.next(), agenda.next()
    assert {first.cell, second.cell} == {"parity_check/rnn", "parity_check/lstm"}
    assert agenda.next() is None
    assert not agenda.is_over
    agenda.ended(first, run_attempt(first))
    assert agenda.next().cell == first.cell


def test_a_search_without_a_good_end_says_so_and_judges_nobody(store):
    submission = submission_of(SEARCH, store)
    said = []
    agenda = Agenda(submission, Brake(), said.append)
    while (work := agenda.next()) is not None:
        agenda.ended(work, Outcome("failed", "diverged", "at once"))
    assert agenda.is_over
    assert sorted(said) == [
        f"parity_check/{model}: none of 4 settings could be trained to the end."
        for model in ("lstm", "rnn")
    ]


def test_the_causes_that_are_no_fault_of_the_settings():
    # results knows no training, so the words stand in both
    names = ("INTERRUPTED", "NODE_LOST", "PREEMPTED", "STORE", "WORKER_DIED")
    assert set(TRANSIENT) == {getattr(failures, name) for name in names}


def test_settings_that_a_machine_failed_are_tried_again(store, tmp_path):
    submission = submission_of(SEARCH, store)
    said = []
    agenda = Agenda(submission, Brake(), said.append)
    lost = None
    while (work := agenda.next()) is not None:
        if work.suggestion == 1 and lost is None:
            lost = work
            agenda.ended(work, Outcome("failed", "worker_died", "gone"))
        else:
            agenda.ended(work, run_attempt(work))
    # the other cell is done with; here nobody wins while a result is missing
    assert agenda.is_over
    assert [text.split(":")[0] for text in said] == [
        {"parity_check/rnn", "parity_check/lstm"}.difference({lost.cell}).pop()
    ]
    [unfinished] = submission.remaining().open_searches
    assert unfinished.cell.key == lost.cell
    works, *_ = run(store)
    assert [work.config for work in works if work.suggestion is not None] == [lost.config]
    assert [work.config.seed for work in works if work.suggestion is None] == [0, 1]
    assert submission.remaining().is_complete


ORACLE = SEARCH + "  objective: extrapolation_error\n  multiples: [2]\n  strings: 32\n"


def test_choosing_on_lengths_that_judge_is_refused_unless_declared(store, tmp_path):
    with pytest.raises(SpecError, match=r"length 16 also judges.*search.allow_oracle: true"):
        submission_of(ORACLE, store)
    run(store, ORACLE + "  allow_oracle: true\n")
    for table in ("trials", "evaluations"):
        rows = Database(store).rows(f"select distinct chosen_by from {table}")
        assert rows == [{"chosen_by": "oracle"}]
    # and in every output of the analysis
    counts = collect(store, "found")
    for verdict in judge_cells(counts.cells):
        assert "oracle_selection" in verdict.flags
        assert "oracle selection" in verdict.cell.label
    write_report(store, "found", tmp_path / "report.html")
    cards = (tmp_path / "report.html").read_text().split("Failure curves")[0]
    # in the answers and in the table of verdicts
    assert cards.count("oracle selection") >= 4


def test_an_objective_beyond_the_training_length_has_strings_of_its_own(store):
    run(store, ORACLE.replace("[2]", "[3]"))
    rows = read_facts(store).evaluations.to_pylist()
    judged = {(row["length"], row["eval_seed"]) for row in rows if row["eval_seed"] == 0}
    searched = {(row["length"], row["num_total"]) for row in rows if row["eval_seed"] != 0}
    assert judged == {(8, 0), (16, 0)}
    assert searched == {(24, 32)}
    for suggestions in suggestions_of(store).values():
        assert all(0 <= one.values[0] <= 1 for one in suggestions)


def test_cells_that_a_space_is_not_for_run_as_written(store):
    text = SEARCH.replace("log_uniform, low: 1e-4, high: 1e-1", "choice, values: [0.1, 0.2]")
    text = text.replace("values: [0.1, 0.2]", "values: [0.1, 0.2], when: {model.kind: lstm}")
    works, *_ = run(store, text)
    rnn = [work for work in works if work.cell == "parity_check/rnn"]
    assert [work.suggestion for work in rnn] == [None, None]
    assert {work.config.train.learning_rate for work in rnn} == {1e-3}


def test_without_a_search_every_seed_of_every_cell(store):
    works, said, agenda, _ = run(store, TINY)
    assert [work.config.seed for work in works] == [0, 0, 1, 1]
    assert not said
    assert agenda.is_over
