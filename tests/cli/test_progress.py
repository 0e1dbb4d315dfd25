"""What is shown while a study runs."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from ldru_study.cli.progress import StudyProgress, duration
from ldru_study.spec.plan import Holdings, plan_study
from ldru_study.spec.study import validate_study
from ldru_study.spec.yaml_file import parse_yaml
from ldru_study.training.work import Outcome, Progress, Work

SPEC = """
name: shown
grid:
  model: [{kind: constant}, {kind: lstm, width: 4}]
task: parity_check
seeds: 3
"""


class Clock:
    now = 100.0

    def __call__(self):
        return self.now


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def plan():
    file = parse_yaml(SPEC, "shown.yaml")
    spec = validate_study(file.content, file)
    first = plan_study(spec).trials[0]
    held = Holdings(answered={first.trial_id: frozenset(first.questions)})
    return plan_study(spec, held)


def shown(plan, clock, *, terminal):
    out = io.StringIO()
    console = Console(file=out, force_terminal=terminal, width=100, color_system=None)
    return StudyProgress(plan, console, clock), out


def orders(plan):
    return [
        Work(trial.config, trial.missing, "shown", "x", cell=trial.cell.key)
        for trial in plan.to_run
    ]


def table_rows(progress):
    console = Console(file=io.StringIO(), width=120)
    console.print(progress.table())
    text = console.file.getvalue()
    return text.splitlines()[0].strip(), {
        line.split()[0]: line.split()[1:] for line in text.splitlines() if "parity_check" in line
    }


def test_a_line_per_event_where_there_is_no_terminal(plan, clock):
    progress, out = shown(plan, clock, terminal=False)
    first, second, *_ = orders(plan)
    with progress:
        progress.started(first)
        progress.progressed(first, Progress(10, 100, 0.5))
        clock.now += 12
        progress.ended(first, Outcome("done", seconds=12.0))
        progress.started(second)
        progress.ended(second, Outcome("failed", "diverged", "step 3: loss nan."))
    assert out.getvalue().splitlines() == [
        "[1/5] parity_check/constant seed 1 done in 12 s, validation 50.0 %",
        "[2/5] parity_check/constant seed 2 failed (diverged): step 3: loss nan.",
    ]


def test_long_trials_give_a_sign_of_life(plan, clock):
    progress, out = shown(plan, clock, terminal=False)
    (work, *_) = orders(plan)
    progress.started(work)
    for step in range(1, 10):
        clock.now += 10
        progress.progressed(work, Progress(step, 100, None))
    assert out.getvalue().splitlines() == [
        f"[0/5] parity_check/constant seed 1 at step {step} of 100" for step in (3, 6, 9)
    ]


def test_the_table_has_a_row_per_cell(plan, clock):
    progress, _ = shown(plan, clock, terminal=False)
    title, rows = table_rows(progress)
    assert title == "0 of 5 trials, 0.0 s"
    assert rows == {"parity_check/constant": ["1/3"], "parity_check/lstm": ["0/3"]}


def test_rate_accuracy_and_time_left(plan, clock):
    progress, _ = shown(plan, clock, terminal=False)
    works = orders(plan)
    for work in works[1:3]:
        progress.started(work)
    for work in works[1:3]:
        progress.progressed(work, Progress(10, 100, 0.5))
    clock.now += 10
    progress.progressed(works[1], Progress(30, 100, 0.75))
    progress.progressed(works[2], Progress(50, 100, 1.0))
    _, rows = table_rows(progress)
    # 20 steps in 10 s; an lstm trial has taken 10 s for half of its steps
    assert rows["parity_check/constant"][:3] == ["1/3", "75.0", "%"]
    assert rows["parity_check/constant"][3] == "2"
    assert rows["parity_check/lstm"] == ["0/3", "100.0", "%", "4", "25", "s"]
    progress.ended(works[2], Outcome("done", seconds=20.0))
    _, rows = table_rows(progress)
    # two more of 20 s each, two at a time
    assert rows["parity_check/lstm"] == ["1/3", "100.0", "%", "20", "s"]


def test_failed_trials_are_counted_apart(plan, clock):
    progress, _ = shown(plan, clock, terminal=False)
    (work, *_) = orders(plan)
    progress.started(work)
    progress.ended(work, Outcome("failed", "bug", "oops"))
    title, rows = table_rows(progress)
    assert title.startswith("1 of 5 trials")
    assert rows["parity_check/constant"] == ["1/3", "(1", "failed)"]


def test_a_terminal_shows_a_table_and_takes_it_away(plan, clock):
    progress, out = shown(plan, clock, terminal=True)
    with progress:
        pass
    assert "parity_check/lstm" in out.getvalue()


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(-1, "0.0 s"), (0.44, "0.4 s"), (9.96, "10 s"), (59.6, "1 min 00 s"), (3725, "1 h 02 min")],
)
def test_durations(seconds, text):
    assert duration(seconds) == text
