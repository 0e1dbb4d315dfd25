"""What is wrong with a cluster file, as far as can be told without a cloud.

`ray up` checks a file against a schema that takes any node_config and any counts, and finds the
rest out when machines run already. The checks here come before that.
"""

from __future__ import annotations

import copy
import functools
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from ldru_study.errors import NotFoundError, did_you_mean
from ldru_study.spec.paths import Place, format_place
from ldru_study.spec.yaml_file import read_yaml

PLACEHOLDER = "CHANGE-ME"
# keys of node_config that Ray's AWS provider takes out before it asks for a machine
_RAYS_OWN = {"SubnetIds"}


@dataclass(frozen=True)
class ClusterFile:
    """A cluster file as Ray reads it, and the line of every place in it."""

    path: Path
    config: dict[str, Any]
    lines: dict[Place, int]

    @property
    def node_types(self) -> dict[str, Any]:
        """The kinds of machine by name."""
        return dict(self.config.get("available_node_types") or {})

    def environment(self, name: str) -> str | None:
        """Return what the setup commands set the variable ``name`` to on every node, if they do."""
        commands = "\n".join(map(str, self.config.get("setup_commands") or []))
        found = re.search(rf"(?<![\w$]){name}=(\S+)", commands)
        return found[1].strip("'\"") if found else None


def read_cluster_file(path: Path) -> ClusterFile:
    """Read a cluster file.

    Raises:
        NotFoundError: there is no such file.
        SpecError: it is no YAML mapping, or a key is given twice.
    """
    if not path.is_file():
        raise NotFoundError(f"{path}: no such file. Give the path of a cluster file.")
    file = read_yaml(path)
    # Ray reads YAML 1.1: what counts is what it sees
    return ClusterFile(path, yaml.safe_load(file.text), file.lines)


def placeholders(file: ClusterFile) -> list[str]:
    """Return the places that still hold a placeholder, each with its line."""
    return [
        f"{format_place(place)} (line {file.lines.get(place, 1)})"
        for place, text in _texts(file.config, ())
        if PLACEHOLDER in text
    ]


def _texts(value: Any, place: Place) -> Iterator[tuple[Place, str]]:
    if isinstance(value, dict):
        for key, item in value.items():
            yield from _texts(item, (*place, str(key)))
    elif isinstance(value, list):
        for number, item in enumerate(value):
            yield from _texts(item, (*place, number))
    elif isinstance(value, str):
        yield place, value


def schema_problems(file: ClusterFile) -> list[str]:
    """Return what Ray itself refuses in the file; at most one problem, as Ray stops there."""
    import jsonschema
    from ray.autoscaler._private.util import prepare_config, validate_config

    config = copy.deepcopy(file.config)
    if isinstance(config.get("file_mounts"), dict):
        # Ray would print advice on files in containers, of which there are none
        config["file_mounts"] = {}
    try:
        validate_config(prepare_config(config))
    except jsonschema.ValidationError as error:
        place = format_place(tuple(error.absolute_path)) or "the file"
        return [f"{place}: {error.message}"]
    except KeyError as error:
        return [f"the file: has no {error.args[0]!r}"]
    except (ValueError, RuntimeError, NotImplementedError, AssertionError) as error:
        # Ray's checks raise whichever of these their author chose; the words are for the user
        return [f"the file: {error}"]
    return []


def count_problems(file: ClusterFile) -> list[str]:
    """Return the numbers of workers that contradict each other."""
    total = file.config.get("max_workers", 0)
    problems = []
    for name, node_type in file.node_types.items():
        place = f"available_node_types.{name}"
        low = node_type.get("min_workers", 0)
        high = node_type.get("max_workers", total)
        if name == file.config.get("head_node_type"):
            if node_type.get("resources", {}).get("CPU") != 0:
                problems.append(f"{place}.resources: the head needs 'CPU': 0, or trials starve it")
            continue
        if low > high:
            problems.append(f"{place}: min_workers {low} is more than max_workers {high}")
        if high > total:
            problems.append(
                f"{place}.max_workers: {high} can never be reached, the file's max_workers is "
                f"{total}"
            )
    if total == 0:
        problems.append("max_workers: 0 leaves nobody to train")
    return problems


