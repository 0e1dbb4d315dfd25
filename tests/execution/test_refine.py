"""Refining: questions one after the other, from weights alone, for this study only."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
from click.testing import CliRunner
from tests.conftest import TINY, small_work, submission_of

from ldru_study.analysis.cell import judge_cells
from ldru_study.analysis.collect import collect
from ldru_study.cli import job, main, remote
from ldru_study.cli.refine import bisection_of
from ldru_study.execution.brake import Brake
from ldru_study.execution.jobs import JobOrder, JobState
from ldru_study.execution.refine import Refinement, prepare_refinement
from ldru_study.execution.submit import new_record
from ldru_study.execution.tune import RunResult
from ldru_study.results.facts import WEIGHTS_FILE
from ldru_study.results.query import Database
from ldru_study.spec.plan import Question
from ldru_study.training.attempt import run_attempt
from ldru_study.training.work import Outcome

LENGTHS = (8, 64)
# enough strings for a faultless length to hold surely
TEXT = TINY.replace("multiples: [1, 2], strings: 64", "multiples: [1, 8], strings: 512")


@pytest.fixture
def study(store):
    """Return a store with a study whose LSTMs seem to fail somewhere between 8 and 64 tokens.

    Their counts at these two lengths are made up; what is asked later is answered by a fake.
    """
    submission = submission_of(TEXT, store)
    for trial in submission.plan.trials:
        store.files.write(f"checkpoints/{trial.trial_id}/{WEIGHTS_FILE}", b"weights")
        fails = trial.config.model.kind == "lstm"
        answer(store, trial.trial_id, 8, 512)
        answer(store, trial.trial_id, 64, 256 if fails else 512)
    return store


def answer(store, trial_id, length, num_correct, attempt="1"):
    row = dict.fromkeys(("loss", "seconds"), 0.0) | {"committed_at": None, "eval_seed": 0}
    row |= {"trial_id": trial_id, "attempt_id": attempt, "length": length, "multiple": length / 8}
    row |= {"num_correct": num_correct, "num_total": 512, "chance": 0.5}
    name = f"{trial_id}-{attempt}" if attempt != "1" else f"{trial_id}-{attempt}-{length}"
    store.commit("evaluations", name, [row])


def refine(store, ratio=1.05, *, most=10**6, fails_at=23, fail=lambda work: False):
    """Refine with answers that fail from a length on; return what was asked, in order."""
    submission, trials, _ = prepare_refinement(
        store, "tiny", new_record(["refine"]), is_recorded=False
    )

    def next_length(trial, rows):
        found = bisection_of(submission, trial, rows, ratio)
        return found.next_length if found else None

    agenda, asked = Refinement(submission, trials, next_length, Brake()), []
    while len(asked) < most and (work := agenda.next()) is not None:
        (question,) = work.questions
        asked.append((work.config.seed, question.length))
        # recorded before it is answered
        assert question.length in [
            row["length"] for row in store.read("refinements")[0].to_pylist()
        ]
        attempt = f"2-{question.length}"
        if fail(work):
            agenda.ended(work, Outcome("failed", "bug", "no"))
            continue
        right = 512 if question.length < fails_at else 256
        answer(store, work.config.trial_id, question.length, right, attempt)
        agenda.ended(work, Outcome("done", attempt_id=attempt))
    return asked, agenda, trials


def test_each_failing_trial_is_bisected_and_no_other(study):
    asked, agenda, trials = refine(study)
    assert agenda.is_over
    assert {seed for seed, _ in asked} == {0, 1}
    for one in trials:
        lengths = sorted(row["length"] for row in one.rows)
        if one.trial.config.model.kind == "lstm":
            assert one.num_asked == len(asked) / 2
            assert {22, 23} <= set(lengths)
        else:
            assert lengths == list(LENGTHS)
    assert refine(study)[0] == []


def test_verdicts_use_the_new_lengths_and_only_in_this_study(study):
    resolved = json.loads(study.files.read("studies/tiny/resolved.json"))
    study.save_study("other", {"resolved.json": json.dumps(resolved).encode()})
    refine(study)
    counts = collect(study, "tiny")
    constant, lstm = judge_cells(counts.cells, counts.settings)
    assert [len(curve.lengths) for curve in lstm.cell.curves] == [8, 8]
    for seed in lstm.seeds:
        assert (seed.bracket.holds_at, seed.bracket.fails_at) == (22 / 8, 23 / 8)
    assert [len(curve.lengths) for curve in constant.cell.curves] == [2, 2]
    sizes = Database(study).rows("select study, count(*) as n from evaluations group by all")
    assert {row["study"]: row["n"] for row in sizes} == {"tiny": 20, "other": 8}
    # what is done stays done
    assert submission_of(TEXT, study).plan.is_complete


def test_an_interrupted_refinement_goes_on(study):
    first, agenda, _ = refine(study, most=3)
    assert not agenda.is_over
    second, agenda, _ = refine(study)
    assert agenda.is_over
    assert sorted(first + second) == sorted({*first, *second})
    # another ratio goes on from what is known
    third, _, trials = refine(study, ratio=1.01)
    assert third == []
    assert {one.num_asked for one in trials} == {0}


def test_seeds_may_differ_in_their_lengths(study):
    refine(study, fail=lambda work: work.config.seed == 1)
    counts = collect(study, "tiny")
    _, lstm = judge_cells(counts.cells, counts.settings)
    assert [len(curve.lengths) for curve in lstm.cell.curves] == [8, 2]
    assert lstm.pooled.bracket.fails_at is not None


def test_an_answer_that_is_there_is_not_asked_for(study):
    ids = {row["seed"]: row["trial_id"] for row in lstms(study)}
    # as another study would have left it: 23 is the middle of 8 and 64
    answer(study, ids[0], 23, 256, "1")
    asked, _, _ = refine(study)
    assert (0, 23) not in asked
    assert (1, 23) in asked
    counts = collect(study, "tiny")
    assert [23 in curve.lengths for curve in counts.cells[1].curves] == [True, True]


def lstms(store):
    return Database(store).rows("select seed, trial_id from trials where model.kind = 'lstm'")


def test_dry_run_says_what_it_would_ask_and_writes_nothing(study):
    before = study.files.list("", recursive=True)
    done = CliRunner().invoke(main, ["refine", "tiny", "--dry-run", "--store", study.uri])
    assert done.exit_code == 0, done.output
    assert "tiny: 2 of 4 trials to bisect, about 12 evaluations." in done.stderr
    assert done.stdout.count("8 to 64 tokens") == 4
    assert done.stdout.count("no failure to bisect") == 4
    assert study.files.list("", recursive=True) == before
    refused = CliRunner().invoke(main, ["refine", "tiny", "--ratio", "1", "--store", study.uri])
    assert refused.exit_code == 2


def test_a_study_whose_trials_are_called_otherwise_now_is_refused(study):
    resolved = json.loads(study.files.read("studies/tiny/resolved.json"))
    (_, lstm) = resolved["cells"]
    lstm["trial_ids"] = [trial_id[::-1] for trial_id in lstm["trial_ids"]]
    study.save_study("tiny", {"resolved.json": json.dumps(resolved).encode()})
    refused = CliRunner().invoke(main, ["refine", "tiny", "--dry-run", "--store", study.uri])
    assert refused.exit_code == 2
    assert "tiny: parity_check/lstm: submitted by another version" in refused.stderr


def test_on_ray_from_saved_weights(store):
    """Real weights, real counts: the LSTM of two steps knows nothing, so its rows are made up."""
    submission = submission_of(TEXT.replace("seeds: 2", "seeds: 1"), store)
    for trial in submission.plan.trials:
        questions = tuple(Question(length, 512, 0) for length in LENGTHS)
        run_attempt(replace(small_work(trial.config, store), questions=questions))
    (lstm,) = lstms(store)
    for length, right in ((8, 512), (64, 200)):
        answer(store, lstm["trial_id"], length, right, f"9-{length}")
    done = CliRunner().invoke(
        main, ["refine", "tiny", "--ratio", "3", "--json", "--store", store.uri]
    )
    assert done.exit_code == 0, done.output
    rows = {row["cell"]: row for row in json.loads(done.stdout)}
    found = rows["parity_check/lstm"]
    assert found["before"] == [8, 64]
    assert found["num_evaluated"] == 1
    assert found["after"] in ([8, 23], [23, 64])
    assert "parity_check/lstm seed 0, 23 tokens: done" in done.stderr
    # nothing was trained, and the record says what was run
    steps = Database(store).rows("select count(*) as n from attempts where event = 'start'")
    assert steps == [{"n": 3}]
    assert len(store.provenance("tiny")["submissions"]) == 2


ADDRESS = "http://head:8265"


class Cluster:
    """Stands for `Jobs`: an order that is sent is refined at once, with answers of the fake."""

    address = ADDRESS

    def __init__(self, store, *, ends=0):
        self.store, self.ends, self.orders = store, ends, []

    def send(self, order):
        self.orders.append(JobOrder.from_json(order.to_json()))
        if self.ends is not None:
            refine(self.store, order.ratio)

    def state(self, job_id):
        return JobState("failed" if self.ends else "succeeded", "ended", self.ends)


@pytest.fixture
def cluster(study, monkeypatch):
    found = Cluster(study)

    def reached(address):
        assert address == ADDRESS
        return found

    monkeypatch.setattr("ldru_study.execution.jobs.Jobs", reached)
    monkeypatch.setattr(remote, "_ASK_S", 0.0)
    monkeypatch.setattr(remote, "_POLL_S", 0.0)
    return found


def run_remotely(store, *options):
    given = ["refine", "tiny", "--address", ADDRESS, "--store", store.uri]
    return CliRunner().invoke(main, [*given, *options])


def test_on_a_cluster_as_a_job(study, cluster):
    done = run_remotely(study, "--json")
    assert done.exit_code == 0, done.output
    (order,) = cluster.orders
    assert (order.ratio, order.store, order.address) == (1.05, study.uri, ADDRESS)
    assert f"Sent to {ADDRESS} as job {order.job_id}." in done.stderr
    rows = json.loads(done.stdout)
    assert [row["after"] for row in rows if row["before"]] == [[22, 23]] * 2
    # both LSTMs were asked about six lengths between 8 and 64
    assert [row["num_evaluated"] for row in rows] == [0, 0, 6, 6]
    # again: nothing to do, and the cluster is not asked
    again = run_remotely(study)
    assert again.exit_code == 0
    assert "Nothing is left to do; the cluster is not asked." in again.stderr
    assert len(cluster.orders) == 1
    assert run_remotely(study, "--down-when-done").exit_code == 0
    assert cluster.orders[1].flags == {"down_when_done": True}


def test_a_study_that_is_submitted_with_fewer_seeds_meanwhile(study, cluster, monkeypatch):
    send = cluster.send

    def send_and_submit(order):
        send(order)
        submission_of(TEXT.replace("seeds: 2", "seeds: 1"), study)

    monkeypatch.setattr(cluster, "send", send_and_submit)
    done = run_remotely(study, "--json")
    assert done.exit_code == 0, done.output
    assert "tiny: the study has changed since: it was submitted again without 2 of" in done.stderr
    assert [row["num_evaluated"] for row in json.loads(done.stdout)] == [0, 0, 6, 0]


@pytest.mark.parametrize("code", [1, 4, 130])
def test_the_exit_code_of_the_job_is_that_of_the_command(study, cluster, code):
    cluster.ends = code
    assert run_remotely(study).exit_code == code


def test_sent_and_left_alone(study, cluster):
    cluster.ends = None
    done = run_remotely(study, "--no-wait", "--json")
    assert done.exit_code == 0, done.output
    (order,) = cluster.orders
    assert json.loads(done.stdout)["job_id"] == order.job_id == f"tiny-{order.submission_id}"
    recorded = [one["submission_id"] for one in study.provenance("tiny")["submissions"]]
    assert recorded[-1] == order.submission_id
    refused = CliRunner().invoke(main, ["refine", "tiny", "--no-wait", "--store", study.uri])
    assert refused.exit_code == 2
    assert "--no-wait is for a cluster. Give its --address" in refused.stderr
    # whoever only asks needs no cluster
    assert run_remotely(study, "--dry-run").exit_code == 0
    assert len(cluster.orders) == 1


def test_nothing_is_recorded_for_a_cluster_that_is_not_there(study):
    nowhere = "http://127.0.0.1:9"
    given = ["refine", "tiny", "--address", nowhere, "--store", study.uri]
    done = CliRunner().invoke(main, given)
    assert done.exit_code == 6, done.output
    assert f"--address {nowhere}: no answer" in done.stderr
    assert len(study.provenance("tiny")["submissions"]) == 1


def test_the_job_refines_what_was_sent(study, cluster, monkeypatch, tmp_path, capsys):
    cluster.ends = None
    run_remotely(study, "--no-wait", "--ratio", "1.2")
    (order,) = cluster.orders
    seen = {}

    def driven(submission, shown_on, agenda_of, options, *, job):
        seen.update(submission=submission, options=options, job=job)
        agenda = agenda_of(Brake(), print)
        while (work := agenda.next()) is not None:
            (question,) = work.questions
            right = 512 if question.length < 23 else 256
            attempt = f"2-{question.length}"
            answer(study, work.config.trial_id, question.length, right, attempt)
            agenda.ended(work, Outcome("done", attempt_id=attempt))
        return RunResult((), (), (), None, "")

    monkeypatch.setattr("ldru_study.cli.run.drive", driven)
    path = tmp_path / "order.json"
    path.write_text(order.to_json())
    assert job.main(str(path)) == 0
    assert seen["submission"].submission_id == order.submission_id
    assert seen["options"].address == "auto"
    assert seen["job"] == (ADDRESS, order.job_id)
    assert "8 to 64 tokens" in capsys.readouterr().out
    _, trials, _ = prepare_refinement(study, "tiny", new_record(["refine"]), is_recorded=False)
    lengths = {
        max(row["length"] for row in one.rows if row["num_correct"] == 512) for one in trials
    }
    assert lengths <= {64, 20, 21, 22}
    assert len(study.provenance("tiny")["submissions"]) == 2
