"""Pictures of trained versions outlive their checkpoints, and never stop training."""

import logging

import pytest

from pbt import pictures, slices, task


@pytest.fixture
def run_dir(tmp_path):
    for name, content in (("one", b"first"), ("two", b"second")):
        directory = tmp_path / "checkpoints/0" / name
        directory.mkdir(parents=True)
        (directory / pictures.FILE_NAME).write_bytes(content)
    (tmp_path / "checkpoints/0/none").mkdir()
    return tmp_path


def test_a_picture_outlives_its_checkpoint_and_a_later_try_replaces_it(run_dir):
    pictures.keep(run_dir, run_dir / "checkpoints/0/one", 3, 7)
    (run_dir / "checkpoints/0/one" / pictures.FILE_NAME).unlink()
    kept = pictures.path(run_dir, 3, 7)
    assert kept.read_bytes() == b"first"
    for _ in range(2):  # the same file twice, too
        pictures.keep(run_dir, run_dir / "checkpoints/0/two", 3, 7)
        assert kept.read_bytes() == b"second"
    assert list(kept.parent.iterdir()) == [kept]


def test_a_checkpoint_without_a_picture_makes_nothing(run_dir):
    pictures.keep(run_dir, run_dir / "checkpoints/0/none", 3, 7)
    assert not (run_dir / pictures.DIRECTORY).exists()


def test_a_picture_that_cannot_be_kept_is_logged(run_dir, caplog):
    (run_dir / pictures.DIRECTORY).write_text("a file")
    with caplog.at_level(logging.WARNING):
        pictures.keep(run_dir, run_dir / "checkpoints/0/one", 3, 7)
    assert "picture of member 3, version 7 is not kept" in caplog.text


def test_a_factory_knows_the_directory_of_the_run_only_while_it_is_called(tmp_path):
    seen = []

    def make_task(config, member, seed):
        seen.append(task.run_directory())

    slices.build(make_task, {}, 0, 0, tmp_path)
    slices.build(make_task, {}, 0, 0)
    assert seen == [tmp_path, None]
    assert task.run_directory() is None
