"""cluster.yaml is what `ray up` and AWS take, and what they would take by mistake is found."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import yaml

from ldru_study.errors import NotFoundError, SpecError
from ldru_study.execution.cluster_check import check_file
from ldru_study.execution.cluster_file import (
    command_problems,
    count_problems,
    machine_problems,
    mount_problems,
    placeholders,
    read_cluster_file,
    schema_problems,
)

ROOT = Path(__file__).parent.parent.parent
FIND = (schema_problems, count_problems, command_problems, mount_problems, machine_problems)


@pytest.fixture(autouse=True)
def _in_the_checkout(monkeypatch):
    # as `ray up` does, which takes file_mounts from where it runs
    monkeypatch.chdir(ROOT)


def ours():
    return read_cluster_file(ROOT / "cluster.yaml")


def changed(tmp_path, place, value):
    """Return our file with another value at a place; None takes the key away."""
    config = yaml.safe_load((ROOT / "cluster.yaml").read_text())
    *above, last = place.split("/")
    inner = config
    for step in above:
        inner = inner[step]
    if value is None:
        del inner[last]
    else:
        inner[last] = value
    path = tmp_path / "cluster.yaml"
    # no aliases: what is changed in one place stays in one place
    dumper = type("Dumper", (yaml.SafeDumper,), {"ignore_aliases": lambda self, data: True})
    path.write_text(yaml.dump(config, Dumper=dumper, sort_keys=False))
    return read_cluster_file(path)


def test_our_file_has_no_problem():
    assert {find.__name__: find(ours()) for find in FIND} == {f.__name__: [] for f in FIND}


def test_only_the_bucket_is_left_to_the_user():
    (place,) = placeholders(ours())
    name, line = re.fullmatch(r"(\S+) \(line (\d+)\)", place).groups()
    assert name == "setup_commands[1]"
    here = (ROOT / "cluster.yaml").read_text().splitlines()[int(line) - 1 :]
    assert any("CHANGE-ME" in text for text in here[:3])


def test_workers_come_only_when_trials_wait():
    file = ours()
    head = file.node_types.pop(file.config["head_node_type"])
    assert head["resources"] == {"CPU": 0}
    workers = {n: t for n, t in file.node_types.items() if n != file.config["head_node_type"]}
    assert {t["min_workers"] for t in workers.values()} == {0}
    assert any("GPU" in t["resources"] for t in workers.values())
    assert any("GPU" not in t["resources"] for t in workers.values())
    for node_type in workers.values():
        assert node_type["node_config"]["InstanceMarketOptions"]["MarketType"] == "spot"


def test_the_store_and_the_safety_of_every_node():
    file = ours()
    assert file.environment("LDRU_STORE").startswith("s3://")
    assert file.environment("RAY_AUTH_MODE") == "token"
    assert file.environment("RAY_USAGE_STATS_ENABLED") == "0"
    assert file.environment("MODE") is None


def test_nodes_install_what_this_checkout_installs():
    file = ours()
    commands = "\n".join(file.config["setup_commands"])
    assert file.config["file_mounts"]["~/ldru-study/constraints.txt"] == "constraints.txt"
    assert file.config["file_mounts"]["~/ldru-study/pyproject.toml"] == "pyproject.toml"
    assert "--constraint pins.txt --requirement pyproject.toml --extra aws" in commands
    # and no version of its own that could fall behind
    assert re.findall(r"[\w.-]+==[\w.]+", commands) == []
    assert (
        "aws"
        in tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    )


def test_the_setup_commands_do_what_they_say(tmp_path):
    # all of them but those that fetch: in a home of their own, in the shell that Ray uses
    shutil.copytree(
        ROOT,
        tmp_path / "ldru-study",
        ignore=lambda folder, names: {
            name for name in names if name not in ("constraints.txt", "pyproject.toml")
        },
    )
    (tmp_path / ".ray").mkdir(mode=0o755)
    (tmp_path / ".ray" / "auth_token").write_text("secret")
    (tmp_path / ".ray" / "auth_token").chmod(0o644)
    (tmp_path / ".bashrc").write_text("")
    run = [c for c in ours().config["setup_commands"] if "uv" not in c.replace("pins.txt", "")]
    assert len(run) == 4
    # twice: `ray up` repeats them on a node that is up
    for command in [*run, *run]:
        subprocess.run(
            ["bash", "-c", f"({command})"],
            env={"HOME": str(tmp_path), "PATH": "/usr/bin:/bin"},
            check=True,
        )
    assert (tmp_path / ".ray" / "auth_token").stat().st_mode & 0o777 == 0o600
    assert (tmp_path / ".bashrc").read_text().count("ldru-study/env") == 1
    shell = subprocess.run(
        [
            "bash",
            "-c",
            ". ~/.bashrc; echo $RAY_AUTH_MODE $RAY_USAGE_STATS_ENABLED $LDRU_STORE $PATH",
        ],
        env={"HOME": str(tmp_path), "PATH": "/usr/bin:/bin"},
        capture_output=True,
        text=True,
        check=True,
    )
    mode, usage, store, path = shell.stdout.split()
    assert (mode, usage, store) == ("token", "0", "s3://CHANGE-ME/ldru-study")
    assert path.split(":")[0] == f"{tmp_path}/ldru-study/.venv/bin"
    pins = (tmp_path / "ldru-study" / "pins.txt").read_text().splitlines()
    ours_ = (ROOT / "constraints.txt").read_text().splitlines()
    assert [line for line in ours_ if line not in pins] == [
        line for line in ours_ if line.startswith("triton==")
    ]


@pytest.mark.parametrize(
    ("place", "value", "expected"),
    [
        ("max_worker", 3, "'max_worker' was unexpected"),
        ("provider", {"type": "awss"}, "Unsupported node provider: awss"),
        ("head_node_type", "haed", "`head_node_type` must be one of"),
        ("available_node_types/gpu_worker/resources", {"CPU": 0.5}, "0.5 is not of type 'integer'"),
        ("available_node_types/gpu_worker/resources", None, "'resources' is a required property"),
        ("available_node_types/gpu_worker/min_workers", 99, "global `max_workers` is smaller"),
        ("provider", None, "has no 'provider'"),
    ],
)
def test_what_ray_refuses(tmp_path, place, value, expected):
    file = changed(tmp_path, place, value)
    (problem,) = schema_problems(file)
    assert expected in problem
    found = check_file(file)
    assert found.state == "missing"
    assert problem in found.message


WORKER = "available_node_types/gpu_worker"


@pytest.mark.parametrize(
    ("place", "value", "expected"),
    [
        (f"{WORKER}/max_workers", -1, "gpu_worker: min_workers 0 is more than max_workers -1"),
        (f"{WORKER}/max_workers", 9, "gpu_worker.max_workers: 9 can never be reached"),
        ("available_node_types/head/resources", {"CPU": 2}, "head.resources: the head needs 'CPU'"),
        ("provider/region", "us-west-22", "AWS has no 'us-west-22'. Did you mean 'us-west-2'?"),
        (f"{WORKER}/node_config/Instancetype", "x", 'Unknown parameter in input: "Instancetype"'),
        (
            f"{WORKER}/node_config/InstanceType",
            "g5.xlrge",
            "gpu_worker.node_config.InstanceType: boto3 knows no 'g5.xlrge'. Did you mean",
        ),
        (
            f"{WORKER}/node_config/InstanceMarketOptions",
            {"MarketTyp": "spot"},
            'Unknown parameter in InstanceMarketOptions: "MarketTyp"',
        ),
        ("setup_commands", None, "setup_commands: is missing"),
        ("setup_commands", ["true"], "nothing sets RAY_AUTH_MODE=token"),
        ("head_start_ray_commands", None, "head_start_ray_commands: is missing"),
        (
            "head_start_ray_commands",
            ["ray start --head --dashboard-host=0.0.0.0"],
            "head_start_ray_commands: `ray start` lacks --dashboard-host=127.0.0.1",
        ),
        ("worker_start_ray_commands", ["ray start"], "lacks --address=$RAY_HEAD_IP:"),
        ("file_mounts", {}, "file_mounts: lacks ~/.ray/auth_token"),
        ("file_mounts/~/x", "./nowhere", "file_mounts.~/x: ./nowhere is not there"),
    ],
)
def test_what_ray_would_find_out_when_machines_run(tmp_path, place, value, expected):
    place = place.replace("file_mounts/~/x", "file_mounts")
    if value == "./nowhere":
        value = ours().config["file_mounts"] | {"~/x": value}
    file = changed(tmp_path, place, value)
    # which is why we look: Ray's own check takes it
    assert schema_problems(file) == []
    found = check_file(file)
    assert found.state == "missing"
    assert expected in found.message


def test_every_problem_is_named_at_once(tmp_path):
    file = changed(tmp_path, "file_mounts", {})
    file.config["provider"]["region"] = "nowhere"
    assert check_file(file).message.count("\n  ") == 2
    assert ": 2 problems\n  file_mounts: lacks" in check_file(file).message


def test_without_boto3_the_rest_is_checked(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "botocore.validate", None)
    found = check_file(ours())
    assert found.state == "ok"
    assert found.message.endswith("node_config cannot be checked without boto3")
    assert check_file(changed(tmp_path, "file_mounts", {})).state == "missing"


def test_a_file_that_cannot_be_read(tmp_path):
    path = tmp_path / "cluster.yaml"
    with pytest.raises(NotFoundError, match="Give the path of a cluster file"):
        read_cluster_file(path)
    path.write_text("max_workers: 1\nmax_workers: 2\n")
    with pytest.raises(SpecError, match=r"max_workers \(line 2\): given twice"):
        read_cluster_file(path)
