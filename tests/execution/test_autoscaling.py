"""The node types of cluster.yaml under Ray's own autoscaler: workers come for tasks, and go again.

Ray's fake provider starts a raylet for every machine, here, without docker.
"""

from __future__ import annotations

import json
import os
import secrets
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import psutil
import pytest
import yaml

from ldru_study.execution.cluster import a_job_runs
from ldru_study.execution.cluster_check import check_head

ROOT = Path(__file__).parent.parent.parent
# the fake provider knows its head by these
HEAD_ID, HEAD_TYPE = "f" * 51 + "00000", "ray.head.default"
MEMORY = 80 * 2**20
# a process of its own: Ray takes its token from the environment when it is imported
CLIENT = """
import json, sys, time
import ray

ray.init(address=sys.argv[1], log_to_driver=False)

def workers():
    found = {n["NodeID"]: n["Resources"] for n in ray.nodes() if n["Alive"]}
    return {i: "gpu_worker" if "GPU" in r else "cpu_worker" for i, r in found.items() if "CPU" in r}

@ray.remote(max_retries=0)
def where():
    time.sleep(2)
    # said from there: a worker may be gone again before all of a wave are done
    return workers()[ray.get_runtime_context().get_node_id()]

before, ran_on = workers(), []
# a task that any worker could run, then one for a whole worker beside one for a GPU
for wave in [[{"num_cpus": 1}], [{"num_cpus": 16}, {"num_cpus": 1, "num_gpus": 1}]]:
    ran_on += ray.get([where.options(**needs).remote() for needs in wave], timeout=120)
deadline = time.monotonic() + 90
while workers() and time.monotonic() < deadline:
    time.sleep(1)
print(json.dumps([before, ran_on, workers()]))
"""


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def on_this_machine(config, gcs_address):
    """Return a cluster file with the node types of ``config`` for machines that are raylets."""
    node_types = {}
    for name, node_type in config["available_node_types"].items():
        is_head = name == config["head_node_type"]
        resources = node_type["resources"] | {"object_store_memory": MEMORY}
        node_types[HEAD_TYPE if is_head else name] = node_type | {
            "resources": resources,
            "node_config": {},
        }
    commands = {key: [] for key in config if key.endswith("_commands")}
    return {
        "cluster_name": config["cluster_name"],
        "max_workers": config["max_workers"],
        "idle_timeout_minutes": 0.1,
        "head_node_type": HEAD_TYPE,
        "available_node_types": node_types,
        "provider": {
            # as a provider from outside: the defaults of the fake one are not in Ray's wheel
            "type": "external",
            "module": "ray.autoscaler._private.fake_multi_node.node_provider.FakeMultiNodeProvider",
            "gcs_address": gcs_address,
            "launch_multiple": True,
            # nobody logs in to a raylet
            "use_node_id_as_ip": True,
            "disable_node_updaters": True,
            "disable_launch_config_check": True,
        },
        **{key: {} for key in ("auth", "docker", "file_mounts")},
        **{key: [] for key in ("cluster_synced_files", "initialization_commands")},
        **commands,
    }


def processes_with(name, value):
    found = []
    for process in psutil.process_iter():
        try:
            if process.environ().get(name) == value and process.pid != os.getpid():
                found.append(process)
        except psutil.Error:
            # gone by now, or somebody else's
            continue
    return found


@pytest.fixture
def head(tmp_path):
    """Start the head of such a cluster; yield its addresses and its clients' environment."""
    port, mark = free_port(), secrets.token_hex(8)
    file = tmp_path / "cluster.yaml"
    config = yaml.safe_load((ROOT / "cluster.yaml").read_text())
    file.write_text(yaml.safe_dump(on_this_machine(config, f"127.0.0.1:{port}")))
    # Ray's sockets want a short path, and other Rays on this machine their own
    folder = tempfile.mkdtemp(prefix="ray-", dir="/tmp")
    environment = os.environ | {
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN": secrets.token_hex(32),
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_TMPDIR": folder,
        # as `ray up` starts it
        "RAY_enable_autoscaler_v2": "1",
        "RAY_CLOUD_INSTANCE_ID": HEAD_ID,
        "RAY_NODE_TYPE_NAME": HEAD_TYPE,
        "RAY_OVERRIDE_NODE_ID_FOR_TESTING": HEAD_ID,
        "RAY_FAKE_CLUSTER": "1",
        # sixteen cores that are not there need no sixteen processes
        "RAY_enable_worker_prestart": "0",
        "RAY_prestart_worker_first_driver": "0",
        "LDRU_TEST_CLUSTER": mark,
    }
    options = [f"--port={port}", "--node-ip-address=127.0.0.1", "--num-cpus=0", "--num-gpus=0"]
    dashboard = free_port()
    options += [f"--object-store-memory={MEMORY}", f"--autoscaling-config={file}"]
    options += ["--dashboard-host=127.0.0.1", f"--dashboard-port={dashboard}"]
    options += ["--dashboard-agent-listen-port=0", f"--ray-client-server-port={free_port()}"]
    with (tmp_path / "head.log").open("w") as log:
        process = subprocess.Popen(
            [Path(sys.executable).parent / "ray", "start", "--head", "--block", *options],
            env=environment,
            stdout=log,
            stderr=subprocess.STDOUT,
        )
        try:
            yield f"127.0.0.1:{port}", f"http://127.0.0.1:{dashboard}", environment
        finally:
            process.terminate()
            try:
                process.wait(40)
            except subprocess.TimeoutExpired:
                process.kill()
            left = processes_with("LDRU_TEST_CLUSTER", mark)
            for straggler in left:
                straggler.kill()
            psutil.wait_procs(left, timeout=20)
            shutil.rmtree(folder, ignore_errors=True)
            assert processes_with("LDRU_TEST_CLUSTER", mark) == []


def until(holds, what):
    deadline = time.monotonic() + 90
    while not holds():
        assert time.monotonic() < deadline, what
        time.sleep(0.2)


@pytest.mark.slow
def test_workers_come_for_tasks_and_go_when_idle(tmp_path, head, monkeypatch):
    address, dashboard, environment = head
    monkeypatch.setenv("RAY_AUTH_TOKEN", environment["RAY_AUTH_TOKEN"])
    until(lambda: check_head(dashboard).state == "ok", (tmp_path / "head.log").read_text())
    with subprocess.Popen(
        [sys.executable, "-c", CLIENT, address],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as client:
        # what `--down-when-done` waits for
        until(lambda: a_job_runs(dashboard), "the head does not tell of a driver that runs")
        stdout, stderr = client.communicate(timeout=240)
    assert client.returncode == 0, stdout + stderr + (tmp_path / "head.log").read_text()
    before, ran_on, after = json.loads(stdout.splitlines()[-1])
    assert before == {}
    # what wants no GPU brings none
    assert ran_on == ["cpu_worker", "cpu_worker", "gpu_worker"]
    assert after == {}
    until(lambda: not a_job_runs(dashboard), "the head does not tell that the driver is over")
    monkeypatch.setenv("RAY_AUTH_TOKEN", "another")
    assert "refuses the token that was sent" in check_head(dashboard).message
