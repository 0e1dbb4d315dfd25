"""The paper pack: tables, a figure, and for every number the SQL that it follows from.

A number stands in a table only as the text of a `Claim`: a query over one study, and words for its
one row. Checking asks the queries again, so that what no longer follows from the store is found.
"""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from ldru_study.analysis.collect import counts_of
from ldru_study.analysis.failure import Estimate
from ldru_study.analysis.latex import escape, table, typeset
from ldru_study.analysis.plots import failure_figure
from ldru_study.analysis.tables import accuracies, claim_words, estimate, share
from ldru_study.analysis.verdict import times
from ldru_study.analysis.views import open_database
from ldru_study.errors import NotFoundError, StudyError
from ldru_study.results.query import Database, to_records
from ldru_study.results.sql import QueryError
from ldru_study.results.store import Store

VERDICTS, FAILURES, CURVES, FIGURE, CLAIMS = (
    "verdicts.tex",
    "failures.tex",
    "curves.tex",
    "failure_curves.pdf",
    "claims.json",
)
PREVIEW = "preview.tex"
_Row = Mapping[str, Any]


@dataclass(frozen=True)
class Claim:
    """One entry of a table and where it comes from.

    Args:
        file: the table.
        cell: the cell of the study that it is about.
        seed: the replicate; None for a cell as a whole.
        column: head of its column.
        sql: a query that returns one row.
        values: that row.
        text: how the row is written, LaTeX.
    """

    file: str
    cell: str
    seed: int | None
    column: str
    sql: str
    values: _Row
    text: str

    @property
    def where(self) -> str:
        """Name the entry for a person."""
        seed = "" if self.seed is None else f" seed {self.seed}"
        return f"{self.file}: {self.cell}{seed}, '{self.column}'"


@dataclass(frozen=True)
class _Column:
    """A column of a table: its head, what it selects of a view and how a row of that is written."""

    head: str
    select: tuple[str, ...]
    write: Callable[[_Row], str]
    align: str = "r"
    # said once, in the caption, where all rows say the same
    is_setting: bool = False


def _estimated(name: str) -> _Column:
    names = (name, f"{name}_lower", f"{name}_upper")
    return _Column(name, names, lambda row: estimate(Estimate(*(row[n] for n in names))))


def _ranged(head: str, name: str) -> _Column:
    low, high = f"{name}_min", f"{name}_max"

    def write(row: _Row) -> str:
        return "-" if row[low] is None else accuracies((row[low], row[high]))

    return _Column(head, (low, high), write)


def _plain(head: str, name: str, align: str = "l") -> _Column:
    return _Column(head, (name,), lambda row: _word(row[name]), align)


def _setting(column: _Column) -> _Column:
    return replace(column, is_setting=True)


def _word(value: object) -> str:
    return "-" if value is None else str(value).replace("_", " ")


def _rounded(head: str, name: str, digits: int) -> _Column:
    return _Column(
        head, (name,), lambda row: "-" if row[name] is None else f"{row[name]:.{digits}g}"
    )


def _selection(row: _Row) -> str:
    rules = {None: "as given", "search": "search", "oracle": "search on test lengths (oracle)"}
    return rules[row["chosen_by"]]


def _strings(row: _Row) -> str:
    low, high = row["num_strings_min"], row["num_strings_max"]
    return "-" if low is None else str(low) if low == high else f"{low} to {high}"


def _bound(row: _Row) -> str:
    if row["error_bound"] is None:
        return "-"
    return f"error < {100 * row['error_bound']:.2g} %"


def _near_perfect(row: _Row) -> str:
    return claim_words((row["claim_at_2x"], row["claim_at_3x"]), row["num_unfinished"])


def _shares(row: _Row) -> str:
    if not row["num_seeds"]:
        return "-"
    return f"{share(row['holds_share_lower'])} to {share(row['holds_share_upper'])}"


def _named(column: _Column, head: str) -> _Column:
    return replace(column, head=head)


