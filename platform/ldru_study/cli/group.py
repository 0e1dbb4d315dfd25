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

FAILED = 4
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
) -> None:
    """Print a table on stdout; the columns named in ``right`` are aligned to the right.

    Away from a terminal it is as wide as its content, one line per row, for grep and diff.
    """
    from rich import box
    from rich.table import Table
    from rich.text import Text

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for column in columns:
        table.add_column(column, justify="right" if column in right else "left")
    for row in rows:
        # as plain text: a name with brackets is no markup
        table.add_row(*(Text(_shown(value)) for value in row))
    screen = console()
    if screen.is_terminal:
        screen.print(table)
        return
    with screen.capture() as printed:
        screen.print(table, no_wrap=True, crop=False)
    lines = (line.rstrip() for line in printed.get().splitlines())
    click.echo("\n".join(line for line in lines if line))


def _shown(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    return "" if value is None else str(value)


def warn_damage(damage: Sequence[object]) -> None:
    """Name every file of the store that was left out."""
    for item in damage:
        say(f"Warning: {item}")
