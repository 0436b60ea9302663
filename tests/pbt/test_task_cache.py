"""Tasks in memory: how many, at which version, and that each is closed exactly once."""

import logging

import pytest

from pbt import task_cache


class Counted:
    """A task that counts how often it was closed."""

    def __init__(self, closes_badly=False):
        self.closed, self.closes_badly = 0, closes_badly

    def close(self):
        self.closed += 1
        if self.closes_badly:
            raise OSError("the environment's process is gone")


@pytest.fixture
def tasks():
    return task_cache.TaskCache(2)


def test_the_least_recently_used_task_makes_room(tasks):
    live = [Counted() for _ in range(3)]
    tasks.keep(0, 5, live[0])
    tasks.keep(1, 5, live[1])
    assert tasks.get(0, 5) is live[0]
    tasks.make_room(2)
    tasks.keep(2, 5, live[2])
    assert tasks.versions() == {0: 5, 2: 5}
    assert [task.closed for task in live] == [0, 1, 0]


def test_a_member_has_one_task(tasks):
    first, second = Counted(), Counted()
    tasks.keep(0, 5, first)
    tasks.make_room(0)
    tasks.keep(0, 6, second)
    assert first.closed == 1
    assert tasks.get(0, 5) is None
    assert tasks.get(0, 6) is second


def test_a_stale_task_is_closed(tasks):
    fresh, stale = Counted(), Counted()
    tasks.keep(1, 5, fresh)
    tasks.keep(2, 5, stale)
    tasks.drop_stale({1: 5, 2: 6})
    assert tasks.versions() == {1: 5}
    assert (fresh.closed, stale.closed) == (0, 1)


@pytest.mark.parametrize("version", [-1, 0, 5, None])
def test_a_dirty_task_is_never_handed_out(tasks, version):
    tasks.keep_dirty(0, Counted())
    assert tasks.is_dirty(0)
    assert tasks.versions() == {}
    if version is not None:
        assert tasks.get(0, version) is None


def test_a_task_gets_dirty_and_clean_again(tasks):
    live = Counted()
    assert not tasks.is_dirty(0)
    tasks.keep(0, 5, live)
    assert not tasks.is_dirty(0)
    tasks.keep_dirty(0, live)  # half of a donor may be loaded
    assert tasks.is_dirty(0)
    assert tasks.get(0, 5) is None
    tasks.keep(0, 6, live)  # the copy was committed
    assert not tasks.is_dirty(0)
    assert tasks.get(0, 6) is live
    assert live.closed == 0


def test_a_dirty_task_is_closed_with_the_stale_ones_and_takes_its_place_before(tasks):
    dirty, clean = Counted(), Counted()
    tasks.keep_dirty(0, dirty)
    tasks.keep(1, 5, clean)
    tasks.drop_stale({0: 5, 1: 5})
    assert (dirty.closed, clean.closed) == (1, 0)
    assert not tasks.is_dirty(0)
    tasks.keep_dirty(0, dirty)
    tasks.make_room(2)
    assert (dirty.closed, clean.closed) == (1, 1)  # it counts as used when it was kept


def test_closing_closes_dirty_and_clean_tasks_once(tasks, caplog):
    dirty, clean = Counted(closes_badly=True), Counted()
    tasks.keep_dirty(0, dirty)
    tasks.keep(1, 5, clean)
    with caplog.at_level(logging.ERROR):
        tasks.close()
    tasks.close()
    assert (dirty.closed, clean.closed) == (1, 1)
    assert "member 0: its task did not close" in caplog.text
    assert tasks.versions() == {}


def test_a_cache_holds_at_least_one_task():
    with pytest.raises(ValueError, match="residents 0"):
        task_cache.TaskCache(0)
