"""FeUdal Networks against a slow version: one slot, one step at a time, in the paper's notation."""

import dataclasses

import numpy as np
import pytest
import torch

from agents import actor_critic, feudal, feudal_network, goals, rollout

ACTIONS, OBS = 3, 5
SETTINGS = {"horizon": 3, "embedding_size": 4, "random_goals": 0.0}


def make(seed=0, obs_shape=(OBS,), width=8, settings=None, lr=1e-2, **changes):
    return feudal.Feudal(
        obs_shape,
        ACTIONS,
        False,
        actor_critic.AgentConfig(width=width, **(settings or {})),
        feudal.FeudalConfig(**{**SETTINGS, **changes}),
        lr,
        seed,
    )


class Player:
    """Plays noise in slots whose episodes begin at different steps."""

    def __init__(self, agent, batch=4, seed=0, obs_shape=(OBS,), first=0.15):
        self.agent, self.batch, self.obs_shape, self.first = agent, batch, obs_shape, first
        self.rng = np.random.default_rng(seed)
        self.state = agent.initial_state(batch)
        self.inputs = self.draw(True)

    def draw(self, everywhere=False):
        rng, batch = self.rng, self.batch
        if len(self.obs_shape) == 3:
            obs = torch.tensor(rng.integers(0, 256, (batch, *self.obs_shape), dtype=np.uint8))
        else:
            obs = torch.tensor(rng.normal(size=(batch, *self.obs_shape)), dtype=torch.float32)
        is_first = torch.tensor(rng.random(batch) < self.first) | everywhere
        goes_on = (~is_first).float()
        last_action = torch.eye(ACTIONS)[rng.integers(0, ACTIONS, batch)]
        last_reward = torch.tensor(rng.normal(size=batch), dtype=torch.float32)
        return rollout.Inputs(obs, last_action * goes_on[:, None], last_reward * goes_on, is_first)

    def unroll(self, length, keep_graph=True):
        initial, inputs, steps, firsts = self.state, [], [], []
        for _ in range(length):
            steps.append(self.agent.act(self.inputs, self.state, keep_graph))
            inputs.append(self.inputs)
            self.state = steps[-1].state
            self.inputs = self.draw()
            firsts.append(self.inputs.is_first)
        ended, shape = torch.stack(firsts), (length, self.batch)
        truncated = ended & torch.tensor(self.rng.random(shape) < 0.5)
        reward = torch.tensor(self.rng.normal(size=shape), dtype=torch.float32)
        final = torch.tensor(self.rng.normal(size=(*shape, 3)), dtype=torch.float32)
        return rollout.Rollout(
            tuple(inputs),
            initial,
            tuple(steps),
            reward,
            0.99 * (~(ended & ~truncated)).float(),
            truncated,
            final * truncated[..., None],
            self.agent.value(self.inputs, self.state),
            following=self.inputs,
        )


# The slow version. Subscripts are the paper's; all lists begin where the episode does.


def cosine(a, b):
    if a.norm() < 1e-3 or b.norm() < 1e-3:
        return (a * b).sum() * 0
    return (a / a.norm()) @ (b / b.norm())


def lstm(cell, x, h, c):
    gates = cell.weight_ih @ x + cell.bias_ih + cell.weight_hh @ h + cell.bias_hh
    i, f, g, o = gates.chunk(4)
    c = torch.sigmoid(f) * c + torch.sigmoid(i) * torch.tanh(g)
    return torch.sigmoid(o) * torch.tanh(c), c


