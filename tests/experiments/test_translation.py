"""Translation behind the engine's interface, on generated sentences and on text files."""

import dataclasses
import json
import math
from pathlib import Path

import numpy as np
import pytest
import sacrebleu
import safetensors.torch
import torch

from agents import transformer
from envs import number_words, sentence_pairs
from experiments import presets
from experiments.members import translation
from pbt import checkpoint, slices, space, task

TINY = translation.TranslationConfig(
    training_sentences=150,
    model=transformer.TransformerConfig(1, 16, 24, 2),
    batch_tokens=60,
    evaluation_interval_steps=4,
    evaluation_batches=3,
    evaluation_sentences=2,
)
RATES = {
    "learning_rate": 3e-3,
    "attention_dropout": 0.1,
    "relu_dropout": 0.2,
    "residual_dropout": 0.05,
}


def make(member=0, seed=0, config=TINY, **rates):
    made = translation.TranslationTask(config, member, seed)
    made.set_hyperparameters(RATES | rates)
    return made


def run(made, steps):
    """All that training yields, comparable."""
    return [(p.agent_steps, p.episodes, dict(p.metrics)) for p in made.train(steps, steps)]


def tensors(made):
    return {name: t.clone() for name, t in made._translator.state_dict().items()}


def write_text(directory, validation=20):
    """A corpus of files with generated sentences."""
    directory.mkdir(exist_ok=True)
    generated = number_words.Corpus(1)
    counts = {"train": 200, "validation": validation, "test": 12}
    for split, count in counts.items():
        drawn = generated.draw(split, count, np.random.default_rng(0))
        name = "valid" if split == "validation" else split
        for side, language in enumerate(("en", "de")):
            lines = "".join(f"{pair[side]}\n" for pair in drawn)
            (directory / f"{name}.{language}").write_text(lines)
    return dataclasses.replace(TINY, data=str(directory), subwords=400)


# The contract.


def test_ids_mean_the_same_to_corpus_and_network():
    ours = (sentence_pairs.PAD, sentence_pairs.BEGIN, sentence_pairs.END)
    assert ours == (transformer.PAD, transformer.BEGIN, transformer.END)
    assert max(ours) + 1 == sentence_pairs.SPECIAL


def test_a_step_is_one_step_of_adam_and_their_number_is_exact():
    made = make()
    for steps, limit in ((5, 5), (3, 100), (1, 1)):
        assert [p.agent_steps for p in made.train(steps, limit)] == [1] * steps
    steps = {float(t) for name, t in tensors(made).items() if name.startswith("step.")}
    assert steps == {9.0}
    training = made.train(50, 50)
    next(training)
    training.close()  # the engine may stop between any two updates
    assert len(run(made, 2)) == 2


def test_the_engine_can_name_build_and_train_it(tmp_path):
    factory = slices.named_factory(translation.TASK)
    made = slices.build(factory, json.loads(json.dumps(TINY.to_json())), 1, 5)
    priors = {name: space.LogUniform(1e-4, 0.5) for name in translation.HYPERPARAMETERS}
    slices.set_hyperparameters(made, RATES, space.Space(priors, adapt=tuple(priors)))
    done = slices.train(made, 6, 6, lambda: None, lambda: 0)
    assert (done.agent_steps, len(done.episodes)) == (6, 3)
    slices.save(made, tmp_path)
    slices.load(made, tmp_path)
    made.close()


def test_hyperparameters_act_at_once_and_are_read_from_where_they_act():
    made = make()
    assert dict(made.hyperparameters()) == RATES
    made.set_hyperparameters({"relu_dropout": 0.0})
    assert dict(made.hyperparameters()) == RATES | {"relu_dropout": 0.0}
    network = made._translator.network
    assert {layer.feed.dropout.rate for layer in (*network.encoder, *network.decoder)} == {0.0}
    assert network.decoder[0].source.dropout.rate == 0.1
    before = tensors(made)
    made.set_hyperparameters({"learning_rate": 0.0})
    run(made, 1)
    after = tensors(made)
    assert all(torch.equal(before[n], after[n]) for n in before if n.startswith("network."))
    assert set(made.hyperparameters()) == set(translation.HYPERPARAMETERS)