_CONFIDENCE = _Column("Confidence", ("distinct confidence",), lambda row: share(row["confidence"]))
_NEAR_PERFECT = _Column(
    "Near-perfect", ("distinct near_perfect",), lambda row: f"{100 * row['near_perfect']:g} %"
)
_SHARPNESS = _Column(
    "Sharpness W",
    ("sharpness", "sharpness_lower", "sharpness_upper"),
    # a ratio of lengths, no multiple of one
    lambda row: estimate(Estimate(*row.values())).replace("x", ""),
)
_LEFT_OUT = _Column(
    "Left out",
    ("left_out",),
    lambda row: ", ".join(f"seed {seed}" for seed in row["left_out"]) or "-",
    "l",
)
_VERDICT_COLUMNS = (
    _plain("Verdict", "verdict"),
    _plain("Each seed alone", "summary"),
    _setting(_plain("Seeds", "num_seeds", "r")),
    _setting(_Column("Strings", ("num_strings_min", "num_strings_max"), _strings)),
    _ranged("In distribution", "accuracy_in_distribution"),
    _ranged("At 2x", "accuracy_at_2x"),
    _ranged("At 3x", "accuracy_at_3x"),
    _Column(
        "Near-perfect at 2x, 3x",
        ("claim_at_2x", "claim_at_3x", "num_unfinished"),
        _near_perfect,
        "l",
    ),
    _setting(
        _Column(
            "Longest",
            ("longest",),
            lambda row: "-" if row["longest"] is None else times(row["longest"]),
        )
    ),
    _named(_estimated("half_multiple"), "Half way to chance"),
    _Column("Bound per length", ("error_bound",), _bound),
    _Column("Share that holds", ("num_seeds", "holds_share_lower", "holds_share_upper"), _shares),
    _setting(_Column("Selection", ("chosen_by",), _selection, "l")),
)
# all seeds together
_FAILURE_COLUMNS = (
    _plain("Verdict", "verdict"),
    _named(_estimated("half_multiple"), "Half way to chance"),
    _named(_estimated("failure_multiple_99"), "To 99 %"),
    _named(_estimated("failure_multiple_90"), "To 90 %"),
    _named(_estimated("failure_multiple_50"), "To 50 %"),
    _rounded("Sharpness W", "sharpness", 3),
    _rounded("Scatter", "scatter", 2),
    _LEFT_OUT,
)
# one seed
_CURVE_COLUMNS = (
    _plain("Verdict", "verdict"),
    _named(_estimated("half_multiple"), "Half way to chance"),
    _SHARPNESS,
    _Column(
        "Bracket",
        ("holds_at", "fails_at"),
        lambda row: " to ".join(
            "?" if row[name] is None else times(row[name]) for name in ("holds_at", "fails_at")
        ),
    ),
)


def write_pack(store: Store, study: str, folder: Path) -> list[Path]:
    """Write the tables, the figure and `claims.json` of a study; the same store, the same bytes.

    Raises:
        NotFoundError: the store holds no such study, or no results of it.
        StudyError: a file cannot be written.
    """
    database = open_database(store, [study])
    files = _pack(database, study)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name, data in files.items():
            (folder / name).write_bytes(data)
    except OSError as error:
        raise StudyError(f"{folder}: cannot be written: {error.strerror}.") from error
    return [folder / name for name in files]


def check_pack(store: Store, study: str, folder: Path) -> list[str]:
    """Return what of a pack no longer follows from the store, one line each; [] when all does.

    The figure is made of the same counts as the tables and is compared as a whole.

    Raises:
        NotFoundError: the store holds no such study, or the folder no pack of it.
    """
    database = open_database(store, [study])
    claims = _read_claims(study, folder)
    problems = [text for claim in claims if (text := _check(database, claim))]
    if problems:
        return problems
    for name, data in _pack(database, study).items():
        if not (folder / name).exists():
            problems.append(f"{name}: is missing.")
        elif (folder / name).read_bytes() != data:
            problems.append(_difference(folder / name, data))
    return problems


def _read_claims(study: str, folder: Path) -> list[Claim]:
    path = folder / CLAIMS
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        claims = [Claim(**claim) for claim in content["claims"]]
    except FileNotFoundError:
        raise NotFoundError(
            f"{path}: is missing. `ldru-study export {study} --latex {folder}` writes it."
        ) from None
    except (ValueError, KeyError, TypeError) as error:
        raise StudyError(f"{path}: is no file of `export` ({error}). Export again.") from error
    if content.get("study") != study:
        raise StudyError(f"{path}: is of study '{content.get('study')}', not of '{study}'.")
    return claims


