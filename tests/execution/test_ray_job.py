"""A Ray job that carries the source roots: its `platform` is the standard library's."""

from __future__ import annotations

import os
import secrets
import shutil
import socket
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent.parent
JOB = """
import platform, uuid
import ldru_study, ldru_kernels
print("PLATFORM", platform.__file__, platform.machine() != "")
print("STUDY", ldru_study.__file__)
"""
# a process of its own: Ray takes its token from the environment when it is imported
CLIENT = """
import sys, time
from ray.job_submission import JobStatus, JobSubmissionClient

deadline = time.monotonic() + 60
while True:
    try:
        client = JobSubmissionClient(sys.argv[1])
        job = client.submit_job(
            # this very Python: `python` would be whichever is first on the head's path
            entrypoint=f"{sys.executable} job.py",
            runtime_env={"working_dir": ".", "env_vars": {"PYTHONPATH": "platform:kernels"}},
        )
        break
    except (ConnectionError, RuntimeError):
        # the dashboard answers seconds after its process starts, the node's agent later still
        if time.monotonic() > deadline:
            raise
        time.sleep(0.5)
while not client.get_job_status(job).is_terminal():
    time.sleep(0.2)
print(client.get_job_logs(job))
sys.exit(client.get_job_status(job) != JobStatus.SUCCEEDED)
"""


@pytest.fixture
def cluster(tmp_path):
    """Start a head on free ports; yield its address and the environment its clients need."""
    # a fixed default port may still belong to a Ray that was killed a moment ago
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    environment = os.environ | {
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN": secrets.token_hex(32),
        "RAY_USAGE_STATS_ENABLED": "0",
    }
    options = ["--num-cpus=1", "--port=0", f"--dashboard-port={port}"]
    with (tmp_path / "head.log").open("w") as log:
        head = subprocess.Popen(
            [
                *(Path(sys.executable).parent / "ray", "start", "--head", "--block"),
                *(*options, "--dashboard-agent-listen-port=0", "--include-dashboard=true"),
            ],
            env=environment,
            stdout=log,
            stderr=subprocess.STDOUT,
        )
        try:
            yield f"http://127.0.0.1:{port}", environment
        finally:
            head.terminate()
            head.wait(30)


@pytest.mark.slow
def test_the_standard_librarys_platform_in_a_ray_job(tmp_path, cluster):
    import platform

    address, environment = cluster
    folder = tmp_path / "checkout"
    for root in ("platform", "kernels"):
        shutil.copytree(ROOT / root, folder / root)
    (folder / "job.py").write_text(JOB)
    client = subprocess.run(
        [sys.executable, "-c", CLIENT, address],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        timeout=150,
    )
    log = (tmp_path / "head.log").read_text()
    assert client.returncode == 0, client.stdout + client.stderr + log
    assert f"PLATFORM {platform.__file__} True" in client.stdout
    # and the code is the job's own copy
    place = next(line for line in client.stdout.splitlines() if line.startswith("STUDY"))
    assert "working_dir_files" in place