def test_hyperparameters_that_cannot_be_are_refused():
    with pytest.raises(ValueError, match=r"unknown hyperparameters \['warmup'\]: this learner has"):
        make(warmup=1.0)
    with pytest.raises(ValueError, match=r"relu_dropout 1.0 must be at least 0 and below 1"):
        make(relu_dropout=1.0)


def test_the_same_seed_learns_the_same_and_another_does_not():
    assert run(make(seed=3), 9) == run(make(seed=3), 9)
    assert run(make(seed=3), 9) != run(make(seed=4), 9)


# Evaluation.


def test_every_interval_gives_an_episode_per_batch_with_its_bleu():
    made = make()
    assert [len(p.episodes) for p in made.train(6, 6)] == [0, 0, 0, 3, 0, 0]
    # Intervals are those of the weights, wherever `train` begins.
    yielded = list(made.train(7, 7))
    assert [len(p.episodes) for p in yielded] == [0, 3, 0, 0, 0, 3, 0]
    for progress, taken in ((yielded[1], 2), (yielded[5], 6)):
        assert 0 <= progress.metrics["exact_match"] <= 1
        for episode in progress.episodes:
            assert (episode.agent_steps, episode.length, episode.counted) == (taken, 4, True)
            assert 0 <= episode.episode_return <= 100


def validation_sentences(made, steps, monkeypatch):
    """Sentences that are translated while training."""
    seen = []
    draw = number_words.Corpus.draw

    def note(self, split, count, rng):
        drawn = draw(self, split, count, rng)
        assert split == "validation"
        seen.append(drawn)
        return drawn

    with monkeypatch.context() as patch:
        patch.setattr(number_words.Corpus, "draw", note)
        run(made, steps)
    return seen


def test_each_evaluation_has_fresh_sentences_with_numbers_never_trained_on(monkeypatch):
    seen = validation_sentences(make(), 40, monkeypatch)
    assert [len(drawn) for drawn in seen] == [6] * 10
    sources = [sentence.source for drawn in seen for sentence in drawn]
    assert len(set(sources)) == len(sources)
    others = validation_sentences(make(seed=1), 8, monkeypatch)
    assert not {sentence.source for drawn in others for sentence in drawn} & set(sources)
    corpus = translation.corpus(TINY)
    trained = set()
    for i in range(150):
        target = corpus.training.target.sentence(i)[:-1].tolist()
        trained |= set(corpus.decode(target).split())
    for drawn in seen:
        for sentence in drawn:
            words = {w for w in sentence.target.split() if "hundert" in w or "tausend" in w}
            assert words
            assert not words & trained


def test_bleu_of_a_batch_is_sacrebleus(monkeypatch):
    made = make()
    (drawn,) = validation_sentences(make(), 4, monkeypatch)
    (*_, last) = made.train(4, 4)
    expected = []
    for i in range(0, 6, 2):
        texts = translation._translate(made._translator, made._corpus, TINY, drawn[i : i + 2], 1)
        references = [sentence.target for sentence in drawn[i : i + 2]]
        expected.append(sacrebleu.corpus_bleu(texts, [references]).score)
    assert [episode.episode_return for episode in last.episodes] == pytest.approx(expected)


def test_evaluating_changes_nothing_in_training():
    often = dataclasses.replace(TINY, evaluation_interval_steps=1)
    one, other = make(config=often), make()
    run(one, 7)
    run(other, 7)
    expected = tensors(other)
    assert all(torch.equal(t, expected[name]) for name, t in tensors(one).items())


def test_too_few_validation_sentences_are_refused(tmp_path):
    config = write_text(tmp_path / "data", validation=5)
    message = "3 batches of 2 sentences, but there are 5 validation sentences: take fewer"
    with pytest.raises(ValueError, match=message):
        make(config=config)


# Checkpoints.


def test_a_checkpoint_goes_on_exactly(tmp_path):
    first = make(seed=1)
    run(first, 6)
    first.save(tmp_path)
    resumed = make(seed=2)
    resumed.load(tmp_path)
    resumed.set_hyperparameters(RATES)
    assert run(resumed, 45) == run(first, 45)  # into the next epoch
    assert first._batches.epoch > 0
    expected = tensors(first)
    assert all(torch.equal(t, expected[name]) for name, t in tensors(resumed).items())


