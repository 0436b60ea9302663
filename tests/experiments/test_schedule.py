"""Schedules: the files that users write, and the values at each step."""

import re

import pytest

from experiments.analysis import schedule

NAMES = ["learning_rate", "entropy_cost", "unroll_length"]
GOOD = """agent_steps,learning_rate,entropy_cost,unroll_length,member,version
0,1e-2,0.01,5.5,3,0

1_000, 5e-3 ,0,8,3,4
2500,1e-4,0.02,20,1,9
"""


def write(tmp_path, text):
    path = tmp_path / "mine.csv"
    path.write_text(text)
    return path


def test_values_hold_from_their_row_to_the_next(tmp_path):
    read = schedule.read(write(tmp_path, GOOD), NAMES)
    assert read.names == tuple(NAMES)
    rates = [read.at(steps)["learning_rate"] for steps in (0, 999, 1_000, 2_499, 2_500, 10**9)]
    assert rates == [1e-2, 1e-2, 5e-3, 5e-3, 1e-4, 1e-4]
    assert read.final == {"learning_rate": 1e-4, "entropy_cost": 0.02, "unroll_length": 20}
    assert schedule.Schedule.from_json(read.to_json()) == read


def test_stretching_moves_the_last_row_to_the_total(tmp_path):
    read = schedule.read(write(tmp_path, GOOD), NAMES).stretched(5_000)
    assert [steps for steps, _ in read.rows] == [0, 2_000, 5_000]
    with pytest.raises(ValueError, match="one row"):
        schedule.Schedule(((0, {"learning_rate": 1.0}),)).stretched(100)


def test_a_spreadsheets_mark_and_line_ends_are_read(tmp_path):
    path = tmp_path / "mine.csv"
    path.write_bytes(b"\xef\xbb\xbf" + GOOD.replace("\n", "\r\n").encode())
    assert len(schedule.read(path, NAMES).rows) == 3


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "line 1: no column agent_steps"),
        ("steps,learning_rate\n0,1\n", "line 1: no column agent_steps"),
        ("agent_steps,lr\n0,1\n", "line 1: unknown column 'lr': use agent_steps, learning_rate"),
        ("agent_steps,learning_rate,learning_rate\n", "line 1: column 'learning_rate' stands"),
        ("agent_steps,member\n0,1\n", "line 1: no hyperparameter"),
        ("agent_steps,learning_rate\n", "line 2: no row"),
        ("agent_steps,learning_rate\n5,1\n", "line 2: agent_steps 5: the first row is at 0"),
        ("agent_steps,learning_rate\n0,1\n0,2\n", "line 3: agent_steps 0 after 0: they must go up"),
        ("agent_steps,learning_rate\n0,1\n9,1\n\n4,1\n", "line 5: agent_steps 4 after 9"),
        ("agent_steps,learning_rate\n0.5,1\n", "line 2: agent_steps '0.5': use a whole number"),
        ("agent_steps,learning_rate\n0\n", "line 2: 1 cells, but 2 columns"),
        ("agent_steps,learning_rate\n0,fast\n", "line 2: learning_rate 'fast': use a number above"),
        ("agent_steps,learning_rate\n0,nan\n", "line 2: learning_rate 'nan'"),
        ("agent_steps,learning_rate\n0,0\n", "line 2: learning_rate '0': use a number above 0"),
        ("agent_steps,entropy_cost\n0,-1\n", "line 2: entropy_cost '-1': use 0 or more"),
        ("agent_steps,unroll_length\n0,0.5\n", "line 2: unroll_length '0.5': use a number from 1"),
    ],
)
def test_a_bad_file_is_refused_with_its_line(tmp_path, text, message):
    with pytest.raises(ValueError, match=re.escape(message)) as caught:
        schedule.read(write(tmp_path, text), NAMES)
    assert str(caught.value).startswith(str(tmp_path / "mine.csv"))
    assert "\n" not in str(caught.value)
