"""`tune` with learners of one's own: what it returns, what it refuses, and what it says."""

import importlib
import json
import sys
import types
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

import experiments
from experiments import evaluate, launch, replay, report, resume
from experiments.members import nested, own
from pbt import space, store, verdict
from python_process import python

CLIMB = '''
import torch

from experiments import Learner, tune
from pbt.space import Constant, IntUniform, LogUniform


class Climb(Learner):
    """Climbs to 1 at its rate."""

    score_name, step_name, saved = "height", "leap", ("x",)
    rate, whole, held = 0.1, 1, 0.0

    def __init__(self, start=0.0):
        self.x = torch.tensor(start)

    def step(self):
        assert isinstance(self.whole, int)
        self.x += self.rate * (1 - self.x)
        self.metrics = {"gap": 1 - self.x.item()}
        return self.x


SPACE = {"rate": LogUniform(1e-3, 0.5), "whole": IntUniform(1, 4), "held": Constant(3.0)}


def go(**more):
    settings = {"steps": 20, "population": 4, "workers": 1, "run_dir": "run"} | more
    return tune(Climb, SPACE, **settings)


if __name__ == "__main__":
    result = go()
    print(result.exit_code)
'''


@pytest.fixture
def climb(here, monkeypatch):
    """The module of the learner above, in the working directory."""
    (here / "climb.py").write_text(CLIMB)
    monkeypatch.syspath_prepend(str(here))
    import climb

    yield climb
    del sys.modules["climb"]


def test_the_result_is_the_best_member_and_its_words_are_the_learners(climb, command, capsys):
    result = climb.go(settings={"start": 0.25})
    said = capsys.readouterr().out
    assert result.exit_code == 0
    with store.Store.open("run") as run_store:
        config, members = run_store.config, run_store.members()
    best = max(members, key=lambda member: member.score)
    assert (result.run_dir, result.member, result.score) == (Path("run"), best.id, best.score)
    assert result.hyperparameters == config.space.used(best.hyperparameters)
    assert config.space.adapt == ("rate", "whole")
    assert (config.ready_interval, config.window, config.exploit) == (2, 1, "truncation")
    assert str(result).startswith(f"run: member {best.id}, height {best.score:.4g}, with rate ")
    # The words.
    assert "4 members, 20 leaps each" in said
    assert "best height" in said
    assert "evaluat" not in said
    page = (Path("run/report/index.html")).read_text()
    summary = Path("run/report/summary.md").read_text()
    for text in (page, summary):
        assert "leaps" in text
        assert "height" in text
        assert "experiments.evaluate" not in text
        assert "experiments.replay" not in text
        assert "mean of the last 1 " not in text
    for text in (">height</text>", ">members</text>", ">best lineage</text>", "once 1 has been"):
        assert text in page
    events = EventAccumulator(f"run/tensorboard/member-{best.id:02d}").Reload()
    assert {"evaluation/height", "gap"} <= set(events.Tags()["scalars"])
    assert [point.step for point in events.Scalars("evaluation/height")] == list(range(1, 21))
    # The learner itself.
    learner = experiments.load_learner(climb.Climb, "run")
    assert float(learner.x) == pytest.approx(best.score)
    assert learner.rate == best.hyperparameters["rate"]
    other = experiments.load_learner(climb.Climb, "run", (best.id + 1) % 4)
    assert float(other.x) == pytest.approx(members[(best.id + 1) % 4].score)
    # Commands that refuse it are those that no page names.
    for module in (evaluate, replay):
        assert command(module, "run").code == 2
    assert command(report, "run").code is None
    refused = command(resume, "run")
    assert "--trust" in refused.err
    # More steps extend the run; other settings are refused, and no flag of a command is named.
    with pytest.raises(launch.Refused, match=r"other settings.*resume run --trust$"):
        climb.go(settings={"start": 0.5})