def test_a_donors_checkpoint_brings_weights_and_statistics_but_not_its_dice(tmp_path):
    donor, child, twin = make(1, seed=1), make(2, seed=2), make(2, seed=2)
    run(donor, 8)
    donor.save(tmp_path)
    for one in (child, twin):
        run(one, 3)
    dice = child._translator.generator.get_state()
    position = (child._batches.seed, child._batches.epoch, child._batches.batch)
    drawn = child._rng.bit_generator.state
    child.load(tmp_path)
    got, expected = tensors(child), tensors(donor)
    assert all(torch.equal(got[n], expected[n]) for n in expected if n != "generator")
    assert torch.equal(child._translator.generator.get_state(), dice)
    assert (child._batches.seed, child._batches.epoch, child._batches.batch) == position
    assert child._rng.bit_generator.state == drawn
    assert dict(child.hyperparameters()) == RATES  # set by the engine, not by a checkpoint
    np.testing.assert_array_equal(child._batches.take()[0], twin._batches.take()[0])


def test_an_evaluation_counts_if_the_member_trained_the_whole_interval(tmp_path):
    donor, child = make(1), make(2)
    run(donor, 6)
    donor.save(tmp_path)
    child.load(tmp_path)
    counted = [e.counted for p in child.train(8, 8) for e in p.episodes]
    assert counted == [False] * 3 + [True] * 3
    resumed = make(1)
    resumed.load(tmp_path)  # its own
    assert all(e.counted for p in resumed.train(2, 2) for e in p.episodes)
    run(donor, 2)
    donor.save(tmp_path)  # at the end of an interval
    child.load(tmp_path)
    assert [e.counted for p in child.train(4, 4) for e in p.episodes] == [True] * 3


def test_a_checkpoint_in_the_middle_of_anothers_interval_still_knows(tmp_path):
    donor, child = make(1), make(2)
    run(donor, 6)
    donor.save(tmp_path)
    child.load(tmp_path)
    run(child, 1)
    (own := tmp_path / "own").mkdir()
    child.save(own)
    again = make(2, seed=9)
    again.load(own)
    assert [e.counted for p in again.train(5, 5) for e in p.episodes] == [False] * 3 + [True] * 3


def damaged(directory, **changes):
    path = directory / "translator.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def test_what_is_no_checkpoint_of_this_learner_is_refused_and_changes_nothing(tmp_path):
    made = make()
    run(made, 2)
    before, position = tensors(made), made._batches.batch
    wide = dataclasses.replace(TINY, model=transformer.TransformerConfig(1, 32, 24, 2))
    make(config=wide).save(tmp_path)
    with pytest.raises(ValueError, match=r"embedding.weight is \(\d+, 32\), not \(\d+, 16\)"):
        made.load(tmp_path)
    with pytest.raises(checkpoint.CheckpointError, match="unreadable checkpoint"):
        made.load(tmp_path / "nowhere")
    for name, value, error, message in (
        ("format_version", 99, ValueError, "has format 99, this code reads 1"),
        ("vocabulary", "x", ValueError, "trained with another vocabulary"),
        ("position", [1], checkpoint.CheckpointError, "unreadable checkpoint"),
        ("steps", None, checkpoint.CheckpointError, "unreadable checkpoint"),
        ("validation_generator", {}, checkpoint.CheckpointError, "unreadable checkpoint"),
        ("validation_generator", [], checkpoint.CheckpointError, "unreadable checkpoint"),
    ):
        make(seed=5).save(tmp_path)
        damaged(tmp_path, **{name: value})
        with pytest.raises(error, match=message):
            made.load(tmp_path)
    (tmp_path / "translator.json").write_text("[]")
    with pytest.raises(checkpoint.CheckpointError, match=r"translator.json is \[\]"):
        made.load(tmp_path)
    make(seed=5).save(tmp_path)
    state = safetensors.torch.load_file(tmp_path / "agent.safetensors")
    state["network.embedding.weight"][3, 3] = math.nan
    safetensors.torch.save_file(state, tmp_path / "agent.safetensors")
    with pytest.raises(checkpoint.CheckpointError, match=r"embedding.weight is not finite"):
        made.load(tmp_path)
    (tmp_path / "agent.safetensors").write_bytes(b"cposix\nsystem\n")
    with pytest.raises(checkpoint.CheckpointError, match="unreadable checkpoint"):
        made.load(tmp_path)
    after = tensors(made)
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert made._batches.batch == position


