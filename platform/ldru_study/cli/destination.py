"""Where a command runs: on this machine, as a job on a cluster, or in the cluster around it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import click

_Command = TypeVar("_Command", bound=Callable[..., Any])


def destination_options(command: _Command) -> _Command:
    """Add ``--address``, and ``--no-wait`` and ``--down-when-done`` for a job."""
    address = click.option(
        "--address",
        envvar="RAY_ADDRESS",
        show_envvar=True,
        metavar="ADDRESS",
        help="Where to run: 'local' (default) for this machine, http://HEAD:8265 to send it to a "
        "cluster as a job, 'auto' when this is a machine of the cluster.",
    )
    no_wait = click.option(
        "--no-wait", is_flag=True, help="With http://...: return once the cluster has the job."
    )
    down_when_done = click.option(
        "--down-when-done",
        is_flag=True,
        help="With http://...: take the cluster of `ray up` down when the study is over.",
    )
    return address(no_wait(down_when_done(command)))


def destination(address: str | None, flags: Mapping[str, bool]) -> str | None:
    """Return None for this machine, 'job', or the address of the cluster that this is part of.

    Raises:
        click.UsageError: a flag is for a job, and this is none; or it is Ray Client's address.
    """
    if address and address.startswith(("http://", "https://")):
        return "job"
    for flag in ("no_wait", "down_when_done"):
        if flags[flag]:
            name = flag.replace("_", "-")
            raise click.UsageError(
                f"--{name} is for a cluster. Give its --address http://HEAD:8265 too."
            )
    if address is None or address == "local":
        return None
    if address.startswith("ray://"):
        raise click.UsageError(
            f"--address {address}: Ray Client is not supported. Give the address of the "
            "dashboard instead: http://HEAD:8265."
        )
    return address