class Slow:
    """One environment. `set_goals` has the goals that were set; without it they are computed."""

    def __init__(self, network):
        self.network, self.c = network, network.horizon
        self.begin()

    def begin(self):
        zeros = torch.zeros(self.network.width)
        self.t = 0
        self.cores = [(zeros, zeros) for _ in range(self.c)]
        self.outputs, self.s, self.g, self.set = [], [], [], []
        size = self.network.worker.value.in_features  # hidden units
        self.h_w = self.c_w = torch.zeros(size)

    def step(self, z, last_action, last_reward, is_first, set_goal=None):
        """Return log pi, V^M, (V, V^I) and r^I of this step."""
        if is_first:
            self.begin()
        manager, worker, c, t = self.network.manager, self.network.worker, self.c, self.t
        s = torch.relu(manager.perception.weight @ z + manager.perception.bias)
        self.cores[t % c] = lstm(manager.core, s, *self.cores[t % c])
        self.outputs.append(self.cores[t % c][0])
        h = sum(self.outputs[max(0, t - c + 1) : t + 1])
        g = h / h.norm()
        self.s.append(s)
        self.g.append(g)
        self.set.append(g if set_goal is None else set_goal)
        total = sum(self.set[i] for i in range(max(0, t - c), t + 1)).detach()
        w = worker.phi.weight @ total
        hidden = z
        if worker.core is not None:
            x = torch.cat((z, last_action, last_reward.reshape(1)))
            hidden, self.c_w = lstm(worker.core, x, self.h_w, self.c_w)
            self.h_w = hidden
        u = (worker.embedding.weight @ hidden + worker.embedding.bias).reshape(ACTIONS, -1)
        log_pi = torch.log(torch.softmax(u @ w, 0))
        intrinsic = sum(
            cosine(s - self.s[t - i], self.set[t - i]).item() for i in range(1, c + 1) if i <= t
        )
        self.t += 1
        return log_pi, manager.value(z)[0], worker.value(hidden), intrinsic / c


def slow_pass(agent, batches):
    """Play batches again, slot by slot; returns per batch and slot the steps' answers."""
    answers = [[[] for _ in range(batches[0].reward.shape[1])] for _ in batches]
    for slot in range(batches[0].reward.shape[1]):
        slow = Slow(agent.network)
        for n, batch in enumerate(batches):
            for inputs, step in zip(batch.inputs, batch.steps, strict=True):
                z = agent.network.torso(inputs.obs[slot : slot + 1])[0]
                state = feudal_network.State.unpack(step.state, slow.c)
                one = (field[slot] for field in inputs[1:4])
                found = slow.step(z, *one, set_goal=state.goals[0][slot])
                answers[n][slot].append((*found, slow.g[-1], slow.s[-1], slow.t - 1))
    return answers


def slow_loss(agent, batch, answers, after, entropy_cost, alpha):
    """The loss, averaged over T and B; `after` has latent state, age and r^I of step T."""
    c, length = agent.feudal.horizon, len(batch.steps)
    total = 0.0
    for slot, steps in enumerate(answers):
        log_pi, v_manager, v_worker, r_int, g, s, age = zip(*steps, strict=True)
        s, age, r_int = ([*x, y[slot]] for x, y in zip((s, age, r_int), after, strict=True))
        returns = np.zeros((length + 1, 3))
        returns[-1] = batch.bootstrap_value[slot]
        for t in reversed(range(length)):
            reward = batch.reward[t, slot].item()
            for k, (r, gamma) in enumerate(((reward, 0.99), (reward, 0.95), (r_int[t + 1], 0.95))):
                if batch.truncated[t, slot]:
                    returns[t, k] = r + gamma * batch.truncation_value[t, slot, k]
                elif batch.discount[t, slot] == 0:
                    returns[t, k] = r
                else:
                    returns[t, k] = r + gamma * returns[t + 1, k]
        for t in range(length):
            values = torch.stack((v_manager[t], *v_worker[t]))
            r_t = torch.tensor(returns[t], dtype=torch.float32)
            a = (r_t - values).detach()
            action = batch.steps[t].action[slot]
            total = total - (a[1] + alpha * a[2]) * log_pi[t][action]
            total = total + entropy_cost * (log_pi[t].exp() * log_pi[t]).sum()
            total = total + agent.value_cost * ((r_t - values) ** 2).sum()
            was_random = feudal_network.State.unpack(batch.steps[t].state, c).was_random[slot]
            if t + c <= length and age[t + c] == age[t] + c and not was_random:
                total = total - a[0] * cosine((s[t + c] - s[t]).detach(), g[t])
    return total / batch.reward.numel()


def after_last(agent, batches):
    """Latent state, age and r^I at the inputs that follow the last batch, by slot."""
    more = batches[-1]._replace(
        inputs=(batches[-1].following,),
        steps=(agent.act(batches[-1].following, batches[-1].steps[-1].state),),
    )
    last = slow_pass(agent, [*batches, more])[-1]
    return [[steps[0][k] for steps in last] for k in (5, 6, 3)]


