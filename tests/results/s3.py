"""An S3 server in a process of its own, and a way to it that can be made to fail."""

from __future__ import annotations

import http.client
import socket
import struct
import subprocess
import sys
import threading
import time
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pyarrow.fs as pafs

HOST = "127.0.0.1"
REFUSAL = (
    b'<?xml version="1.0"?><Error><Code>AccessDenied</Code><Message>Access Denied</Message></Error>'
)
ENVIRONMENT = {
    "AWS_ACCESS_KEY_ID": "somebody",
    "AWS_SECRET_ACCESS_KEY": "hidden",
    "AWS_REGION": "us-east-1",
    # nobody asks a cloud's machine for its credentials
    "AWS_EC2_METADATA_DISABLED": "true",
}


@contextmanager
def running_server(log_path):
    """Run moto's S3 server, with the bucket 'bucket', and yield its port."""
    port = free_port()
    command = [sys.executable, "-W", "ignore", "-m", "moto.server", "-H", HOST, "-p", str(port)]
    with open(log_path, "w") as log:
        process = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT)
    try:
        while not answers(port):
            assert process.poll() is None, log_path.read_text()
            time.sleep(0.05)
        pafs.S3FileSystem(
            access_key=ENVIRONMENT["AWS_ACCESS_KEY_ID"],
            secret_key=ENVIRONMENT["AWS_SECRET_ACCESS_KEY"],
            region=ENVIRONMENT["AWS_REGION"],
            scheme="http",
            endpoint_override=f"{HOST}:{port}",
            allow_bucket_creation=True,
        ).create_dir("bucket")
        yield port
    finally:
        process.kill()
        process.wait()


def free_port():
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        return probe.getsockname()[1]


def answers(port):
    try:
        socket.create_connection((HOST, port)).close()
    except ConnectionRefusedError:
        return False
    return True


def endpoint(port):
    """Return the environment in which an S3 client talks to this port."""
    return ENVIRONMENT | {"AWS_ENDPOINT_URL": f"http://{HOST}:{port}"}


METHODS = ("DELETE", "GET", "HEAD", "POST", "PUT")


class Path:
    """Forwards requests to a server, or fails as it is told.

    ``fault`` is None, a status such as 503, "reset" (the connection breaks off), "silent" (no
    answer comes), "half" (the upload breaks off in the middle) or "stuck" (in the middle it stands
    still). It befalls the next ``times`` requests whose method is in ``methods`` and whose path
    ends with ``suffix``. ``seen`` are the methods of all requests, ``failed`` the paths of those
    that were failed.
    """

    def __init__(self, port):
        self.to, self.port = port, free_port()
        self.seen, self.failed = [], []
        self.mend()
        self._over = threading.Event()
        self.come()

    def mend(self):
        """Let everything through."""
        self.fail(None)

    def fail(self, fault, *, times=1_000_000, methods=METHODS, suffix=""):
        """Fail from now on."""
        self.times, self.methods, self.suffix, self.fault = times, methods, suffix, fault

    def come(self):
        """Listen, from now on."""
        self.is_away = False
        path = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def log_message(self, *_):
                pass

            def handle_one_request(self):
                try:
                    super().handle_one_request()
                except OSError:
                    # the client broke off
                    self.close_connection = True

        for method in METHODS:
            setattr(Handler, f"do_{method}", lambda handler: path.answer(handler))
        self._server = ThreadingHTTPServer((HOST, self.port), Handler)
        self._server.daemon_threads = True
        threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True).start()

    def leave(self):
        """Stop listening: connections are refused, and those that are open break off."""
        self.is_away = True
        self._server.shutdown()
        self._server.server_close()

    def close(self):
        """End, also the requests that wait."""
        self._over.set()
        self.leave()

    def answer(self, handler):
        body = body_of(handler)
        if self.is_away:
            reset(handler)
            return
        self.seen.append(handler.command)
        is_meant = handler.command in self.methods and handler.path.endswith(self.suffix)
        fault = self.fault if is_meant and self.times > 0 else None
        if fault is None:
            self._forward(handler, body)
            return
        self.times -= 1
        self.failed.append(handler.path)
        if fault in ("half", "stuck"):
            self._forward_half(handler, body)
            if fault == "stuck":
                self._over.wait()
            reset(handler)
        elif fault == "reset":
            reset(handler)
        elif fault == "silent":
            self._over.wait()
        else:
            content = REFUSAL if fault == 403 and handler.command != "HEAD" else b""
            handler.send_response(fault)
            handler.send_header("Content-Length", str(len(content)))
            handler.end_headers()
            handler.wfile.write(content)

    def _forward(self, handler, body):
        connection = http.client.HTTPConnection(HOST, self.to)
        connection.request(handler.command, handler.path, body, dict(handler.headers))
        response = connection.getresponse()
        content = response.read()
        handler.send_response(response.status)
        for name, value in response.getheaders():
            if name.lower() not in ("connection", "content-length", "date", "server"):
                handler.send_header(name, value)
        length = response.getheader("Content-Length") if handler.command == "HEAD" else None
        handler.send_header("Content-Length", length or str(len(content)))
        handler.end_headers()
        handler.wfile.write(content)
        connection.close()

    def _forward_half(self, handler, body):
        connection = http.client.HTTPConnection(HOST, self.to)
        connection.putrequest(handler.command, handler.path, skip_host=True)
        for name, value in handler.headers.items():
            connection.putheader(name, value)
        connection.endheaders(body[: len(body) // 2])
        connection.close()


def body_of(handler):
    """Read an upload; one in chunks comes back whole, with its length instead."""
    if handler.headers.get("Transfer-Encoding") != "chunked":
        return handler.rfile.read(int(handler.headers.get("Content-Length") or 0))
    body = b""
    while size := int(handler.rfile.readline().split(b";")[0], 16):
        body += handler.rfile.read(size)
        handler.rfile.readline()
    while handler.rfile.readline().strip():
        pass
    del handler.headers["Transfer-Encoding"]
    handler.headers["Content-Length"] = str(len(body))
    return body


def reset(handler):
    """Break a connection off, so that the other side sees a reset."""
    handler.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    handler.connection.close()
    handler.close_connection = True
