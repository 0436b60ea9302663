"""The Transformer against torch's own, slow loops, and searches through all sentences."""

import itertools
import math
import warnings

import numpy as np
import pytest
import torch
from torch.nn import functional

from agents import decoding, optimiser, transformer, translator

VOCABULARY = 11


def network(seed=0, vocabulary=VOCABULARY, scale=1.0, **sizes):
    config = transformer.TransformerConfig(
        **{"layers": 2, "width": 16, "filter_width": 24, "heads": 2} | sizes
    )
    made = transformer.Transformer(vocabulary, config, seed, torch.Generator().manual_seed(7))
    with torch.no_grad():
        made.embedding.weight.mul_(scale)  # the larger, the more unequal the predictions
        for name, parameter in made.named_parameters():
            if "norm" in name or name.endswith("bias"):  # which would be 1 and 0
                parameter.add_(0.3 * torch.randn(parameter.shape))
    return made.eval()


def sentences(lengths, vocabulary=VOCABULARY, seed=0):
    rng = np.random.default_rng(seed)
    rows = np.zeros((len(lengths), max(lengths)), dtype=np.int64)
    for row, length in zip(rows, lengths, strict=True):
        row[: length - 1] = rng.integers(3, vocabulary, length - 1)
        row[length - 1] = transformer.END
    return torch.from_numpy(rows)


def teacher_forced(made, source, target):
    """Logits of the tokens of one sentence pair, [T, V]."""
    return made(source.unsqueeze(0), target.unsqueeze(0))


def padded(tokens, count):
    return functional.pad(tokens, (0, count))


# The network.


def as_torch(ours, theirs):
    """Copy the weights of our network into torch's, whose attention has biases."""
    with torch.no_grad():

        def attention(mine, its):
            its.in_proj_weight.copy_(torch.cat((mine.query.weight, mine.key_value.weight)))
            its.out_proj.weight.copy_(mine.output.weight)
            its.in_proj_bias.zero_()
            its.out_proj.bias.zero_()

        def feed(mine, its):
            its.linear1.load_state_dict(mine.hidden.state_dict())
            its.linear2.load_state_dict(mine.output.state_dict())

        for mine, its in zip(ours.encoder, theirs.encoder.layers, strict=True):
            attention(mine.attention, its.self_attn)
            feed(mine.feed, its)
            its.norm1.load_state_dict(mine.attention_norm.state_dict())
            its.norm2.load_state_dict(mine.feed_norm.state_dict())
        for mine, its in zip(ours.decoder, theirs.decoder.layers, strict=True):
            attention(mine.attention, its.self_attn)
            attention(mine.source, its.multihead_attn)
            feed(mine.feed, its)
            its.norm1.load_state_dict(mine.attention_norm.state_dict())
            its.norm2.load_state_dict(mine.source_norm.state_dict())
            its.norm3.load_state_dict(mine.feed_norm.state_dict())
        theirs.encoder.norm.load_state_dict(ours.encoder_norm.state_dict())
        theirs.decoder.norm.load_state_dict(ours.decoder_norm.state_dict())


def test_logits_are_those_of_torchs_transformer():
    ours = network()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that this form has no fast path
        theirs = torch.nn.Transformer(
            16, 2, 2, 2, 24, 0.0, layer_norm_eps=1e-6, batch_first=True, norm_first=True
        )
    as_torch(ours, theirs)
    source, target = sentences([7, 3, 5]), sentences([4, 6, 1], seed=1)

    def embed(tokens):
        place = torch.zeros(tokens.shape[1], 16)
        for pos, i in itertools.product(range(tokens.shape[1]), range(8)):
            place[pos, 2 * i] = math.sin(pos / 10_000 ** (2 * i / 16))
            place[pos, 2 * i + 1] = math.cos(pos / 10_000 ** (2 * i / 16))
        return ours.embedding.weight[tokens] * 4 + place

    shifted = torch.cat((torch.full((3, 1), transformer.BEGIN), target[:, :-1]), 1)
    hidden = theirs(
        embed(source),
        embed(shifted),
        tgt_mask=torch.nn.Transformer.generate_square_subsequent_mask(6),
        src_key_padding_mask=torch.where(source == 0, -torch.inf, 0.0),
        memory_key_padding_mask=torch.where(source == 0, -torch.inf, 0.0),
        tgt_is_causal=True,
    )
    expected = (hidden @ ours.embedding.weight.T)[target != transformer.PAD]
    torch.testing.assert_close(ours(source, target), expected, rtol=1e-4, atol=1e-5)