@pytest.mark.parametrize("core", ["lstm", "feedforward"])
@pytest.mark.parametrize("random_goals", [0.0, 0.3])
def test_acting_is_the_papers_network_over_two_unrolls(core, random_goals):
    agent = make(settings={"core": core}, random_goals=random_goals)
    player = Player(agent)
    batches = [player.unroll(11), player.unroll(9)]
    assert len({tuple(i.is_first.tolist()) for b in batches for i in b.inputs}) > 4  # phases differ
    ages = set()
    for batch, slots in zip(batches, slow_pass(agent, batches), strict=True):
        for slot, steps in enumerate(slots):
            for t, (log_pi, v_manager, v_worker, _, g, s, age) in enumerate(steps):
                step = batch.steps[t]
                state = feudal_network.State.unpack(step.state, 3)
                torch.testing.assert_close(step.log_prob[slot], log_pi[step.action[slot]])
                torch.testing.assert_close(step.entropy[slot], -(log_pi.exp() * log_pi).sum())
                torch.testing.assert_close(step.value[slot], torch.stack((v_manager, *v_worker)))
                torch.testing.assert_close(state.latents[0][slot], s.detach())
                assert state.age[slot] == age + 1
                ages.add(age)
                if not state.was_random[slot]:
                    torch.testing.assert_close(state.goals[0][slot], g.detach())
                assert state.goals[0][slot].norm().item() == pytest.approx(1, abs=1e-5)
    assert max(ages) > 2 * agent.feudal.horizon


def test_intrinsic_rewards_and_pooled_goals_over_two_unrolls():
    agent = make(random_goals=0.2)
    player = Player(agent, batch=6)
    batches = [player.unroll(7), player.unroll(12)]
    answers = slow_pass(agent, batches)
    for n, batch in enumerate(batches):
        found = agent.targets(batch)
        after = after_last(agent, batches[: n + 1])[2]
        for slot, steps in enumerate(answers[n]):
            expected = [*(step[3] for step in steps[1:]), after[slot]]
            np.testing.assert_allclose(found.intrinsic[:, slot].numpy(), expected, atol=1e-5)
        starts = torch.stack([one.is_first for one in (*batch.inputs[1:], batch.following)])
        assert not found.intrinsic[starts].any()
        assert found.intrinsic[~starts].abs().max() > 0.1


def test_pooled_goals_are_the_loop_over_the_episode():
    rng = np.random.default_rng(0)
    c, length, batch = 4, 15, 5
    x = torch.tensor(rng.normal(size=(c + length, batch, 2)))
    is_first = torch.tensor(rng.random((length, batch)) < 0.2)
    before = torch.tensor(rng.integers(0, 6, batch))
    age = goals.ages(before, is_first)
    pooled = goals.pool(x, age, c + 1)
    for slot in range(batch):
        start = -int(before[slot])
        for t in range(length):
            start = t if is_first[t, slot] else start
            assert age[t, slot] == t - start
            expected = sum(x[c + i, slot] for i in range(max(t - c, start), t + 1))
            torch.testing.assert_close(pooled[t, slot], expected)


def test_transition_policy_gradient_is_that_of_the_goals_alone():
    rng = np.random.default_rng(0)
    c, length, batch, d = 3, 8, 2, 4
    latent = torch.tensor(rng.normal(size=(length + 1, batch, d)), requires_grad=True)
    raw = torch.tensor(rng.normal(size=(length, batch, d)), requires_grad=True)
    advantage = torch.tensor(rng.normal(size=(length, batch)), requires_grad=True)
    is_first = torch.zeros(length + 1, batch, dtype=torch.bool)
    is_first[0] = is_first[5, 1] = True
    age = goals.ages(torch.zeros(batch, dtype=torch.int64), is_first)

    def slow(h):
        total = 0.0
        for t, b in np.ndindex(length, batch):
            if t + c <= length and not is_first[t + 1 : t + c + 1, b].any():
                change = (latent[t + c, b] - latent[t, b]).detach().numpy()
                cos = change @ h[t, b] / np.linalg.norm(change) / np.linalg.norm(h[t, b])
                total -= advantage[t, b].item() * cos
        return total

    found, inside = goals.transition_cosine(latent, goals.unit(raw), age, c)
    loss = goals.transition_policy_gradient_loss(found, advantage).sum()
    loss.backward()
    assert loss.item() == pytest.approx(slow(raw.detach().numpy()))
    assert inside.sum() == 6 + 2 + 1
    assert latent.grad is None
    assert advantage.grad is None
    for index in np.ndindex(raw.shape):
        ends = []
        for epsilon in (1e-5, -1e-5):
            moved = raw.detach().numpy().copy()
            moved[index] += epsilon
            ends.append(slow(moved))
        assert raw.grad[index].item() == pytest.approx((ends[0] - ends[1]) / 2e-5, abs=1e-7)


