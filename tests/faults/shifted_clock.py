"""A wall clock that a test can set, for all processes that have CLOCK_FILE in their environment.

The file holds seconds, which are added to the store's clock. It is read at each look at the clock.
"""

import os
from pathlib import Path

from pbt.store import database


def install():
    if (path := os.environ.get("CLOCK_FILE")) is None:
        return
    real = database.Database.now

    def now(self, connection):
        return real(self, connection) + float(Path(path).read_text() or 0)

    database.Database.now = now
