"""What all commands share: errors for people, exit codes, options and where text goes."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

FAILED = 4
BUDGET = 5
UNREACHABLE = 6
INTERRUPTED = 130

_Command = TypeVar("_Command", bound=Callable[..., Any])


class StudyGroup(click.Group):
    """A group that prints the errors a user can mend without a traceback."""

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command; a `StudyError` becomes its message and its exit code."""
        from ldru_study.errors import StudyError

        try:
            return super().invoke(ctx)
        except StudyError as error:
            click.echo(f"Error: {error}", err=True)
            ctx.exit(error.exit_code)
        except KeyboardInterrupt:
            click.echo("Interrupted.", err=True)
            ctx.exit(INTERRUPTED)


def store_option(command: _Command) -> _Command:
    """Add ``--store``."""
    return click.option(
        "--store",
        "store_uri",
        envvar="LDRU_STORE",
        default="./results",
        show_default=True,
        show_envvar=True,
        metavar="URI",
        help="Folder or URI (s3://bucket/folder) that holds all studies.",
    )(command)


def json_option(command: _Command) -> _Command:
    """Add ``--json``."""
    return click.option(
        "--json", "as_json", is_flag=True, help="Print JSON on stdout instead of a table."
    )(command)


def spec_argument(command: _Command) -> _Command:
    """Add the argument SPEC and the option ``--set``."""
    argument = click.argument("spec", type=click.Path(path_type=Path))
    changes = click.option(
        "--set",
        "changes",
        multiple=True,
        metavar="PLACE=VALUE",
        help="Change a field before validation, value in YAML; repeatable. "
        "Example: --set train.steps=500 --set 'grid.task=[parity_check]'",
    )
    return argument(changes(command))


def print_json(content: Any) -> None:
    """Print JSON on stdout."""
    click.echo(json.dumps(content, indent=2, default=str, allow_nan=False))


def say(text: str) -> None:
    """Print a message on stderr, away from the data."""
    click.echo(text, err=True)


def console(*, err: bool = False) -> Console:
    """Return a rich console; wide when nobody's terminal limits it."""
    from rich.console import Console

    stream = sys.stderr if err else sys.stdout
    return Console(stderr=err, width=None if stream.isatty() else 10_000, highlight=False)


def print_table(
    columns: Sequence[str],
    rows: Iterable[Sequence[Any]],
    *,
    right: Sequence[str] = (),
    keys: Sequence[str] = (),
) -> None:
    """Print a table on stdout; the columns named in ``right`` are aligned to the right.

    On a terminal that is too narrow for all columns they are printed in several tables, each with
    the columns named in ``keys``, or, without any, wrapped. Away from a terminal the table is as
    wide as its content, one line per row, for grep and diff.
    """
    screen = console()
    shown = [[_shown(value) for value in row] for row in rows]
    if screen.is_terminal:
        for numbers in _blocks(columns, shown, keys, screen.width):
            screen.print(_table(columns, shown, right, numbers))
        return
    with screen.capture() as printed:
        screen.print(_table(columns, shown, right, range(len(columns))))
    # the first and the last line are the empty edges of the box; a row may be empty too
    lines = printed.get().splitlines()[1:-1]
    click.echo("\n".join(line.rstrip() for line in lines))


def _blocks(
    columns: Sequence[str], rows: Sequence[Sequence[str]], keys: Sequence[str], width: int
) -> list[list[int]]:
    """Split the columns, by their numbers, into blocks that fit the width; keys are in each."""
    from rich.cells import cell_len

    first = [number for number, column in enumerate(columns) if column in keys]
    # each column has a space on its left and two on its right
    widths = [
        max(cell_len(text) for text in (column, *(row[number] for row in rows))) + 3
        for number, column in enumerate(columns)
    ]
    if not first:
        return [list(range(len(columns)))]
    blocks: list[list[int]] = [[*first]]
    for number in range(len(columns)):
        if number in first:
            continue
        if len(blocks[-1]) > len(first) and sum(widths[n] for n in (*blocks[-1], number)) > width:
            blocks.append([*first])
        blocks[-1].append(number)
    return blocks


def _table(
    columns: Sequence[str],
    rows: Sequence[Sequence[str]],
    right: Sequence[str],
    numbers: Iterable[int],
) -> Table:
    from rich import box
    from rich.table import Table
    from rich.text import Text

    chosen = list(numbers)
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for number in chosen:
        table.add_column(columns[number], justify="right" if columns[number] in right else "left")
    for row in rows:
        # as plain text: a name with brackets is no markup
        table.add_row(*(Text(row[number]) for number in chosen))
    return table


def _shown(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    return "" if value is None else str(value)


def conclude_check(file: Path, problems: Sequence[str], *, is_right: bool) -> None:
    """Name what of a file could not be checked, and end with the exit code of a check.

    Raises:
        InputError: something could not be checked, and all else is right.
        SystemExit: something is wrong.
    """
    from ldru_study.errors import InputError

    error = InputError(str(file), problems) if problems else None
    if is_right and error:
        raise error
    if error:
        say(f"Error: {error}")
    if not is_right:
        sys.exit(FAILED)


def warn_damage(damage: Sequence[object]) -> None:
    """Name every file of the store that was left out."""
    for item in damage:
        say(f"Warning: {item}")


def read_lengths(ctx: click.Context, parameter: click.Parameter, value: str) -> tuple[int, ...]:
    """Read lengths such as 40,80,160; a callback for click."""
    parts = [part.strip() for part in value.split(",")]
    if not all(part.isdecimal() and int(part) >= 1 for part in parts):
        raise click.BadParameter(f"'{value}' is no list of lengths such as 40,80,160.")
    return tuple(int(part) for part in parts)
