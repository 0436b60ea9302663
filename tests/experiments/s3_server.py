"""moto's S3 server for tests, on loopback.

moto needs botocore, which refuses the python-dateutil of constraints.txt. So it may be installed
for another Python, whose path is in the environment's MOTO_PYTHON. Without it, tests are skipped.
"""

import importlib.util
import os
import socket
import subprocess
import sys
import time

PYTHON = os.environ.get("MOTO_PYTHON") or (
    sys.executable if importlib.util.find_spec("moto") else None
)
"""The Python that has moto; None without one."""
CREDENTIALS = {
    "AWS_ACCESS_KEY_ID": "public-name",
    "AWS_SECRET_ACCESS_KEY": "sesame-open",
    "AWS_EC2_METADATA_DISABLED": "true",
}


class Server:
    """A running server. Its objects are in memory, so a killed one has lost them."""

    def __init__(self):
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        self.start()

    def url(self, folder):
        return (
            f"s3://bucket/{folder}?endpoint_override=127.0.0.1:{self.port}&scheme=http"
            "&region=us-east-1&allow_bucket_creation=true"
        )

    def start(self):
        self.process = subprocess.Popen(
            [PYTHON, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(self.port)],
            env={**os.environ, **CREDENTIALS},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline:
            try:
                socket.create_connection(("127.0.0.1", self.port), timeout=1).close()
                return
            except OSError:
                time.sleep(0.05)
        raise AssertionError("moto's server did not start")

    def kill(self):
        self.process.kill()
        self.process.wait()
