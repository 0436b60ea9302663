"""The toy, whose updates take no time, in workers that write down what each claim took.

Each process leaves `<pid>.json` in the folder that the task's configuration names: the seconds of
its claims, and its largest resident memory in MB.
"""

import atexit
import json
import os
import resource
import time
from pathlib import Path

import toy

from pbt import store

claims_s: list[float] = []
folders: set[str] = set()
_claim = store.Store.claim


def claim(*arguments, **keywords):
    began_s = time.perf_counter()
    try:
        return _claim(*arguments, **keywords)
    finally:
        claims_s.append(time.perf_counter() - began_s)


@atexit.register
def write():
    memory_mb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    for folder in folders:
        text = json.dumps({"claims_s": claims_s, "memory_mb": memory_mb})
        Path(folder, f"{os.getpid()}.json").write_text(text)


def make_task(config, member, seed):
    folders.add(config["claims"])
    return toy.make_task(config, member, seed)


store.Store.claim = claim