def test_padding_never_changes_an_output():
    made = network()
    source, target = sentences([7, 3, 5]), sentences([4, 6, 1], seed=1)
    together = made(source, target)
    torch.testing.assert_close(made(padded(source, 9), padded(target, 5)), together)
    alone = [
        teacher_forced(made, one[one != 0], other[other != 0])
        for one, other in zip(source, target, strict=True)
    ]
    torch.testing.assert_close(torch.cat(alone), together)


def test_a_token_sees_only_those_before_it_and_all_of_the_source():
    made = network()
    source, target = sentences([6])[0], sentences([8], seed=1)[0]
    before = teacher_forced(made, source, target)
    for at in range(7):
        changed = target.clone()
        changed[at] = 3 + (target[at] - 2) % 8
        after = teacher_forced(made, source, changed)
        torch.testing.assert_close(after[: at + 1], before[: at + 1])
        assert (after[at + 1 :] != before[at + 1 :]).any(1).all()
    for at in range(5):
        changed = source.clone()
        changed[at] = 3 + (source[at] - 2) % 8
        assert (teacher_forced(made, changed, target) != before).any(1).all()


def test_steps_give_what_the_whole_sentence_gives():
    made = network()
    source, target = sentences([7, 3, 5]), sentences([6, 6, 6], seed=1)
    expected = made(source, target).view(3, 6, -1)
    state = made.start(source)
    token = torch.full((3,), transformer.BEGIN)
    for at in range(6):
        torch.testing.assert_close(made.step(state, token), expected[:, at])
        token = target[:, at]


def test_sentences_may_be_longer_than_any_before():
    made = network()
    source, target = sentences([300]), sentences([280], seed=1)
    before = made(source[:, -5:], target[:, -5:])
    assert torch.isfinite(made(source, target)).all()
    torch.testing.assert_close(made(source[:, -5:], target[:, -5:]), before)


def test_the_papers_network_has_the_papers_size():
    made = transformer.Transformer(37_000, transformer.PAPER, 0, torch.Generator())
    count = sum(parameter.numel() for parameter in made.parameters())
    assert count == pytest.approx(65e6, rel=0.04)  # table 3 of Vaswani et al. 2017
    assert made.embedding.weight.std().item() == pytest.approx(512**-0.5, rel=0.01)
    key, value = made.encoder[0].attention.key_value.weight.chunk(2)
    for weight in (key, value, made.encoder[0].attention.query.weight):
        assert weight.var().item() == pytest.approx(2 / (512 + 512), rel=0.02)
    assert made.decoder[5].feed.hidden.weight.var().item() == pytest.approx(2 / 2_560, rel=0.02)


@pytest.mark.parametrize(
    ("sizes", "message"),
    [
        ({"layers": 0}, "layers 0 must be at least 1"),
        ({"heads": 0}, "heads 0 must be at least 1"),
        ({"width": 20, "heads": 3}, "width 20 must be even, and a multiple of the 3 heads"),
        ({"width": 15, "heads": 5}, "width 15 must be even"),
    ],
)
def test_sizes_that_cannot_be_are_refused(sizes, message):
    with pytest.raises(ValueError, match=message):
        transformer.TransformerConfig(**sizes)


# The loss.


@pytest.mark.parametrize("smoothing", [0.0, 0.1, 0.7])
def test_label_smoothing_follows_its_definition(smoothing):
    rng = np.random.default_rng(0)
    logits, target = rng.normal(size=(20, 7)) * 3, rng.integers(0, 7, 20)
    expected = []
    for row, right in zip(logits, target, strict=True):
        p = np.exp(row) / np.exp(row).sum()
        q = [1 - smoothing if k == right else smoothing / 6 for k in range(7)]
        expected.append(-sum(q[k] * np.log(p[k]) for k in range(7)))
    got = transformer.label_smoothing_loss(torch.tensor(logits), torch.tensor(target), smoothing)
    np.testing.assert_allclose(got.numpy(), expected, rtol=1e-12)
    # torch gives a share to the right token as well.
    same = functional.cross_entropy(
        torch.tensor(logits), torch.tensor(target), label_smoothing=smoothing * 7 / 6
    )
    assert got.mean().item() == pytest.approx(same.item())


# Dropout.


def test_dropped_elements_are_as_many_as_the_rate_says_and_the_mean_stays():
    layer = transformer.Dropout(torch.Generator().manual_seed(0))
    x = torch.ones(1_001, 999)
    for rate in (0.003, 0.1, 0.5, 0.97):
        layer.rate = rate
        y = layer(x)
        values = y.unique().tolist()
        assert values[0] == 0
        assert values[1] == pytest.approx(1 / (1 - rate))
        deviation = math.sqrt(rate * (1 - rate) / x.numel())
        assert (y == 0).float().mean().item() == pytest.approx(rate, abs=4 * deviation + 1e-5)
        # Neighbours are dropped independently, though four of them share a number.
        dropped = (y == 0).float()
        for shift in (1, 2, 3, 4):
            both = (dropped[:, shift:] * dropped[:, :-shift]).mean().item()
            assert both == pytest.approx(rate**2, abs=5e-3)
    layer.eval()
    assert layer(x) is x


