"""Processes that train together, for tests: started once, then called with one function at a time.

Also a program: python -m tests.training.gang RANK SIZE PORT, with calls on standard input.
"""

from __future__ import annotations

import os
import pickle
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]


class Gang:
    """``size`` processes joined by gloo; ``call`` runs a function of a test module in each."""

    def __init__(self, size):
        from ldru_study.training.ranks import open_meeting

        port = open_meeting("127.0.0.1").port
        paths = [str(ROOT / name) for name in (".", "platform", "kernels")]
        self.processes = [
            subprocess.Popen(
                [sys.executable, "-m", "tests.training.gang", str(rank), str(size), str(port)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                cwd=ROOT,
                env=os.environ | {"PYTHONPATH": os.pathsep.join(paths), "OMP_NUM_THREADS": "1"},
            )
            for rank in range(size)
        ]

    def call(self, function, *arguments):
        """Return what every process returned, or raise the first of their errors."""
        order = pickle.dumps((function.__module__, function.__name__, arguments))
        for process in self.processes:
            process.stdin.write(len(order).to_bytes(8, "little") + order)
            process.stdin.flush()
        answers = [self._answer(process) for process in self.processes]
        for error, _ in answers:
            if error is not None:
                raise error
        return [result for _, result in answers]

    def _answer(self, process):
        size = process.stdout.read(8)
        assert len(size) == 8, f"process {process.pid} ended with {process.wait()}"
        return pickle.loads(process.stdout.read(int.from_bytes(size, "little")))

    def end(self):
        for process in self.processes:
            process.stdin.close()
        for process in self.processes:
            process.wait(30)
            process.stdout.close()


def _main(rank, size, port):
    import importlib

    import torch

    from ldru_study.training.ranks import Meeting, join

    torch.set_num_threads(1)
    # what libraries print must not come between results
    results = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    join(rank, size, Meeting("127.0.0.1", port), torch.device("cpu"))
    while header := sys.stdin.buffer.read(8):
        order = pickle.loads(sys.stdin.buffer.read(int.from_bytes(header, "little")))
        module, name, arguments = order
        try:
            answer = None, getattr(importlib.import_module(module), name)(*arguments)
        except Exception as error:  # noqa: BLE001 - the test raises it
            answer = error, None
        data = pickle.dumps(answer)
        results.write(len(data).to_bytes(8, "little") + data)
        results.flush()
    # gloo's threads take ten seconds to notice
    os._exit(0)


if __name__ == "__main__":
    _main(*map(int, sys.argv[1:]))