def _check(database: Database, claim: Claim) -> str | None:
    """Say what is wrong with one entry, or None: it follows from the store."""
    try:
        rows = to_records(database.sql(claim.sql))
    except QueryError as error:
        return f"{claim.where}: its SQL is refused ({error})."
    if len(rows) != 1:
        return f"{claim.where}: says {claim.text}; the store has nothing of it any more."
    if rows[0] == claim.values:
        return None
    changes = ", ".join(
        f"{name} {claim.values.get(name)} is now {value}"
        for name, value in rows[0].items()
        if claim.values.get(name) != value
    )
    return f"{claim.where}: says {claim.text}, but {changes}."


def _difference(path: Path, data: bytes) -> str:
    """Say where a file differs from what the store gives."""
    if path.suffix == ".pdf":
        return f"{path.name}: is not the figure of this store and this version. Export again."
    found, wanted = path.read_bytes().splitlines(), data.splitlines()
    for number, (one, other) in enumerate(zip(found, wanted, strict=False), 1):
        if one != other:
            shown = one.decode(errors="replace").strip()
            return f"{path.name}: line {number} says {shown!r}, which is not what follows."
    return f"{path.name}: has {len(found)} lines, {len(wanted)} follow from the store."


def _pack(database: Database, study: str) -> dict[str, bytes]:
    verdicts = _verdict_table(database, study)
    if verdicts is None:
        raise NotFoundError(
            f"{study}: no trial has been evaluated yet, so there is nothing to say."
        )
    files: dict[str, bytes] = {}
    claims: list[Claim] = []
    for found in (verdicts, _failure_table(database, study), _curve_table(database, study)):
        if found is not None:
            files[found[0]] = found[1].encode()
            claims += found[2]
    files[FIGURE] = _figure(database, study)
    files[PREVIEW] = _preview(study, [name for name in files if name.endswith(".tex")]).encode()
    content = {"study": study, "claims": [asdict(claim) for claim in claims]}
    files[CLAIMS] = (json.dumps(content, indent=1, allow_nan=False) + "\n").encode()
    return files


_Table = tuple[str, str, list[Claim]]


def _verdict_table(database: Database, study: str) -> _Table | None:
    keys = database.rows("select cell, task, label from verdicts where study = $study", study=study)
    rows, claims = _cell_rows(database, study, VERDICTS, _VERDICT_COLUMNS, keys)
    if not any(claim.values.get("num_seeds") for claim in claims):
        return None
    every = ("all cells", None, f"study = {_quoted(study)}")
    settings = (_CONFIDENCE, _NEAR_PERFECT)
    confidence, near_perfect = _claims(database, VERDICTS, "verdicts", settings, every)
    claims += [confidence, near_perfect]
    text = _as_table(
        ("Task", "Model"),
        _VERDICT_COLUMNS,
        rows,
        caption=f"Study {escape(study)}: verdict of each cell from all of its seeds together, how "
        "many seeds say what alone, lowest and highest accuracy over the seeds, whether every seed "
        f"is near-perfect, at least {near_perfect.text} right (refuted by a single one that is "
        "not), and the multiple of the longest training length half way from plateau to chance for "
        "the median seed, with its interval. Bounds are exact and one-sided. "
        f"Confidence of all: {confidence.text}.",
        label=f"tab:{study}-verdicts",
    )
    return VERDICTS, text, claims


def _failure_table(database: Database, study: str) -> _Table | None:
    keys = database.rows(
        "select cell, task, label from verdicts where study = $study and scatter is not null",
        study=study,
    )
    if not keys:
        return None
    rows, claims = _cell_rows(database, study, FAILURES, _FAILURE_COLUMNS, keys)
    text = _as_table(
        ("Task", "Model"),
        _FAILURE_COLUMNS,
        rows,
        caption=f"Study {escape(study)}: where cells fail, all seeds together: the multiples where "
        "the median seed is half way from plateau to chance and where its excess over chance falls "
        "to each level, the ratio of the multiples at which a tenth and nine tenths of the excess "
        "are left, the standard deviation of the natural logarithms of the seeds' half multiples, "
        "and the seeds of another kind, which are left out.",
        label=f"tab:{study}-failures",
    )
    return FAILURES, text, claims