@pytest.mark.parametrize("core", ["lstm", "feedforward"])
@pytest.mark.parametrize(("package", "scale"), [("batched", 1), ("paper", 10)])
def test_the_gradient_is_that_of_the_written_loss(core, package, scale):
    agent = make(settings={"core": core, "package": package}, random_goals=0.1)
    player = Player(agent)
    batches = [player.unroll(9), player.unroll(10)]
    answers = slow_pass(agent, batches)[-1]
    after = after_last(agent, batches)
    loss = scale * slow_loss(agent, batches[-1], answers, after, 0.02, 0.7)
    # Gradients end at the unroll's first step, and so do those of the slow version.
    expected = slow_gradient_of_the_last_unroll(agent, batches, after, scale)
    agent.backward(batches[-1], 0.02, 0.7)
    assert torch.isfinite(loss)
    for (name, p), gradient in zip(agent.network.named_parameters(), expected, strict=True):
        torch.testing.assert_close(p.grad, gradient, rtol=1e-3, atol=1e-6, msg=name)
        assert gradient.any(), name


def slow_gradient_of_the_last_unroll(agent, batches, after, scale):
    """Differentiate the slow loss with everything before the last unroll detached."""
    last, answers = batches[-1], []
    for slot in range(last.reward.shape[1]):
        slow = Slow(agent.network)
        for n, batch in enumerate(batches):
            if n == len(batches) - 1:
                for name, value in vars(slow).items():
                    if isinstance(value, list):
                        setattr(slow, name, [detached(one) for one in value])
                slow.h_w, slow.c_w = slow.h_w.detach(), slow.c_w.detach()
            steps = []
            for inputs, step in zip(batch.inputs, batch.steps, strict=True):
                z = agent.network.torso(inputs.obs[slot : slot + 1])[0]
                state = feudal_network.State.unpack(step.state, slow.c)
                one = (field[slot] for field in inputs[1:4])
                found = slow.step(z, *one, set_goal=state.goals[0][slot])
                steps.append((*found, slow.g[-1], slow.s[-1], slow.t - 1))
        answers.append(steps)
    loss = scale * slow_loss(agent, last, answers, after, 0.02, 0.7)
    return torch.autograd.grad(loss, list(agent.network.parameters()))


def detached(one):
    return tuple(part.detach() for part in one) if isinstance(one, tuple) else one.detach()


@pytest.mark.parametrize("core", ["lstm", "feedforward"])
@pytest.mark.parametrize("obs_shape", [(OBS,), (4, 84, 84)])
def test_two_stages_give_the_kept_graphs_gradient(core, obs_shape, monkeypatch):
    monkeypatch.setattr(feudal, "TORSO_STEPS", 9)  # 2 steps of 4 environments at a time
    gradients = []
    for graph_steps in (2_000, 20):  # 20: also 2 of 4 environments at a time
        agent = make(obs_shape=obs_shape, settings={"core": core, "graph_steps": graph_steps})
        player = Player(agent, obs_shape=obs_shape)
        keep = agent.keeps_graph(7, 4)
        assert keep == (graph_steps == 2_000)
        player.unroll(5, keep)
        batch = player.unroll(7, keep)
        assert batch.steps[0].features.requires_grad == keep
        agent.backward(batch, 0.02, 0.7)
        gradients.append([p.grad for p in agent.network.parameters()])
    for a, b in zip(*gradients, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-7)