def test_what_a_worker_could_not_do_is_refused_before_anything_is_created(climb, here):
    class Inner(climb.Climb):
        pass

    with pytest.raises(ValueError, match="is defined inside a function"):
        experiments.tune(Inner, climb.SPACE, steps=4)
    with pytest.raises(ValueError, match=r"unknown hyperparameters \['speed'\]: Climb has no attr"):
        experiments.tune(climb.Climb, {"speed": space.Uniform(0, 1)}, steps=4)
    with pytest.raises(TypeError, match="unexpected keyword argument 'width'"):
        climb.go(settings={"width": 3})
    with pytest.raises(ValueError, match="--workers 0"):
        climb.go(workers=0)
    with pytest.raises(ValueError, match="total_steps 0 is too small"):
        climb.go(steps=0)
    climb.Climb.saved = ()
    with pytest.raises(NotImplementedError, match="give it saved = "):
        climb.go()
    climb.Climb.saved = ("x", "go")
    climb.Climb.go = staticmethod(print)
    with pytest.raises(TypeError, match=r"state.go is a builtin_function_or_method, which cannot"):
        climb.go()
    assert sorted(path.name for path in here.iterdir() if path.suffix == "") in (
        [],
        ["__pycache__"],
    )


NOTEBOOK = CLIMB.partition("if __name__")[0] + "go()\n"


@pytest.fixture
def run_as_main(monkeypatch):
    """Run code as the main module of a file, or of a prompt."""

    def call(code, file=None):
        main = types.ModuleType("__main__")
        if file is not None:
            main.__file__ = str(file)
        monkeypatch.setitem(sys.modules, "__main__", main)
        exec(compile(code, str(file), "exec"), vars(main))

    return call


def test_a_class_at_a_prompt_is_refused_with_the_way_out(here, run_as_main):
    with pytest.raises(ValueError, match=r"`%%writefile climb\.py`") as refused:
        run_as_main(NOTEBOOK)
    assert "`from climb import Climb`" in str(refused.value)
    assert list(here.iterdir()) == []


def test_a_script_that_calls_tune_when_it_is_imported_is_told(here):
    (here / "climb.py").write_text(NOTEBOOK)
    done = python(here, "climb.py")
    assert done.returncode == 1
    assert 'put the call under `if __name__ == "__main__":`' in done.stderr
    assert {path.name for path in here.iterdir()} <= {"climb.py", "__pycache__"}


def test_a_script_with_the_name_of_another_module_is_refused(here, run_as_main):
    (here / "my-climb.py").write_text(CLIMB)
    with pytest.raises(ValueError, match=r"give the file another name, such as climb\.py"):
        run_as_main(CLIMB, here / "my-climb.py")
    assert {path.name for path in here.iterdir()} == {"my-climb.py"}


def test_a_crash_names_file_line_and_log_and_once_mended_the_run_goes_on(here, monkeypatch):
    """In a script's own class, with the real launcher and its workers."""
    broken = CLIMB.replace("self.x += self", "self.x += sefl").replace(
        '"run_dir": "run"}', '"run_dir": "run", "max_attempts": 1}'
    )
    (here / "climb.py").write_text(broken)
    done = python(here, "climb.py")
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "1"
    (line,) = [line for line in done.stdout.splitlines() if "crash alike" in line]
    number = broken.splitlines().index(next(x for x in broken.splitlines() if "sefl" in x)) + 1
    assert "NameError: name 'sefl' is not defined" in line
    assert f"in {(here / 'climb.py').resolve()}, line {number}, in step" in line
    assert sum("crashed: NameError" in line for line in done.stdout.splitlines()) == 1
    log = Path(line.partition("the whole traceback is in ")[2].partition(");")[0])
    assert "NameError" in (here / log).read_text()
    (here / "climb.py").write_text(broken.replace("sefl", "self"))
    monkeypatch.syspath_prepend(str(here))
    try:
        assert importlib.import_module("climb").go().exit_code == 0
    finally:
        sys.modules.pop("climb", None)
    with store.Store.open(here / "run") as run_store:
        assert {member.state for member in run_store.members()} == {"finished"}