def _cell_rows(
    database: Database,
    study: str,
    file: str,
    columns: Sequence[_Column],
    keys: Sequence[Mapping[str, Any]],
) -> tuple[list[list[str]], list[Claim]]:
    """Return the rows of a table with one row per cell, and their claims."""
    rows, claims = [], []
    for key in keys:
        where = f"study = {_quoted(study)} and cell = {_quoted(key['cell'])}"
        found = _claims(database, file, "verdicts", columns, (key["cell"], None, where))
        claims += found
        rows.append([escape(key["task"]), escape(key["label"]), *(claim.text for claim in found)])
    return rows, claims


def _curve_table(database: Database, study: str) -> _Table | None:
    keys = database.rows(
        "select cell, task, label, seed from curves where study = $study and seed is not null",
        study=study,
    )
    if not keys:
        return None
    rows, claims = [], []
    for key in keys:
        where = (
            f"study = {_quoted(study)} and cell = {_quoted(key['cell'])} and seed = {key['seed']}"
        )
        about = (key["cell"], key["seed"], where)
        found = _claims(database, CURVES, "curves", _CURVE_COLUMNS, about)
        claims += found
        names = [escape(key["task"]), escape(key["label"]), str(key["seed"])]
        rows.append([*names, *(claim.text for claim in found)])
    text = _as_table(
        ("Task", "Model", "Seed"),
        _CURVE_COLUMNS,
        rows,
        caption=f"Study {escape(study)}: verdict of each seed, the multiple half way from plateau "
        "to chance, the ratio of the multiples at which a tenth and nine tenths of the excess "
        "over chance are left, and the last multiple that surely holds with the first that surely "
        "fails.",
        label=f"tab:{study}-curves",
    )
    return CURVES, text, claims


def _claims(
    database: Database,
    file: str,
    view: str,
    columns: Sequence[_Column],
    about: tuple[str, int | None, str],
) -> list[Claim]:
    cell, seed, where = about
    claims = []
    for column in columns:
        sql = f"select {', '.join(column.select)} from {view} where {where}"
        (values,) = to_records(database.sql(sql))
        text = typeset(column.write(values))
        claims.append(Claim(file, cell, seed, column.head, sql, values, text))
    return claims


def _as_table(
    keys: Sequence[str],
    columns: Sequence[_Column],
    rows: Sequence[Sequence[str]],
    *,
    caption: str,
    label: str,
) -> str:
    # a column that is empty in every row says nothing
    filled = [
        number
        for number in range(len(keys) + len(columns))
        if number < len(keys) or any(row[number] != typeset("-") for row in rows)
    ]
    # alike in every row, and about how the study was made
    alike = [
        number
        for number in filled
        if number >= len(keys)
        and columns[number - len(keys)].is_setting
        and len(rows) > 1
        and len({row[number] for row in rows}) == 1
    ]
    filled = [number for number in filled if number not in alike]
    heads = [*keys, *(column.head for column in columns)]
    if alike:
        said = "; ".join(f"{escape(heads[n].lower())}: {rows[0][n]}" for n in alike)
        caption = f"{caption} The same in all rows: {said}."
    aligns = [*("l" * len(keys)), *(column.align for column in columns)]
    return table(
        [heads[number] for number in filled],
        [[row[number] for number in filled] for row in rows],
        align="".join(aligns[number] for number in filled),
        caption=caption,
        label=label,
    )


def _figure(database: Database, study: str) -> bytes:
    found = io.BytesIO()
    # without a date the same curves are the same bytes
    metadata = {"CreationDate": None, "Creator": "ldru-study", "Producer": None}
    failure_figure(counts_of(database, study).cells).savefig(found, format="pdf", metadata=metadata)
    return found.getvalue()


def _preview(study: str, tables: Sequence[str]) -> str:
    """Return a document of all tables and the figure, with what a paper needs to show them."""
    lines = [
        r"\documentclass{article}",
        r"\usepackage[T1]{fontenc}",
        r"\usepackage{lmodern,textcomp,booktabs,graphicx}",
        r"\begin{document}",
        *(rf"\input{{{name}}}" for name in tables),
        r"\begin{figure}",
        rf"\includegraphics[width=\linewidth]{{{FIGURE}}}",
        rf"\caption{{Study {escape(study)}: accuracy over test length.}}",
        r"\end{figure}",
        r"\end{document}",
        "",
    ]
    return "\n".join(lines)


def _quoted(text: str) -> str:
    doubled = text.replace("'", "''")
    return f"'{doubled}'"