def test_gradients_pass_where_elements_were_kept():
    layer = transformer.Dropout(torch.Generator().manual_seed(0))
    layer.rate = 0.4
    x = torch.randn(50, 3, requires_grad=True)
    y = layer(x)
    y.sum().backward()
    torch.testing.assert_close(x.grad, torch.where(y == 0, 0.0, 1 / 0.6))


@pytest.mark.parametrize("kind", transformer.DROPOUTS)
def test_each_dropout_acts_at_once_and_not_at_rate_zero(kind):
    made = network()
    source, target = sentences([7, 3, 5]), sentences([4, 6, 1], seed=1)
    plain = made(source, target)
    made.train()
    assert torch.equal(made(source, target), plain)  # all rates are 0 at first
    made.set_dropout(kind, 0.3)
    assert made.dropout_rate(kind) == 0.3
    assert all(made.dropout_rate(other) == 0 for other in transformer.DROPOUTS if other != kind)
    one, other = made(source, target), made(source, target)
    assert not torch.allclose(one, plain)
    assert not torch.allclose(one, other)
    made.eval()
    assert torch.equal(made(source, target), plain)
    made.train()
    made.set_dropout(kind, 0.0)
    assert torch.equal(made(source, target), plain)


def test_each_dropout_acts_where_its_name_says():
    made = network().train()
    shapes = []

    def note(module, inputs, output):
        if module.rate:
            shapes.append(tuple(inputs[0].shape))

    for module in made.modules():
        if isinstance(module, transformer.Dropout):
            module.register_forward_hook(note)
    met = {}
    for kind in transformer.DROPOUTS:
        made.set_dropout(kind, 0.1)
        made(sentences([7, 3, 5]), sentences([4, 6, 1], seed=1))
        made.set_dropout(kind, 0.0)
        met[kind] = shapes.copy()
        shapes.clear()
    read, written = (3, 7), (3, 6)
    assert met == {
        "attention_dropout": [(3, 2, 7, 7)] * 2 + [(3, 2, 6, 6), (3, 2, 6, 7)] * 2,
        "relu_dropout": [(*read, 24)] * 2 + [(*written, 24)] * 2,
        "residual_dropout": [(*read, 16)] * (1 + 2 * 2) + [(*written, 16)] * (1 + 2 * 3),
    }


@pytest.mark.parametrize("rate", [-0.1, 1.0, math.nan])
def test_rates_that_cannot_be_are_refused(rate):
    with pytest.raises(ValueError, match=rf"relu_dropout {rate} must be at least 0 and below 1"):
        network().set_dropout("relu_dropout", rate)
    with pytest.raises(ValueError, match="dropout 'layer': choose from attention_dropout, relu"):
        network().set_dropout("layer", 0.1)


# Decoding.


def log_probability(made, source, tokens):
    """Log-probability of each token of a translation, by teacher forcing, [T]."""
    log_probs = teacher_forced(made, source, torch.tensor(tokens)).log_softmax(1)
    return log_probs[torch.arange(len(tokens)), torch.tensor(tokens)]


def best_of_all(made, source, limit, alpha, words):
    """Search all translations up to a length for the highest score."""
    scored = []
    for length in range(limit):
        for beginning in itertools.product(words, repeat=length):
            tokens = [*beginning, transformer.END]
            score = log_probability(made, source, tokens).sum().item()
            scored.append((score / ((5 + len(tokens)) / 6) ** alpha, tokens))
    return max(scored)


def slow_beam(made, source, limit, beam, alpha):
    """One sentence, without cache: the definition in `decoding.beam_search`, step by step."""
    alive, finished = [(0.0, [])], []
    for length in range(1, limit + 1):
        ranked = []
        for score, tokens in alive:
            following = [*tokens, transformer.END]
            log_probs = teacher_forced(made, source, torch.tensor(following))[-1].log_softmax(0)
            ranked += [
                (score + log_probs[token].item(), [*tokens, token])
                for token in range(transformer.END, len(log_probs))
            ]
        kept = sorted(ranked, reverse=True)[: beam - len(finished)]
        for score, tokens in kept:
            if tokens[-1] == transformer.END:
                finished.append((score / ((5 + length) / 6) ** alpha, tokens))
        alive = [(score, tokens) for score, tokens in kept if tokens[-1] != transformer.END]
        if not alive:
            break
    return max(finished)[1] if finished else alive[0][1]


