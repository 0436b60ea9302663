import signal

import pytest
import torch


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
