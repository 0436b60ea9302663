"""What a slice of training makes of its member."""

from pbt import run, slices, space, task
from pbt.records import Member

CONFIG = run.RunConfig(
    "nowhere:make_task",
    space.Space({"rate": space.LogUniform(0.1, 1.0)}, adapt=("rate",)),
    population=1,
    total_steps=100,
    report_interval=10,
    ready_interval=10,
    window=2,
    min_episodes=3,
)


def after(episodes, restarted_at=None):
    member = Member(0, 4, 20, {"rate": 0.5}, window=(1.0, 2.0), counted_episodes=9, score=1.5)
    done = slices.Slice(10, 0.1, episodes, restarted_at=restarted_at)
    return slices.after_slice(CONFIG, member, done)


def episode(value):
    return task.Episode(5, value, 5, True)


def test_episodes_extend_the_window_and_score_it():
    trained, report = after([episode(3.0), episode(4.0)])
    assert (trained.window, trained.counted_episodes, trained.score) == ((3.0, 4.0), 11, 3.5)
    assert [e.agent_steps for e in report.episodes] == [25, 25]


def test_a_restart_of_all_episodes_starts_the_window_again():
    # The first to finish after it are the shortest: not valid before min_episodes of them.
    trained, report = after([episode(3.0), episode(4.0), episode(5.0)], restarted_at=2)
    assert (trained.window, trained.counted_episodes, trained.score) == ((5.0,), 1, 1.5)
    assert len(report.episodes) == 3
