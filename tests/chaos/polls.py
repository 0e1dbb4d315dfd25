"""`ldru-study status`, asked all the time, and whether each of its answers was true.

Run as a module this is the process that asks: `python -m tests.chaos.polls STORE STUDY FILE`.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from click.testing import CliRunner

from ldru_study.cli import main
from ldru_study.cli.group import FAILED
from ldru_study.errors import NotFoundError
from ldru_study.results.facts import Facts

NO_STUDY = NotFoundError.exit_code
_PAUSE_S = 0.5
# what a status that was read at its very beginning may still not know
_GRACE_S = 1.0
# a trial that has begun is waited for until its first sign of life is in the store
_FIRST_BEAT_S = 8.0


@dataclass(frozen=True)
class Poll:
    """One answer; times in seconds since 1970, ``trials`` maps trial ids to state and cause."""

    begun: float
    ended: float
    exit_code: int
    trials: Mapping[str, tuple[str, str | None]]
    said: str

    @property
    def num_done(self) -> int:
        """How many trials are done, by this answer."""
        return sum(state == "done" for state, _ in self.trials.values())


def ask(store: str, study: str) -> Poll:
    """Run the command in this process: all of it but the start of Python."""
    begun = time.time()
    answer = CliRunner().invoke(main, ["status", study, "--json", "--store", store])
    ended, trials = time.time(), {}
    if answer.stdout:
        for trial in json.loads(answer.stdout)["studies"][0]["trials"]:
            trials[trial["trial_id"]] = (trial["state"], trial["cause"])
    return Poll(begun, ended, answer.exit_code, trials, answer.stderr)


def read_polls(path: Path) -> list[Poll]:
    """Return the answers so far; the last line may be half-written."""
    lines = path.read_text().split("\n")[:-1] if path.exists() else []
    return [Poll(**json.loads(line)) for line in lines]


@dataclass(frozen=True)
class Life:
    """When a process was last seen alive, and first seen gone, in seconds since 1970."""

    last_seen: float
    gone: float = float("inf")


@dataclass(frozen=True)
class Attempt:
    """When an attempt began and was over, in seconds since 1970; the latter lies between two."""

    begun: float
    over_at_least: float
    over_at_most: float
    state: str | None
    cause: str | None


def attempts_of(
    facts: Facts, lives: Mapping[int, Life], driver_ends: list[tuple[float, float]]
) -> dict[str, list[Attempt]]:
    """Return the attempts at each trial.

    Args:
        facts: of the store when all is over.
        lives: of the processes by their ids.
        driver_ends: between which times a driver was killed; what it had begun is over then.
    """
    rows = facts.attempts.to_pylist()
    ends = {row["attempt_id"]: row for row in rows if row["event"] == "end"}
    found: dict[str, list[Attempt]] = {}
    for row in rows:
        if row["event"] == "start":
            begun, life = row["at"].timestamp(), lives.get(row["pid"])
            end: dict[str, Any] = ends.get(row["attempt_id"]) or {}
            over = [(end["at"].timestamp(),) * 2] if end else []
            # a process that lived too shortly to be seen may have been over at once
            over += [(max(life.last_seen, begun), life.gone)] if life else [(begun, float("inf"))]
            over += [killed for killed in driver_ends if begun < killed[1]]
            attempt = Attempt(
                begun,
                min(least for least, _ in over),
                min(most for _, most in over),
                end.get("state"),
                end.get("cause"),
            )
            found.setdefault(row["trial_id"], []).append(attempt)
    return found


def false_answers(
    polls: list[Poll], facts: Facts, attempts: Mapping[str, list[Attempt]], num_trials: int
) -> Iterator[str]:
    """Yield what was false in any answer, by what is known when all is over.

    An answer is false when it lacks a trial; when it says ``done`` of a trial whose rows were not
    all committed by then, or no longer says so; ``running`` of one at which no process worked;
    ``failed`` without an end that says so, for the same cause; ``waiting`` of one that had begun;
    ``interrupted`` of one that ran all the while.
    """
    committed = _committed(facts)
    known: dict[str, str] = {}
    for poll in polls:
        when = time.strftime("%H:%M:%S", time.localtime(poll.begun))
        if poll.exit_code == NO_STUDY and not known:
            # nobody has submitted it yet
            continue
        if poll.exit_code not in (0, FAILED) or "Warning" in poll.said:
            yield f"{when}: status ended with {poll.exit_code}: {poll.said.strip()}"
            continue
        if len(poll.trials) != num_trials:
            yield f"{when}: status lists {len(poll.trials)} trials of {num_trials}"
        for trial_id, (state, cause) in poll.trials.items():
            before, known[trial_id] = known.get(trial_id, "waiting"), state
            mine = [one for one in attempts.get(trial_id, []) if one.begun <= poll.ended]
            is_whole = committed.get(trial_id, float("inf")) <= poll.ended
            why = _backwards(before, state) or _why_false(poll, state, cause, mine, is_whole)
            if why:
                yield f"{when}: trial {trial_id} is said to be {state}, {why}"


def _backwards(before: str, state: str) -> str | None:
    if state in (before, "done") or before == "waiting":
        return None
    # what has begun is never again as if it had not, and what is done stays so
    return f"and was {before} before" if "waiting" in state or before == "done" else None


def _why_false(
    poll: Poll, state: str, cause: str | None, attempts: list[Attempt], is_whole: bool
) -> str | None:
    """Say why an answer cannot be true of a trial with these attempts, or return None."""
    if state == "done" and not is_whole:
        return "and not all its rows were committed"
    if state == "running" and not any(
        one.over_at_most >= poll.begun - _GRACE_S for one in attempts
    ):
        return "and no process worked at it"
    if state == "failed" and not any(
        (one.state, one.cause) == ("failed", cause) for one in attempts
    ):
        return f"for the cause {cause}, and no attempt ended so"
    if state == "interrupted" and any(
        one.begun < poll.begun - _FIRST_BEAT_S and one.over_at_least > poll.ended
        for one in attempts
    ):
        return "and an attempt ran all the while"
    return None


def _committed(facts: Facts) -> dict[str, float]:
    """Return when each trial's last question had its first answer, in seconds since 1970."""
    firsts: dict[tuple[str, int], float] = {}
    for row in facts.answers.to_pylist():
        key, at = (row["trial_id"], row["length"]), row["committed_at"].timestamp()
        firsts[key] = min(at, firsts.get(key, at))
    found: dict[str, float] = {}
    for (trial_id, _), at in firsts.items():
        found[trial_id] = max(at, found.get(trial_id, at))
    return found


if __name__ == "__main__":
    with open(sys.argv[3], "a") as stream:
        while True:
            stream.write(json.dumps(asdict(ask(sys.argv[1], sys.argv[2]))) + "\n")
            stream.flush()
            time.sleep(_PAUSE_S)
