"""Translation as a user runs it: the words of its tables and pages, its score, and bad input."""

import json
import re
from pathlib import Path

import pytest

from experiments import evaluate, translation
from experiments.analysis import history, scores, wording
from experiments.members import evaluation
from experiments.pages import run_page, summary
from html_check import check
from pbt import store

TINY = (
    *("--population", "2", "--workers", "1", "--total-steps", "40", "--report-interval", "20"),
    *("--ready-interval", "20", "--evaluation-interval", "20", "--evaluation-sentences", "2"),
    *("--model.width", "16", "--model.filter-width", "16", "--model.layers", "1"),
    *("--exploit", "truncation", "--truncation-fraction", "0.5", "--run-dir", "run"),
)
RUN = Path("run")


def test_a_run_is_told_and_scored_in_its_own_words(command, here, one_process):
    result = command(translation, *TINY)
    assert result.code == 0, result
    assert "2 members, 40 Adam steps each" in result.out
    assert "translation: number phrases, English to German, generated" in result.out
    with store.Store.open(RUN) as run_store:
        best = evaluation.best_member(run_store)
        played = json.loads(scores.evaluation_path(RUN, best).read_text())
        seen = history.History.read(run_store, "run")
        chosen = evaluation.evaluate(run_store, RUN, best, 3, seed=5, final=False)
    # 1,000 test sentences in batches of two, all together; validation sentences for the choice.
    assert len(played["returns"]) == 500
    assert "BLEU of 1,000 test sentences, beam 4" in played["protocol"]
    low, high = played["interval_95"]
    assert low <= played["mean"] <= high
    assert "BLEU of 6 validation sentences, beam 1" in chosen.protocol
    assert [row.member for row in seen.selection.candidates]
    _, words = check(run_page.page(seen, RUN, {}))
    for text in (words, summary.summary(seen, RUN)):
        assert "Adam steps" in text
        assert "batches of sentences" in text
        assert not re.search(r"\b(episodes?|agent steps?|frames)\b", text)
    again = command(evaluate, RUN, "--member", str(best.id))
    assert again.code is None, again
    assert f"{wording.score(played['mean'])} (over 500 fresh batches of sentences;" in again.out


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--data", "nowhere"), "nowhere"),
        (("--preset", "paper"), "--data"),
        (("--fixed", "entropy_cost=0.1"), "entropy_cost"),
        (("--adapt", "dropout"), "did you mean"),
        (("--batch-tokens", "0"), "batch_tokens 0"),
    ],
)
def test_bad_input_is_refused_in_one_line_and_nothing_created(command, here, arguments, words):
    result = command(translation, *arguments)
    assert result.code == 2
    assert words in result.err
    assert result.err.startswith("error: ")
    assert not list(here.iterdir())