# Divergence.


@pytest.mark.parametrize("rate", [0.1, 1.0, 1e3])
def test_a_large_learning_rate_trains_on(rate, tmp_path):
    made = make(learning_rate=rate)
    returns = [e.episode_return for p in made.train(12, 12) for e in p.episodes]
    assert len(returns) == 9
    assert np.isfinite(returns).all()
    made.save(tmp_path)


@pytest.mark.parametrize("rate", [1e30, 1e300, math.inf])
def test_a_huge_learning_rate_diverges(rate):
    made = make(learning_rate=rate)
    with pytest.raises(task.Diverged, match="non-finite update: loss"):
        run(made, 12)


def test_what_is_not_finite_is_never_saved(tmp_path):
    made = make()
    with torch.no_grad():
        made._translator.network.embedding.weight[5, 5] = math.inf
    with pytest.raises(task.Diverged, match=r"non-finite values in network.embedding.weight"):
        made.save(tmp_path)
    assert not list(tmp_path.iterdir())


# Scores.


def test_a_score_is_that_of_the_saved_weights(tmp_path):
    made = make()
    run(made, 5)
    made.save(tmp_path)
    greedy = translation.score(tmp_path, TINY, "test", seed=1, beam=1, sentences=40)
    drawn = translation.corpus(TINY).draw("test", 40, np.random.default_rng(1))
    texts = translation._translate(made._translator, made._corpus, TINY, drawn, 1)
    references = [sentence.target for sentence in drawn]
    assert greedy.bleu == pytest.approx(sacrebleu.corpus_bleu(texts, [references]).score)
    assert (greedy.split, greedy.beam, greedy.sentences) == ("test", 1, 40)
    assert greedy.signature.startswith("nrefs:1|case:mixed|eff:no|tok:13a|smooth:exp|version:")
    assert translation.score(tmp_path, TINY, "test", 1, 1, 40) == greedy
    assert translation.score(tmp_path, TINY, "test", 2, 1, 40) != greedy
    assert translation.score(tmp_path, TINY, "validation", 1, 1, 40) != greedy
    beam = translation.score(tmp_path, TINY, "test", 1, sentences=40)
    assert beam.beam == 4
    with pytest.raises(ValueError, match="split 'dev': choose from"):
        translation.score(tmp_path, TINY, "dev", 1)
    with pytest.raises(ValueError, match="sentences 0 must be at least 1"):
        translation.score(tmp_path, TINY, "test", 1, sentences=0)


def test_statistics_of_sentences_give_the_bleu_of_any_of_them():
    drawn = translation.corpus(TINY).draw("validation", 60, np.random.default_rng(1))
    references = [sentence.target for sentence in drawn]
    rng = np.random.default_rng(0)
    texts = [
        " ".join(word for word in reference.split() if rng.random() > 0.1)
        for reference in references
    ]
    score = translation.compare(texts, references, "validation", 1)
    assert score.bleu == pytest.approx(sacrebleu.corpus_bleu(texts, [references]).score)
    assert 0 < score.bleu < 100
    assert translation.bleu_of(score.statistics) == pytest.approx(score.bleu)
    assert len(score.exact) == len(score.statistics) == score.sentences == 60
    assert score.exact == tuple(
        text == wanted for text, wanted in zip(texts, references, strict=True)
    )
    assert 0 < score.exact_match == np.mean(score.exact) < 1
    which = rng.integers(0, 60, 60)  # a bootstrap's draw
    expected = sacrebleu.corpus_bleu([texts[i] for i in which], [[references[i] for i in which]])
    drawn_statistics = [score.statistics[i] for i in which]
    assert translation.bleu_of(drawn_statistics) == pytest.approx(expected.score)