def machine_problems(file: ClusterFile) -> list[str]:
    """Return what AWS would refuse: misspelt keys and kinds of machine, wrong types, no region.

    Raises:
        ModuleNotFoundError: boto3, which knows, is not installed.
    """
    from botocore.validate import ParamValidator

    request, regions = _aws()
    kinds = request.members["InstanceType"].enum
    problems = []
    region = file.config["provider"].get("region")
    if region not in regions:
        problems.append(
            f"provider.region: AWS has no {region!r}. {did_you_mean(str(region), regions)}"
        )
    for name, node_type in file.node_types.items():
        place = f"available_node_types.{name}.node_config"
        machine = {k: v for k, v in node_type["node_config"].items() if k not in _RAYS_OWN}
        report = ParamValidator().validate({"MinCount": 1, "MaxCount": 1} | machine, request)
        problems += [
            # the list of everything that would be allowed is a page long
            f"{place}: {line.split(', must be one of')[0]}"
            for line in report.generate_report().splitlines()
        ]
        kind = machine.get("InstanceType")
        if kind not in kinds:
            guess = did_you_mean(str(kind), kinds) or "Upgrade boto3 if it is a newer one."
            problems.append(f"{place}.InstanceType: boto3 knows no {kind!r}. {guess}")
    return problems


@functools.cache
def _aws() -> tuple[Any, list[str]]:
    """Return the shape of a request for machines, and all regions."""
    import botocore.session

    session = botocore.session.get_session()
    request = session.get_service_model("ec2").operation_model("RunInstances").input_shape
    return request, session.get_available_regions("ec2")


def command_problems(file: ClusterFile) -> list[str]:
    """Return commands that would leave the cluster open, or working on something else."""
    problems = []
    for name in ("setup_commands", "head_start_ray_commands", "worker_start_ray_commands"):
        if not file.config.get(name):
            problems.append(f"{name}: is missing, and Ray's own would install another Ray")
    for name, words in _START.items():
        starts = [c for c in file.config.get(name) or [] if "ray start" in c]
        for word in words:
            if not starts or any(word not in command for command in starts):
                problems.append(f"{name}: `ray start` lacks {word}")
    problems += [
        f"setup_commands: nothing sets {variable}={wanted}: {why}"
        for variable, wanted, why in _ENVIRONMENT
        if file.environment(variable) != wanted
    ]
    if "~/.ray/auth_token" not in (file.config.get("file_mounts") or {}):
        problems.append("file_mounts: lacks ~/.ray/auth_token, which every node needs")
    return problems


_START = {
    "head_start_ray_commands": (
        "--head",
        "--dashboard-host=127.0.0.1",
        "--autoscaling-config=~/ray_bootstrap_config.yaml",
    ),
    "worker_start_ray_commands": ("--address=$RAY_HEAD_IP:",),
}
_ENVIRONMENT = (
    ("RAY_AUTH_MODE", "token", "anybody who reaches a port could run code"),
    ("RAY_USAGE_STATS_ENABLED", "0", "Ray would report to its makers"),
)


def mount_problems(file: ClusterFile) -> list[str]:
    """Return files to be copied that are not here; `ray up` takes them from where it runs."""
    mounts = file.config.get("file_mounts") or {}
    return [
        f"file_mounts.{remote}: {local} is not there. Run this where it is"
        for remote, local in mounts.items()
        # the token has a check of its own
        if remote != "~/.ray/auth_token" and not Path(local).expanduser().exists()
    ]


# of a file without schema problems
PROBLEMS: tuple[Callable[[ClusterFile], list[str]], ...] = (
    count_problems,
    command_problems,
    mount_problems,
    machine_problems,
)
