"""What CLUSTERS.md says can be typed, opened, parsed and applied."""

from __future__ import annotations

import json
import re
import shlex
import subprocess
from importlib.metadata import version
from pathlib import Path

import click
import pytest
import yaml

from ldru_study.cli import main

ROOT = Path(__file__).parent.parent.parent
PAGE = ROOT / "platform" / "CLUSTERS.md"
TEXT = PAGE.read_text()
COMMANDS = [
    " ".join(line.split("  #")[0].split())
    for line in re.findall(r"^\$ (ldru-study .*)$", TEXT, flags=re.MULTILINE)
    + re.findall(r"`(ldru-study [^`]+)`", TEXT)
]


def blocks(language):
    return re.findall(rf"```{language}\n(.*?)```", TEXT, flags=re.DOTALL)


@pytest.mark.parametrize("line", COMMANDS)
def test_every_command_parses(line):
    # `cluster check --address` in running text names an option without its value
    words = [*shlex.split(line)[1:], *(["X"] if line.endswith("--address") else [])]
    command, context = main, click.Context(main)
    while isinstance(command, click.Group):
        _, command, words = command.resolve_command(context, words)
    command.make_context(str(command.name), list(words))


def test_the_commands_are_there():
    verbs = {line.split()[1] for line in COMMANDS}
    assert {"cluster", "submit", "status", "logs", "stop", "report"} <= verbs


def test_every_link_leads_somewhere():
    links = re.findall(r"\]\(([^)]+)\)", TEXT)
    assert links
    assert [link for link in links if not (PAGE.parent / link).exists()] == []


def test_roles_and_names_are_those_of_the_file():
    config = yaml.safe_load((ROOT / "cluster.yaml").read_text())
    kinds = config["available_node_types"].values()
    profiles = {kind["node_config"]["IamInstanceProfile"]["Name"] for kind in kinds}
    (made,) = re.findall(r"for name in (.*); do", TEXT)
    assert set(made.split()) == profiles
    policies = re.findall(r"<<'END'\n(.*?)\nEND", TEXT, flags=re.DOTALL)
    assert [json.loads(policy)["Version"] for policy in policies] == ["2012-10-17"] * 3


def test_the_kubernetes_cluster_is_of_this_ray():
    (text,) = blocks("yaml")
    spec = yaml.safe_load(text)["spec"]
    (image,) = blocks("dockerfile")
    assert spec["rayVersion"] == version("ray")
    assert f"rayproject/ray:{version('ray')}-" in image
    assert spec["authOptions"] == {"mode": "token"}
    assert spec["headGroupSpec"]["rayStartParams"] == {"num-cpus": "0"}
    for group in spec["workerGroupSpecs"]:
        assert group["minReplicas"] <= group["replicas"] <= group["maxReplicas"]


def test_the_batch_script_is_bash():
    (script,) = blocks("bash")
    assert script.startswith("#!/bin/bash\n")
    done = subprocess.run(["bash", "-n"], input=script, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
