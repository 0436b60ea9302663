"""GANs as a user runs them: words, samples, moved runs, replays, comparisons, and bad input."""

import json
import re
import shutil
from pathlib import Path

import pytest
from tensorboard.backend.event_processing import event_accumulator

from experiments import compare, evaluate, gan, replay, study
from experiments.analysis import history, scores, wording
from experiments.members import evaluation
from experiments.pages import run_page, summary
from html_check import check
from pbt import store

TINY = (
    *("--population", "2", "--workers", "1", "--total-steps", "16", "--report-interval", "4"),
    *("--ready-interval", "4", "--evaluation-interval", "4", "--samples", "40", "--splits", "10"),
    *("--width", "2", "--batch-size", "8", "--classifier-width", "2", "--classifier-steps", "20"),
    *(
        "--truncation-fraction",
        "0.5",
    ),
)
RUN = Path("run")
WRONG = re.compile(r"\b(episodes?|agent steps?|frames|environments?)\b")


def test_a_run_is_told_scored_moved_and_replayed_in_its_own_words(command, here, one_process):
    result = command(gan, *TINY, "--run-dir", RUN)
    assert result.code == 0, result
    assert "2 members, 16 updates each" in result.out
    assert "images: digits in many fonts, generated" in result.out
    trained, _, known = result.out.partition("classifier: ")
    assert trained.endswith("training the classifier that scores images, 20 steps\n")
    assert re.match(r"[\d.]+% of held-out images right", known)
    (classifier,) = (RUN / "shared").glob("classifier-*")
    with store.Store.open(RUN) as run_store:
        best = evaluation.best_member(run_store)
        seen = history.History.read(run_store, "run")
        assert str(RUN) not in json.dumps(run_store.config.to_json()["task_config"])
        committed = [(report.member, report.version) for _, report in run_store.reports()]
    played = json.loads(scores.evaluation_path(RUN, best).read_text())
    assert len(played["returns"]) == 30
    for words in ("Inception score of splits of 4 fresh images", "Frechet distance", "classifier"):
        assert words in played["protocol"]

    # Every version that was trained has its picture, in the page and in TensorBoard.
    kept = {path.stem for path in (RUN / "pictures").iterdir()}
    assert kept == {f"{member:02d}-{version}" for member, version in committed}
    made = run_page.page(seen, RUN, {})
    _, told = check(made)
    assert made.count("data:image/png;base64,") >= 3
    for text in (told, summary.summary(seen, RUN), result.out):
        assert "updates" in text
        assert "splits of images" in text
        assert not WRONG.search(text), WRONG.search(text)
    events = event_accumulator.EventAccumulator(str(RUN / "tensorboard/member-00")).Reload()
    assert [image.step for image in events.Images("samples")] == [4, 8, 12, 16]
    assert (events.Images("samples")[0].width, events.Images("samples")[0].height) == (192, 192)
    assert "evaluation/score" in events.Tags()["scalars"]
    assert not [tag for tag in events.Tags()["scalars"] if "episode" in tag]

    # Elsewhere the classifier is found, and where it was deleted it is made again.
    before = classifier.read_bytes(), classifier.stat().st_mtime_ns
    shutil.copytree(RUN, "moved")
    shutil.rmtree(RUN)
    moved = Path("moved/shared") / classifier.name
    for _ in range(2):
        again = command(evaluate, "moved", "--member", str(best.id))
        assert again.code is None, again
        assert f"{wording.score(played['mean'])} (mean of 30 fresh splits of images;" in again.out
        assert moved.read_bytes() == before[0]
        shutil.rmtree("moved/shared")
    resumed = command(gan, *TINY, "--run-dir", "moved")
    assert resumed.code == 0, resumed
    assert "resuming moved" in resumed.out
    assert moved.read_bytes() == before[0]

    followed = command(replay, "moved", "--run-dir", "replayed")
    assert followed.code == 0, followed
    assert "1 member, 16 updates each" in followed.out
    assert not WRONG.search(followed.out), followed.out
    set_side_by_side = command(compare, "moved", "replayed", "--out", "compared")
    assert set_side_by_side.code is None, set_side_by_side
    _, told = check(Path("compared/index.html").read_text())
    assert "updates of each member" in told
    assert not WRONG.search(told), WRONG.search(told)


def test_a_study_refuses_settings_of_environments(command, here):
    arguments = ("random-search", "--env", "gan", "--population", "2", "--total-steps", "80")
    refused = command(study, *arguments, "--num-envs", "4", "--dry-run")
    assert (refused.code, refused.err) == (
        2,
        "error: --num-envs: gan has no such setting, leave it out\n",
    )


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--data", "nowhere"), "nowhere/data_batch_1.bin cannot be read"),
        (("--preset", "paper"), "--data"),
        (("--fixed", "learning_rate=0.1"), "generator_learning_rate"),
        (("--splits", "0"), "splits 0: use a whole number from 1 on"),
        (("--samples", "4"), "samples 4: use at least one per split (10)"),
    ],
)
def test_bad_input_is_refused_in_one_line_and_nothing_created(command, here, arguments, words):
    result = command(gan, *arguments)
    assert result.code == 2
    assert words in result.err
    assert result.err.startswith("error: ")
    assert not list(here.iterdir())


def test_a_gan_plays_nothing_that_could_be_filmed_or_be_another_agent(command, here, one_process):
    assert command(gan, *TINY, "--run-dir", RUN, "--copy", "generator").code == 0
    filmed = command(evaluate, RUN, "--video", "film.mp4")
    assert filmed.code == 2
    assert "a GAN plays no episodes to record" in filmed.err
    elsewhere = command(replay, RUN, "--env", "Pong")
    assert elsewhere.code == 2
    assert "--env Pong: the run's members are GANs" in elsewhere.err
