"""Whether freed memory stays in the process, by the kernel's count of page faults."""

import platform
import subprocess
import sys

import pytest

_COUNT = """
import resource, sys
import torch
from agents import memory

def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(4):
        torch.empty(10_000_000).fill_(1)  # 40 MB: more than glibc ever keeps by itself
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

torch.set_num_threads(1)
faults()
first = faults()
memory.keep_freed()
for _ in range(5):  # the heap grows a few times before blocks find their places
    faults()
print(first, faults())
"""

glibc = pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="tells glibc")


def _faults(**environment: str) -> tuple[int, int]:
    done = subprocess.run(
        [sys.executable, "-c", _COUNT],
        env=environment,
        capture_output=True,
        text=True,
        check=True,
        timeout=120,
    )
    before, after = done.stdout.split()
    return int(before), int(after)


@glibc
def test_freed_blocks_are_not_handed_out_again() -> None:
    before, after = _faults()
    assert after < before / 20


@glibc
@pytest.mark.parametrize("name", ["MALLOC_TRIM_THRESHOLD_", "MALLOC_MMAP_THRESHOLD_"])
def test_the_environment_decides(name: str) -> None:
    before, after = _faults(**{name: "131072"})
    assert after > before / 2
