"""A cluster of Ray on this machine: a head with a token and a dashboard, and nodes that join it.

Every process is started and ended by its own id: `ray stop` would end every Ray on this machine.
"""

from __future__ import annotations

import os
import secrets
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from pathlib import Path

import psutil
import requests
from tests.results.s3 import free_port

HERE = Path(sys.executable).parent


class Node:
    """A machine of a cluster: `ray start --block`, and the processes below it."""

    def __init__(self, options, environment, log):
        self.log = log
        with log.open("w") as stream:
            self.process = subprocess.Popen(
                [HERE / "ray", "start", "--block", "--dashboard-agent-listen-port=0", *options],
                env=environment,
                stdout=stream,
                stderr=subprocess.STDOUT,
            )

    def end(self):
        """End the node's processes: politely, then by force."""
        family = [self.process.pid, *(child.pid for child in self.children())]
        self.process.terminate()
        with suppress(subprocess.TimeoutExpired):
            self.process.wait(30)
        for pid in family:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self.process.wait()

    def children(self):
        """Return the processes below `ray start`; none once it has ended."""
        try:
            return psutil.Process(self.process.pid).children(recursive=True)
        except psutil.NoSuchProcess:
            return []

    def raylet(self):
        """Return the node's raylet, or None while, or once, there is none."""
        for child in self.children():
            with suppress(psutil.Error):
                if child.name() == "raylet":
                    return child
        return None

    def runs(self, *words):
        """Return the command lines below this node in which all of ``words`` occur."""
        found = []
        for child in self.children():
            with suppress(psutil.Error):
                line = " ".join(child.cmdline())
                if all(word in line for word in words):
                    found.append(line)
        return found


class Head(Node):
    """A head on free ports, with a token; ``environment`` is that of somebody who has both."""

    def __init__(self, folder, *, num_cpus=2, **environment):
        # a fixed default port may still belong to a Ray that was killed a moment ago
        self.gcs_address, port = f"127.0.0.1:{free_port()}", free_port()
        self.folder, self.address = folder, f"http://127.0.0.1:{port}"
        # Ray's sockets want a short path, and other Rays on this machine their own
        self.scratch = tempfile.mkdtemp(prefix="ray-", dir="/tmp")
        self.environment = os.environ | {
            "RAY_AUTH_MODE": "token",
            "RAY_AUTH_TOKEN": secrets.token_hex(32),
            "RAY_USAGE_STATS_ENABLED": "0",
            "RAY_TMPDIR": self.scratch,
            # a job's `python` is the first on the head's path
            "PATH": f"{HERE}:{os.environ['PATH']}",
        }
        self.environment |= environment
        self.nodes = []
        options = [f"--num-cpus={num_cpus}", f"--port={self.gcs_address.partition(':')[2]}"]
        options += ["--node-ip-address=127.0.0.1", f"--dashboard-port={port}"]
        super().__init__(
            ["--head", "--include-dashboard=true", *options],
            self.environment,
            folder / "head.log",
        )

    def wait_until_up(self):
        """Return once the dashboard answers."""
        headers = {"Authorization": f"Bearer {self.environment['RAY_AUTH_TOKEN']}"}
        deadline = time.monotonic() + 120
        while time.monotonic() < deadline:
            with suppress(requests.ConnectionError, requests.Timeout):
                if requests.get(f"{self.address}/api/version", headers=headers, timeout=5).ok:
                    return
            time.sleep(0.2)
        raise TimeoutError(self.log.read_text())

    def add_node(self, num_cpus):
        """Have another machine join; it is there some seconds later."""
        options = [f"--address={self.gcs_address}", f"--num-cpus={num_cpus}"]
        # a folder of its own: where two nodes share one, the second unpacks a job's code over the
        # first's, below the feet of whoever runs there
        scratch = f"{self.scratch}/{len(self.nodes)}"
        options += [f"--temp-dir={scratch}", "--node-ip-address=127.0.0.1"]
        log = self.folder / f"node-{len(self.nodes)}.log"
        node = Node(options, self.environment, log)
        self.nodes.append(node)
        return node

    def end(self):
        """End the cluster: nodes first, the head last."""
        try:
            for node in self.nodes:
                node.end()
            super().end()
        finally:
            shutil.rmtree(self.scratch, ignore_errors=True)
