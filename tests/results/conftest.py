"""Stores of both kinds: what holds for a folder holds for a bucket."""

from __future__ import annotations

import pytest
from tests.results.s3 import Path, endpoint, running_server

from ldru_study.results.store import Store


@pytest.fixture(scope="session")
def s3_port(tmp_path_factory):
    """Return the port of an S3 server."""
    with running_server(tmp_path_factory.mktemp("s3") / "log") as port:
        yield port


@pytest.fixture
def s3_uri(s3_port, tmp_path, monkeypatch):
    """Return the URI of an empty folder in the bucket, reachable by the environment."""
    for name, value in endpoint(s3_port).items():
        monkeypatch.setenv(name, value)
    return f"s3://bucket/{tmp_path.name}"


@pytest.fixture
def path(s3_port):
    """Return a way to the server that can fail."""
    way = Path(s3_port)
    yield way
    way.close()


@pytest.fixture
def far_store(path, tmp_path, monkeypatch):
    """Return an empty store in a bucket behind ``path``."""
    for name, value in endpoint(path.port).items():
        monkeypatch.setenv(name, value)
    return Store(f"s3://bucket/{tmp_path.name}")


@pytest.fixture
def local_store(tmp_path):
    """Return an empty store in the folder 'results' of ``tmp_path``."""
    return Store(str(tmp_path / "results"))


@pytest.fixture(params=["folder", "s3"])
def store(request):
    """Return an empty store, once in a folder and once in a bucket."""
    if request.param == "folder":
        return request.getfixturevalue("local_store")
    return Store(request.getfixturevalue("s3_uri"))