def text(row):
    return [token for token in row.tolist() if token != transformer.PAD]


@pytest.mark.parametrize(("seed", "alpha"), [(0, 0.0), (1, 0.6), (2, 0.6), (3, 2.0)])
def test_a_beam_that_holds_all_beginnings_finds_the_best_translation(seed, alpha):
    made = network(seed, vocabulary=6, scale=3.0)
    source = sentences([2, 1, 2], 6, seed)
    found = decoding.beam_search(made, source, 3, beam=200, alpha=alpha)
    for row, one in zip(found, source, strict=True):
        one = one[one != transformer.PAD]
        _, tokens = best_of_all(made, one, len(one) + 3, alpha, range(3, 6))
        assert text(row) == tokens


@pytest.mark.parametrize("beam", [2, 4])
def test_beam_search_is_the_slow_one_sentence_by_sentence(beam):
    ends = set()
    for seed in range(6):
        made = network(seed, scale=2.0, layers=1)
        source = sentences([6, 2, 4], seed=seed)
        found = decoding.beam_search(made, source, 4, beam, alpha=0.6)
        for row, one in zip(found, source, strict=True):
            one = one[one != transformer.PAD]
            expected = slow_beam(made, one, len(one) + 4, beam, 0.6)
            assert text(row) == expected
            ends.add(expected[-1] == transformer.END)
    assert ends == {True, False}  # some were finished, some were cut at the limit


def test_greedy_takes_the_most_probable_token_and_is_a_beam_of_one():
    ends = set()
    for seed in range(8):
        made = network(seed, scale=2.0, layers=1)
        source = sentences([6, 2, 4], seed=seed)
        greedy = decoding.greedy(made, source, 4)
        one_beam = decoding.beam_search(made, source, 4, beam=1)
        for row, other, one in zip(greedy, one_beam, source, strict=True):
            one = one[one != transformer.PAD]
            tokens = []
            while len(tokens) < len(one) + 4 and tokens[-1:] != [transformer.END]:
                following = torch.tensor([*tokens, transformer.END])
                logits = teacher_forced(made, one, following)[-1]
                tokens.append(2 + logits[2:].argmax().item())
            assert text(row) == text(other) == tokens
            ends.add(tokens[-1] == transformer.END)
    assert ends == {True, False}


class Chain:
    """A model that goes from each token to the next with a probability, or ends, or errs."""

    def __init__(self, vocabulary, go_on, end):
        error = (1 - go_on - end) / (vocabulary - 4)
        table = torch.full((vocabulary, vocabulary), error)
        table[:, transformer.END] = end
        for token in range(3, vocabulary - 1):
            table[token, token + 1] = go_on
        table[transformer.BEGIN, 3] = go_on
        table[-1, transformer.END] = go_on
        self.logits = table.log()

    def start(self, source):
        return transformer.State([], source)

    def step(self, state, tokens):
        return self.logits[tokens]


def test_improbable_translations_that_end_early_cannot_crowd_out_a_probable_one():
    model = Chain(vocabulary=12, go_on=0.9, end=0.05)
    source = torch.tensor([[5, 6, 2], [5, 2, 0]])
    chain = [*range(3, 12), transformer.END]
    assert text(decoding.greedy(model, source, 10)[1]) == chain
    for beam in (1, 2, 3, 4, 8):
        for row in decoding.beam_search(model, source, 10, beam):
            assert text(row) == chain


def test_the_length_penalty_is_that_of_the_paper():
    assert decoding.length_penalty(1, 0.6) == 1
    assert decoding.length_penalty(7, 0.0) == 1
    assert decoding.length_penalty(7, 0.6) == pytest.approx(2**0.6)


# The translator.


def made_translator(seed=0, rate=1e-3, **changes):
    config = transformer.TransformerConfig(2, 16, 24, 2)
    settings = {"vocabulary": VOCABULARY, "label_smoothing": 0.1} | changes
    return translator.Translator(config=config, learning_rate=rate, seed=seed, **settings)


def train(made, steps, first=0):
    for kind in transformer.DROPOUTS:
        made.network.set_dropout(kind, 0.1)
    return [
        made.update(sentences([7, 3, 5], seed=i), sentences([4, 6, 1], seed=i + 50))
        for i in range(first, first + steps)
    ]