def reached(agent, wanted):
    """Names of the parameters of the cores, and of the features, that a loss reaches."""
    player = Player(agent)
    player.unroll(4)
    batch = player.unroll(10)
    targets = agent.targets(batch)
    z = torch.stack([step.features for step in batch.steps]).detach()
    leaves = {"z of manager": z.clone().requires_grad_(), "z of worker": z.clone().requires_grad_()}
    columns = rollout.stack(batch.inputs)[1:4]
    unrolled = agent.network.unroll(
        *leaves.values(),
        rollout.Inputs(batch.reward, *columns),
        batch.initial_state,
        targets.pooled.requires_grad_(),
        targets.age[:-1],
    )
    parts = dict(agent.network.manager.named_parameters(prefix="manager"))
    parts |= dict(agent.network.worker.named_parameters(prefix="worker"))
    parts |= leaves | {"goals": targets.pooled, "latent": targets.latent.requires_grad_()}
    loss = wanted(agent, unrolled, targets)
    found = torch.autograd.grad(loss, list(parts.values()), allow_unused=True)
    gradients = dict(zip(parts, found, strict=True))
    return {name for name, one in gradients.items() if one is not None and one.any()}


def manager_loss(agent, unrolled, targets):
    cos, _ = goals.transition_cosine(targets.latent, unrolled.goal, targets.age, 3)
    return goals.transition_policy_gradient_loss(cos, targets.advantage[..., 0]).sum()


LSTM = ("weight_ih", "weight_hh", "bias_ih", "bias_hh")
WORKER_CORE = {f"worker.core.{name}" for name in LSTM}


@pytest.mark.parametrize(
    ("loss", "names"),
    [
        (
            manager_loss,
            {f"manager.core.{name}" for name in LSTM}
            | {"manager.perception.weight", "manager.perception.bias", "z of manager"},
        ),
        (
            lambda agent, unrolled, targets: unrolled.log_probs[..., 0].sum(),
            WORKER_CORE
            | {"worker.embedding.weight", "worker.embedding.bias"}
            | {"worker.phi.weight", "z of worker"},
        ),
        (
            lambda agent, unrolled, targets: unrolled.worker_value.sum(),
            WORKER_CORE | {"worker.value.weight", "worker.value.bias", "z of worker"},
        ),
        (
            lambda agent, unrolled, targets: unrolled.manager_value.sum(),
            {"manager.value.weight", "manager.value.bias", "z of manager"},
        ),
    ],
    ids=["transition policy gradient", "policy", "worker's values", "manager's value"],
)
def test_each_loss_reaches_these_parameters_and_no_others(loss, names):
    assert reached(make(), loss) == names


def test_goals_computed_again_are_those_that_were_set():
    agent = make(random_goals=0.0)
    player = Player(agent, batch=5)
    for length in (2, 7, 20):
        batch = player.unroll(length)
        targets = agent.targets(batch)
        z = torch.stack([step.features for step in batch.steps])
        columns = rollout.stack(batch.inputs)[1:4]
        inputs = rollout.Inputs(batch.reward, *columns)
        again = agent.network.unroll(
            z, z, inputs, batch.initial_state, targets.pooled, targets.age[:-1]
        )
        states = [feudal_network.State.unpack(step.state, 3) for step in batch.steps]
        torch.testing.assert_close(again.goal, torch.stack([one.goals[0] for one in states]))
        log_prob = agent.network.worker.log_prob(
            again.log_probs, torch.stack([step.action for step in batch.steps])
        )
        torch.testing.assert_close(log_prob, torch.stack([one.log_prob for one in batch.steps]))
        values = torch.cat((again.manager_value[..., None], again.worker_value), -1)
        torch.testing.assert_close(values, torch.stack([step.value for step in batch.steps]))


def test_the_bootstrap_value_advances_nothing():
    agent = make(random_goals=0.5)
    player = Player(agent)
    player.unroll(5)
    before = [part.clone() for part in player.state]
    generator = agent.generator.get_state()
    for _ in range(3):
        value = agent.value(player.inputs, player.state)
    assert all(torch.equal(a, b) for a, b in zip(before, player.state, strict=True))
    assert torch.equal(generator, agent.generator.get_state())
    torch.testing.assert_close(value, agent.act(player.inputs, player.state).value)


