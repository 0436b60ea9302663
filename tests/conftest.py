import pytest
import torch


@pytest.fixture(scope="session", autouse=True)
def _one_torch_thread():
    # Two threads on a busy two-core machine wait for each other: ten times slower.
    torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def _torch_draws_the_same_each_time():
    torch.manual_seed(0)