@pytest.mark.parametrize(
    ("error", "place"),
    [
        ("no traceback at all", "no traceback at all"),
        ("", "unknown"),
        (
            'Traceback:\n  File "/home/me/mine.py", line 7, in step\n    torch.zeros("x")\n'
            f'  File "{torch.__file__}", line 9, in zeros\n    return 1\nTypeError: no',
            "TypeError: no, in /home/me/mine.py, line 7, in step",
        ),
        (
            'Traceback:\n  File "/home/me/env.py", line 7, in step\n    1 / 0\nKeyError: no\n'
            "\nThe above exception was the direct cause of the following exception:\n\n"
            'Traceback:\n  File "/suite/actor.py", line 9, in act\n    raise\nFailed: no',
            "Failed: no, in /home/me/env.py, line 7, in step",
        ),
        (
            f'Traceback:\n  File "{json.__file__}", line 9, in loads\nValueError: no',
            f"ValueError: no, in {json.__file__}, line 9, in loads",
        ),
        (
            '  File "<frozen importlib>", line 1, in load\n  File "/home/me/mine.py", line 3\n'
            "    def f(\n         ^\nSyntaxError: '(' was never closed",
            "SyntaxError: '(' was never closed, in /home/me/mine.py, line 3",
        ),
    ],
)
def test_a_traceback_ends_in_the_learners_own_code(error, place):
    assert verdict.last_words(error) == place


def test_nested_state_comes_back_as_it_was(tmp_path):
    model = torch.nn.Linear(2, 1)
    adam = torch.optim.Adam(model.parameters())
    model(torch.ones(1, 2)).sum().backward()
    adam.step()
    rng = np.random.default_rng(0)
    value = {
        "adam": adam.state_dict(),
        "rng": rng.bit_generator.state,
        "legacy": np.random.RandomState(0).get_state(),
        "tuple": (1, 2.5, None, True, "text", float("inf")),
        3: [{"a.b": torch.zeros(1)}, {"a": {"b": torch.ones(1)}}],
        "a": {"b.c": torch.zeros(2), "b": {"c": torch.ones(2)}},
        "half": torch.ones(2, dtype=torch.bfloat16),
        "number": np.float32(0.5),
    }
    parts = {}
    tree = json.loads(json.dumps(nested.split(value, "state", parts)))
    safetensors.torch.save_file(parts, tmp_path / "parts")
    back = nested.join(tree, safetensors.torch.load_file(tmp_path / "parts"))
    assert back.keys() == value.keys()
    assert back["tuple"] == value["tuple"]
    assert back["rng"] == value["rng"]
    assert back["adam"]["param_groups"] == value["adam"]["param_groups"]
    assert back["adam"]["state"].keys() == value["adam"]["state"].keys()
    for index, state in value["adam"]["state"].items():
        for name, tensor in state.items():
            torch.testing.assert_close(back["adam"]["state"][index][name], tensor, rtol=0, atol=0)
    np.testing.assert_array_equal(back["legacy"][1], value["legacy"][1])
    assert back["legacy"][1].dtype == np.uint32
    torch.testing.assert_close(back["a"]["b.c"], torch.zeros(2))
    torch.testing.assert_close(back["a"]["b"]["c"], torch.ones(2))
    assert back["half"].dtype == torch.bfloat16
    assert back["number"] == 0.5
    with pytest.raises(TypeError, match=r"state.x is a Linear, which cannot be saved"):
        nested.split({"x": model}, "state", {})
    with pytest.raises(TypeError, match=r"state has the key \(1, 2\)"):
        nested.split({(1, 2): 3}, "state", {})


def test_a_learner_that_returns_no_score_is_told(climb):
    class Silent(climb.Climb):
        def step(self):
            self.x += 1

    with pytest.raises(TypeError, match=r"Silent.step\(\) returned None: return the score"):
        list(own.LearnerTask(Silent, {}, 0, 0).train(1, 1))


def test_the_global_generators_are_left_as_they_were(climb):
    class Draws(climb.Climb):
        def step(self):
            return torch.rand(()) + np.random.random()  # noqa: NPY002

    torch.manual_seed(5)
    np.random.seed(5)  # noqa: NPY002
    before = torch.get_rng_state(), np.random.get_state()[1].copy()  # noqa: NPY002
    one, other, again = (own.LearnerTask(Draws, {}, 0, seed) for seed in (1, 2, 1))
    scores = [[p.episodes[0].episode_return for p in task.train(3, 3)] for task in (one, other)]
    assert scores[0] != scores[1]
    assert [p.episodes[0].episode_return for p in again.train(3, 3)] == scores[0]
    assert torch.equal(torch.get_rng_state(), before[0])
    np.testing.assert_array_equal(np.random.get_state()[1], before[1])  # noqa: NPY002