def test_files_are_learned_from_and_scored_whole(tmp_path):
    config = write_text(tmp_path / "data")
    made = make(config=config)
    assert [len(p.episodes) for p in made.train(4, 4)] == [0, 0, 0, 3]
    (saved := tmp_path / "saved").mkdir()
    made.save(saved)
    score = translation.score(saved, config, "test", seed=1, beam=2)
    assert score.sentences == 12
    assert translation.score(saved, config, "test", seed=2, beam=2) == score
    assert translation.score(saved, config, "test", 1, 2, sentences=5).sentences == 5
    assert (tmp_path / "data/.subwords").is_dir()
    elsewhere = dataclasses.replace(config, cache=str(tmp_path / "cache"))
    make(config=elsewhere).load(saved)  # the same subwords, made again
    fewer = dataclasses.replace(config, subwords=300)
    with pytest.raises(ValueError, match="trained with another vocabulary"):
        make(config=fewer).load(saved)
    with pytest.raises(ValueError, match="trained with another vocabulary"):
        make().load(saved)


def test_pairs_that_are_left_out_are_counted_aloud(tmp_path, caplog):
    config = write_text(tmp_path / "data")
    for language, line in (("en", "one\n"), ("de", "\n")):
        with (tmp_path / f"data/train.{language}").open("a") as file:
            file.write(line)
    short = dataclasses.replace(config, max_length=20)
    made = make(config=short)
    assert "left out, as one side is empty: {'train': 1, 'validation': 0" in caplog.text
    assert made._batches.dropped > 0
    assert f"{made._batches.dropped} training pairs are left out, as they have" in caplog.text


# Settings.


def paper():
    preset = dataclasses.replace(presets.TRANSLATION["paper"]["translator"], data=Path("wmt"))
    return translation.TranslationConfig.from_json(preset.task()[1])


def test_config_round_trips_through_json():
    german = dataclasses.replace(paper(), languages=("de", "en"))
    for config in (TINY, translation.TranslationConfig(), german):
        stored = json.loads(json.dumps(config.to_json()))
        assert translation.TranslationConfig.from_json(stored) == config


def test_the_papers_settings_are_those_of_tensor2tensor():
    config = paper()
    assert (config.data, config.languages, config.subwords) == ("wmt", ("en", "de"), 32_768)
    assert dataclasses.astuple(config.model) == (6, 512, 2_048, 8)
    assert (config.batch_tokens, config.max_length, config.label_smoothing) == (2_048, 256, 0.1)
    assert config.evaluation_interval_steps == 2_000
    assert config.extra_length == 50
    assert config.evaluation_batches * config.evaluation_sentences <= 3_003  # newstest2012


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"batch_tokens": 0}, "batch_tokens 0: use a whole number from 1 on"),
        ({"evaluation_batches": 0}, "evaluation_batches 0: use a whole number from 1 on"),
        ({"languages": ("en", "en")}, r"languages \('en', 'en'\): name two"),
        ({"label_smoothing": 1.0}, "label_smoothing 1.0 must be at least 0 and below 1"),
        (
            {"evaluation_interval_steps": 0},
            "evaluation_interval_steps 0: use a whole number from 1 on",
        ),
    ],
)
def test_settings_that_cannot_be_are_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        dataclasses.replace(TINY, **changes)
    with pytest.raises(ValueError, match="no directory"):
        make(config=dataclasses.replace(TINY, data="/nowhere/at/all"))


# Learning.


def test_it_learns():
    config = dataclasses.replace(
        translation.TranslationConfig(),
        training_sentences=5_000,
        evaluation_sentences=8,
        evaluation_interval_steps=60,
    )
    made = make(config=config, **dict.fromkeys(transformer.DROPOUTS, 0.0))
    scores = [
        np.mean([episode.episode_return for episode in p.episodes])
        for p in made.train(240, 240)
        if p.episodes
    ]
    assert scores[0] < 8
    assert scores[-1] > 20


@pytest.mark.slow
def test_a_decayed_learning_rate_ends_well_above_a_constant_one(tmp_path):
    config = translation.TranslationConfig()
    exact = {}
    for decays in (False, True):
        made = make(config=config, learning_rate=2e-3, **dict.fromkeys(transformer.DROPOUTS, 0.0))
        for step, _ in enumerate(made.train(1_200, 1_200), 1):
            if decays:
                made.set_hyperparameters({"learning_rate": 2e-3 * (1 - step / 1_200)})
        (directory := tmp_path / str(decays)).mkdir()
        made.save(directory)
        exact[decays] = translation.score(directory, config, "test", 1, 1).exact_match
    assert exact[False] > 0.7
    assert exact[True] > max(0.9, exact[False] + 0.03)
