"""A Ray job that carries the source roots: its `platform` is the standard library's."""

from __future__ import annotations

import shutil
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
# a process of its own: its dashboard answers only for the first Ray a process starts
DRIVER = """
import sys, time
import ray
from ray.job_submission import JobStatus, JobSubmissionClient

context = ray.init(
    address="local", include_dashboard=True, log_to_driver=False, num_cpus=1, dashboard_port=0
)
client = JobSubmissionClient(f"http://{context.dashboard_url}")
job = client.submit_job(
    # this very Python: `python` would be whichever is first on the head's path
    entrypoint=f"{sys.executable} job.py",
    runtime_env={"working_dir": ".", "env_vars": {"PYTHONPATH": "platform:kernels"}},
)
while not client.get_job_status(job).is_terminal():
    time.sleep(0.2)
print(client.get_job_logs(job))
sys.exit(client.get_job_status(job) != JobStatus.SUCCEEDED)
"""


@pytest.mark.slow
def test_the_standard_librarys_platform_in_a_ray_job(tmp_path):
    import platform

    for root in ("platform", "kernels"):
        shutil.copytree(ROOT / root, tmp_path / root)
    (tmp_path / "job.py").write_text(JOB)
    driver = subprocess.run(
        [sys.executable, "-c", DRIVER], cwd=tmp_path, capture_output=True, text=True, timeout=120
    )
    assert driver.returncode == 0, driver.stdout + driver.stderr
    assert f"PLATFORM {platform.__file__} True" in driver.stdout
    # and the code is the job's own copy
    place = next(line for line in driver.stdout.splitlines() if line.startswith("STUDY"))
    assert "working_dir_files" in place
