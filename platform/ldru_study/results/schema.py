"""The columns of every table in the store; a name here is a name in YAML and in SQL."""

from __future__ import annotations

import re

import pyarrow as pa

# raise when a column changes its meaning; readers refuse files from a later version
SCHEMA_VERSION = 1
_VERSION_KEY = b"ldru_study.schema_version"

_KEYS = [("trial_id", pa.string()), ("attempt_id", pa.string())]
_TIME = pa.timestamp("us", tz="UTC")

# one row: one trial at one test length
EVALUATIONS = pa.schema(
    [
        *_KEYS,
        ("length", pa.int64()),
        ("multiple", pa.float64()),
        ("num_correct", pa.int64()),
        ("num_total", pa.int64()),
        ("chance", pa.float64()),
        ("loss", pa.float64()),
        ("eval_seed", pa.int64()),
        ("seconds", pa.float64()),
        ("committed_at", _TIME),
    ]
)
# one row: one trial at one training step, steps spaced logarithmically
METRICS = pa.schema(
    [
        *_KEYS,
        ("step", pa.int64()),
        ("train_loss", pa.float64()),
        ("validation_loss", pa.float64()),
        ("validation_num_correct", pa.int64()),
        ("validation_num_total", pa.int64()),
        ("learning_rate", pa.float64()),
        ("gradient_norm", pa.float64()),
        ("associativity_defect", pa.float64()),
        ("seconds", pa.float64()),
        # per level of a tree, leaves first; null for models without
        ("level_state_norms", pa.list_(pa.float64())),
        ("level_gradient_norms", pa.list_(pa.float64())),
    ]
)
# one row: the start or the end of one attempt at one trial
ATTEMPTS = pa.schema(
    [
        *_KEYS,
        ("study", pa.string()),
        ("event", pa.string()),
        ("state", pa.string()),
        ("cause", pa.string()),
        ("message", pa.string()),
        ("traceback", pa.string()),
        ("step", pa.int64()),
        ("seconds", pa.float64()),
        ("host", pa.string()),
        ("pid", pa.int64()),
        ("at", _TIME),
        ("config", pa.string()),
        ("versions", pa.string()),
        # strings at once in training; null when it was the whole batch, or nothing was trained
        ("micro_batch_size", pa.int64()),
        # what the trial took of the machine
        ("cpus", pa.float64()),
        ("gpus", pa.float64()),
    ]
)
# one row: settings that a search tries, written before their trial begins
SUGGESTIONS = pa.schema(
    [
        ("search_id", pa.string()),
        ("number", pa.int64()),
        ("study", pa.string()),
        ("cell", pa.string()),
        ("trial_id", pa.string()),
        ("params", pa.string()),
        ("config", pa.string()),
        ("known", pa.list_(pa.int64())),
        ("suggested_at", _TIME),
    ]
)
# one row: a question that `refine` asks of one trial of a study, written before it is answered
REFINEMENTS = pa.schema(
    [
        ("study", pa.string()),
        ("trial_id", pa.string()),
        ("length", pa.int64()),
        ("num_total", pa.int64()),
        ("eval_seed", pa.int64()),
        ("asked_at", _TIME),
    ]
)
TABLES = {
    "attempts": ATTEMPTS,
    "evaluations": EVALUATIONS,
    "metrics": METRICS,
    "refinements": REFINEMENTS,
    "suggestions": SUGGESTIONS,
}
# rows of evaluations answer the same question when they agree in these
QUESTION = ("length", "num_total", "eval_seed")
# two rows that agree in these are one row; of two that do so by mistake, the later counts
ROW_KEYS = {
    "attempts": ("trial_id", "attempt_id", "event"),
    "evaluations": ("trial_id", "attempt_id", *QUESTION),
    "metrics": ("trial_id", "attempt_id", "step"),
    "refinements": ("study", "trial_id", *QUESTION),
    "suggestions": ("search_id", "number"),
}
# whose the rows are, each named by 16 hexadecimal digits
OWNERS = {
    "attempts": "trial_id",
    "evaluations": "trial_id",
    "metrics": "trial_id",
    "refinements": "trial_id",
    "suggestions": "search_id",
}
_OWNED = r"([0-9a-f]{16})(?:-.*)?\.parquet"
_OWNED_NAMES = {
    **dict.fromkeys(("attempts", "evaluations", "metrics", "suggestions"), re.compile(_OWNED)),
    # the name of a study, which may be anything, stands before the trial
    "refinements": re.compile(r".*-([0-9a-f]{16})-\d+-\d+-\d+\.parquet"),
}
ROW_TIMES = {
    "attempts": "at",
    "evaluations": "committed_at",
    "refinements": "asked_at",
    "suggestions": "suggested_at",
}


def owner_of(table: str, name: str) -> str | None:
    """Return the owner of all rows in a file of ``table``, by its name; None: it may hold any."""
    found = _OWNED_NAMES[table].fullmatch(name.rpartition("/")[2])
    return found and found[1]


def versioned(schema: pa.Schema) -> pa.Schema:
    """Return ``schema`` with the schema version that every file carries."""
    return schema.with_metadata({_VERSION_KEY: str(SCHEMA_VERSION).encode()})


def version_of(schema: pa.Schema) -> int | None:
    """Return the schema version that a file carries; None for a foreign file."""
    metadata = schema.metadata or {}
    text = metadata.get(_VERSION_KEY, b"").decode(errors="replace")
    return int(text) if text.isdigit() else None