def test_random_goals_come_as_often_as_told():
    agent = make(random_goals=0.25)
    player = Player(agent, batch=50)
    states = [feudal_network.State.unpack(step.state, 3) for step in player.unroll(40).steps]
    share = torch.stack([state.was_random for state in states]).float().mean().item()
    assert share == pytest.approx(0.25, abs=4 * (0.25 * 0.75 / 2_000) ** 0.5)


def test_with_zero_goals_and_no_intrinsic_cost_only_the_plain_worker_is_left():
    agents = [make(goals="zero", random_goals=0.5) for _ in range(2)]
    with torch.no_grad():
        for p in agents[1].network.manager.parameters():
            p.add_(1.0)  # another Manager
    batches = [Player(agent).unroll(10) for agent in agents]
    for one, other in zip(*(batch.steps for batch in batches), strict=True):
        assert torch.equal(one.action, other.action)
        torch.testing.assert_close(one.entropy, torch.full((4,), float(np.log(ACTIONS))))
    for agent, batch in zip(agents, batches, strict=True):
        assert not agent.targets(batch).intrinsic.any()
        agent.backward(batch, 0.02, 0.0)
        assert all(p.grad is None or not p.grad.any() for p in agent.network.manager.parameters())
    # The plain worker: policy gradient, entropy and value of the environment's rewards.
    agent, batch = agents[0], batches[0]
    columns = rollout.stack(batch.inputs)[1:4]
    z = agent.network.torso(torch.cat([one.obs for one in batch.inputs])).unflatten(0, (10, 4))
    u, _ = agent.network.worker.unroll(
        z, rollout.Inputs(batch.reward, *columns), batch.initial_state[:2]
    )
    returns = agent.targets(batch).returns[..., 1]
    value = agent.network.worker.value(u)[..., 0]
    loss = agent.value_cost * ((returns - value) ** 2).mean()  # a uniform policy has no gradient
    parameters = list(agent.network.worker.core.parameters()) + list(
        agent.network.torso.parameters()
    )
    for p, expected in zip(parameters, torch.autograd.grad(loss, parameters), strict=True):
        torch.testing.assert_close(p.grad, expected, rtol=1e-4, atol=1e-7)
    for one, other in zip(
        agents[0].network.worker.parameters(), agents[1].network.worker.parameters(), strict=True
    ):
        assert torch.equal(one.grad, other.grad)


def test_fixed_goals_leave_a_worker_that_the_manager_cannot_reach():
    agents = [make(goals="fixed") for _ in range(2)]
    with torch.no_grad():
        for p in agents[1].network.manager.parameters():
            p.add_(1.0)
    steps = [Player(agent).unroll(10).steps for agent in agents]
    for one, other in zip(*steps, strict=True):
        assert torch.equal(one.action, other.action)
        assert torch.equal(one.log_prob, other.log_prob)
    assert len({round(step.entropy[0].item(), 6) for step in steps[0]}) > 5  # not uniform


def test_a_checkpoint_continues_the_same_way():
    first, second = make(0, random_goals=0.2), make(1, random_goals=0.2)
    first.update(Player(first).unroll(10), 0.01, 0.5)
    second.load_state_dict({name: t.clone() for name, t in first.state_dict().items()})
    for agent in (first, second):
        agent.update(Player(agent, seed=2).unroll(10), 0.01, 0.5)
    one, two = first.state_dict(), second.state_dict()
    assert one.keys() == two.keys()
    assert all(torch.equal(one[name], two[name]) for name in one)
    with pytest.raises(ValueError, match=r"network.worker.phi.weight is \(4, 8\), not \(6, 8\)"):
        make(embedding_size=6).load_state_dict(one)


def test_metrics_are_what_they_say():
    agent = make()
    player = Player(agent, first=0.05)
    player.unroll(6)
    batch = player.unroll(12, keep_graph=False)
    targets = agent.targets(batch)
    metrics = agent.update(batch, 0.01, 0.5)
    assert metrics["intrinsic_reward"] == pytest.approx(targets.intrinsic.mean().item())
    assert -1 <= metrics["goal_cosine"] <= 1
    assert metrics["goal_cosine"] != 0
    assert 0 < metrics["gradient_share/manager"] < 1
    assert 0 < metrics["gradient_share/intrinsic"] < 1
    for cost, share in ((0.0, 0.0), (1e9, 1.0)):
        _, extra = agent.backward(batch, 0.01, cost)
        assert extra[-1].item() == pytest.approx(share, abs=1e-6)