def test_the_same_seed_learns_the_same_with_dropout_and_another_does_not():
    assert train(made_translator(3), 5) == train(made_translator(3), 5)
    assert train(made_translator(3), 5) != train(made_translator(4), 5)
    one = made_translator(3)
    torch.rand(3)  # other code may draw from torch's own generator
    assert train(one, 5) == train(made_translator(3), 5)


def test_a_loaded_state_goes_on_exactly():
    one, other = made_translator(0), made_translator(1, rate=5e-3)
    train(one, 3)
    other.load_state_dict({name: t.clone() for name, t in one.state_dict().items()})
    assert other.learning_rate() == 5e-3  # a hyperparameter is set, not loaded
    other.set_learning_rate(one.learning_rate())
    assert train(one, 4, first=3) == train(other, 4, first=3)
    expected = one.state_dict()
    assert all(torch.equal(t, expected[name]) for name, t in other.state_dict().items())


def test_a_state_of_other_sizes_is_refused_and_changes_nothing():
    made = made_translator()
    before = {name: t.clone() for name, t in made.state_dict().items()}
    other = made_translator(vocabulary=12)
    message = r"network.embedding.weight is \(12, 16\), not \(11, 16\)"
    with pytest.raises(ValueError, match=message):
        made.load_state_dict(other.state_dict())
    after = made.state_dict()
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_an_update_is_adam_on_the_mean_loss_of_the_real_tokens():
    made = made_translator()
    twin = made_translator()
    source, target = sentences([7, 3, 5]), sentences([4, 6, 1], seed=1)
    words = torch.tensor([t for row in target for t in text(row)])
    losses = transformer.label_smoothing_loss(twin.network(source, target), words, 0.1)
    loss = losses.sum() / 11
    gradients = torch.autograd.grad(loss, list(twin.network.parameters()))
    metrics = made.update(source, target)
    assert metrics["loss"] == pytest.approx(loss.item())
    norm = math.sqrt(sum((gradient**2).sum().item() for gradient in gradients))
    assert metrics["gradient_norm"] == pytest.approx(norm, rel=1e-5)
    assert metrics["target_tokens"] == 11
    for new, old, g in zip(
        made.network.parameters(), twin.network.parameters(), gradients, strict=True
    ):
        # The first step of Adam, Kingma and Ba 2015: both means are corrected to g and g^2.
        expected = old - 1e-3 * g / (g.abs() + 1e-9)
        is_large = g.abs() > 1e-6  # where rounding does not decide
        torch.testing.assert_close(new[is_large], expected[is_large], rtol=1e-4, atol=1e-6)


def test_decays_of_adam_are_the_papers():
    made = made_translator()
    (group,) = made.optimiser.param_groups
    assert (group["betas"], group["eps"]) == ((0.9, 0.98), 1e-9)
    assert isinstance(made.optimiser, optimiser.Adam)


def test_what_is_not_finite_is_said_and_not_applied():
    made = made_translator()
    with torch.no_grad():
        made.network.encoder[0].feed.hidden.bias[0] = math.inf
    before = {name: t.clone() for name, t in made.state_dict().items()}
    with pytest.raises(FloatingPointError, match="non-finite update: loss nan"):
        made.update(sentences([3]), sentences([3]))
    after = made.state_dict()
    assert all(torch.equal(before[name], after[name]) for name in before)
    for beam in (1, 4):  # decoding ends, whatever comes out
        assert len(made.translate([[5, 2], [6, 7, 2]], 3, beam)) == 2


def test_translations_do_not_depend_on_the_company():
    made = made_translator(2)
    rows = [text(row) for row in sentences([3, 9, 1, 6, 5, 2, 8], seed=4)]
    for beam in (1, 3):
        together = made.translate(rows, 4, beam)
        assert together == [made.translate([row], 4, beam)[0] for row in rows]
        assert all(token >= 3 for row in together for token in row)
    assert made.translate([], 4) == []


def test_many_sentences_are_translated_in_parts(monkeypatch):
    made = made_translator(2)
    rows = [text(row) for row in sentences([3, 9, 1, 6, 5, 2, 8], seed=4)]
    expected = made.translate(rows, 4, 2)
    monkeypatch.setattr(translator, "DECODED_TOKENS", 30)
    assert made.translate(rows, 4, 2) == expected
    monkeypatch.setattr(translator, "DECODED_TOKENS", 1)
    assert made.translate(rows, 4, 2) == expected


def test_settings_that_cannot_be_are_refused():
    with pytest.raises(ValueError, match=r"label_smoothing 1\.0 must be at least 0 and below 1"):
        made_translator(label_smoothing=1.0)
    with pytest.raises(ValueError, match="beam 0 must be at least 1"):
        made_translator().translate([[2]], 1, 0)
