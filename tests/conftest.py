import json
import signal
import sqlite3

import psutil
import psycopg
import pytest
import torch
from pyarrow import fs

import postgres_server as postgres_server_module
import s3_server as s3_servers
from pbt import store


def pytest_configure():
    # A shell's "&" ignores SIGINT, and the processes that the tests start would inherit that.
    if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session", autouse=True)
def _one_torch_thread():
    # Two threads on a busy two-core machine wait for each other: ten times slower.
    torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def _torch_draws_the_same_each_time():
    torch.manual_seed(0)


@pytest.fixture
def started():
    """Find the processes that run below one, by default this one, and that this test has started.

    The session's own servers run below this process too, and are none of a test's business.
    """

    def find(owner=None):
        children = psutil.Process(owner).children(recursive=True)
        return [child for child in children if child not in before and child.is_running()]

    before = []
    before = find()
    return find


@pytest.fixture(scope="session")
def postgres_server():
    """A PostgreSQL server of this session's own."""
    server = postgres_server_module.Server()
    yield server
    server.close()


class Databases:
    """Where tests create stores: in SQLite files, or in one database of a server."""

    def __init__(self, url):
        self.url = url
        self.is_sqlite = url is None

    def file(self, directory, name="run"):
        """A store's file of this name."""
        return directory / (f"{name}.sqlite3" if self.is_sqlite else f"{name}.postgresql")

    def create(self, path, *arguments, **keywords):
        return store.Store.create(path, *arguments, url=self.url, **keywords)

    def execute(self, path, statement):
        """Change a store behind its back."""
        if self.is_sqlite:
            connection = sqlite3.connect(path, isolation_level=None)
            connection.execute(statement)
            connection.close()
        else:
            schema = json.loads(path.read_text())["schema"]
            with psycopg.connect(self.url, autocommit=True) as connection:
                connection.execute(f"SET search_path = {schema}")
                connection.execute(statement)


@pytest.fixture(params=["sqlite", "postgresql"])
def databases(request):
    """Each test that asks for it runs on both databases."""
    if request.param == "sqlite":
        return Databases(None)
    return Databases(request.getfixturevalue("postgres_server").url)


@pytest.fixture(scope="session")
def s3_server():
    """An S3 server of this session's own, with a bucket."""
    if s3_servers.PYTHON is None:
        pytest.skip("needs moto, see tests/experiments/s3_server.py")
    with pytest.MonkeyPatch.context() as patch:
        for name, value in s3_servers.CREDENTIALS.items():
            patch.setenv(name, value)
        server = s3_servers.Server()
        fs.S3FileSystem(
            endpoint_override=f"127.0.0.1:{server.port}",
            scheme="http",
            region="us-east-1",
            allow_bucket_creation=True,
        ).create_dir("bucket")
        yield server
        server.kill()
