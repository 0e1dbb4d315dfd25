"""A Ray job that carries the source roots: its `platform` is the standard library's."""

from __future__ import annotations

import shutil
import sys
import time
import warnings
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent.parent
SCRIPT = """
import platform, uuid
import ldru_study, ldru_kernels
print("PLATFORM", platform.__file__, platform.machine() != "")
print("STUDY", ldru_study.__file__)
"""


@pytest.mark.slow
def test_the_standard_librarys_platform_in_a_ray_job(tmp_path):
    import platform

    import ray

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from ray.job_submission import JobStatus, JobSubmissionClient

    for root in ("platform", "kernels"):
        shutil.copytree(ROOT / root, tmp_path / root)
    (tmp_path / "job.py").write_text(SCRIPT)
    context = ray.init(
        address="local", include_dashboard=True, log_to_driver=False, num_cpus=1, dashboard_port=0
    )
    try:
        client = JobSubmissionClient(f"http://{context.dashboard_url}")
        job = client.submit_job(
            # the console script's own Python: `python` would be the head's
            entrypoint=f"{sys.executable} job.py",
            runtime_env={
                "working_dir": str(tmp_path),
                "env_vars": {"PYTHONPATH": "platform:kernels"},
            },
        )
        deadline = time.monotonic() + 120
        ended = {JobStatus.SUCCEEDED, JobStatus.FAILED, JobStatus.STOPPED}
        while client.get_job_status(job) not in ended and time.monotonic() < deadline:
            time.sleep(0.2)
        logs = client.get_job_logs(job)
        assert client.get_job_status(job) == JobStatus.SUCCEEDED, logs
    finally:
        ray.shutdown()
    assert f"PLATFORM {platform.__file__} True" in logs
    # and the code is the job's own copy
    assert "working_dir_files" in next(line for line in logs.splitlines() if "STUDY" in line)