def test_the_shares_are_those_of_gradients_taken_one_by_one():
    agent = make()
    player = Player(agent, first=0.05)
    batch = player.unroll(12)
    targets = agent.targets(batch)
    _, extra = agent.backward(batch, 0.01, 0.5)
    action = torch.stack([step.action for step in batch.steps])
    z = torch.stack([step.features for step in batch.steps]).detach()
    columns = rollout.stack(batch.inputs)[1:4]
    log_probs = agent.network.unroll(
        z, z, rollout.Inputs(batch.reward, *columns), batch.initial_state, targets.pooled,
        targets.age[:-1],
    ).log_probs.detach()  # fmt: skip
    norms = []
    for advantage in (targets.advantage[..., 1], 0.5 * targets.advantage[..., 2]):
        logits = log_probs.clone().requires_grad_()
        chosen = torch.log_softmax(logits, -1).gather(-1, action[..., None])[..., 0]
        (advantage * chosen).sum().backward()
        norms.append(logits.grad.norm().item())
    assert extra[-1].item() == pytest.approx(norms[1] / sum(norms), rel=1e-4)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"horizon": 0}, "horizon 0 must be at least 1"),
        ({"embedding_size": 0}, "embedding_size 0"),
        ({"worker_gamma": 1.5}, r"worker_gamma 1.5 must be in \[0, 1\]"),
        ({"random_goals": -0.1}, "random_goals -0.1"),
        ({"latent": "tanh"}, "latent 'tanh': choose 'relu' or 'linear'"),
        ({"goals": "none"}, "goals 'none': choose 'learned', 'fixed' or 'zero'"),
    ],
)
def test_bad_settings_are_refused_at_construction(settings, message):
    with pytest.raises(ValueError, match=message):
        feudal.FeudalConfig(**settings)


def test_what_it_cannot_learn_is_refused():
    config, settings = actor_critic.AgentConfig(), feudal.FeudalConfig()
    with pytest.raises(ValueError, match="use agent 'a3c' or 'ppo' where actions are continuous"):
        feudal.Feudal((5,), 2, True, config, settings, 1e-3, 0)
    with pytest.raises(ValueError, match="gamma 0"):
        feudal.Feudal((5,), 2, False, dataclasses.replace(config, gamma=0), settings, 1e-3, 0)
    feudal.check_unroll(settings, 10)
    feudal.check_unroll(dataclasses.replace(settings, goals="fixed"), 5)
    with pytest.raises(ValueError, match="looks 10 steps ahead and learns nothing from shorter"):
        feudal.check_unroll(settings, 9)
    agent = make()
    batch = Player(agent).unroll(5)._replace(following=None)
    with pytest.raises(ValueError, match="lacks `following`"):
        agent.update(batch, 0.01, 0.5)


def test_losses_check_their_shapes_at_the_door():
    latent, goal = torch.zeros(6, 2, 4), torch.zeros(5, 2, 4)
    age = torch.zeros(6, 2, dtype=torch.int64)
    with pytest.raises(ValueError, match=r"latent is .*\(6, 2, 4\)"):
        goals.transition_cosine(latent, goal[:-1], age, 3)
    with pytest.raises(ValueError, match="0 steps before the unroll are given, but 3"):
        goals.intrinsic_reward(latent, goal, age, 3)
    with pytest.raises(ValueError, match="age is"):
        goals.pool(latent, age.float(), 1)
    with pytest.raises(ValueError, match="is_first is"):
        goals.ages(age[0], age)
    with pytest.raises(ValueError, match="advantage is"):
        goals.transition_policy_gradient_loss(latent[..., 0], latent[:-1, :, 0])


def test_a_vector_of_nearly_no_length_has_no_direction_and_no_gradient():
    x = torch.tensor([[0.0, 0.0], [3.0, 4.0], [1e-5, 0.0]], requires_grad=True)
    found = goals.unit(x)
    torch.testing.assert_close(found, torch.tensor([[0.0, 0.0], [0.6, 0.8], [0.0, 0.0]]))
    found.sum().backward()
    assert torch.isfinite(x.grad).all()
    assert not x.grad[0].any()
