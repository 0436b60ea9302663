"""What a member that is ready does next: whom it may copy, whether it does, and how it explores.

Here the run's settings meet the pure strategies of `pbt.exploit` and `pbt.explore`. Every draw
comes from a generator of its own, seeded by (run seed, member, version, purpose): a decision does
not depend on how many were made before it, nor by which worker.
"""

import enum
from collections.abc import Mapping, Sequence

import numpy as np

from pbt import exploit, explore, records, run
from pbt.records import Member, Version


class Purpose(enum.IntEnum):
    """What a random draw is for."""

    INITIAL = 0
    EXPLOIT = 1
    EXPLORE = 2
    RESEED = 3
    TASK = 4


def generator(seed: int, member: int, version: int, purpose: Purpose) -> np.random.Generator:
    """The generator of all draws for one purpose at one version of a member."""
    return np.random.default_rng([seed, member, version, int(purpose)])


def task_seed(seed: int, member: int, version: int) -> int:
    """The seed (32 bits) of a task that is built when its member is at `version`."""
    return int(np.random.SeedSequence([seed, member, version, Purpose.TASK]).generate_state(1)[0])


def is_ready(config: run.RunConfig, member: Member) -> bool:
    """Whether a member should now be compared, or explore (the paper's ready(p, t, P)).

    Not at the end of its training: it could no longer learn with what it copied.
    """
    return (
        (config.exploit != "none" or config.explore_at == "ready")
        and member.state == "active"
        and member.agent_steps - member.last_ready_steps >= config.ready_interval
        and records.has_valid_window(member, config)
    )


def choose_donor(config: run.RunConfig, me: Member, members: Sequence[Member]) -> exploit.Decision:
    """Whom `me` copies, if anybody, with the evidence."""
    candidates = [
        exploit.Candidate.of(other, may_donate=records.has_valid_window(other, config))
        for other in members
        if other.id != me.id and records.is_donor(other)
    ]
    rng = generator(config.seed, me.id, me.version, Purpose.EXPLOIT)
    own = exploit.Candidate.of(me)
    match config.exploit:
        case "t-test":
            return exploit.t_test(own, candidates, rng, config.significance)
        case "truncation":
            return exploit.truncation(own, candidates, rng, config.truncation_fraction)
        case "binary-tournament":
            return exploit.binary_tournament(own, candidates, rng)
        case "none":
            return exploit.Decision(None, {"strategy": "none", "reason": "this run copies nobody"})


def reseed_order(config: run.RunConfig, me: Member, members: Sequence[Member]) -> list[Member]:
    """All who may replace a dead member, in random order: the first that can be read is copied."""
    donors = [other for other in members if other.id != me.id and records.is_donor(other)]
    rng = generator(config.seed, me.id, me.version, Purpose.RESEED)
    return [donors[index] for index in rng.permutation(len(donors))]


def reseeds_in_vain(versions: Sequence[Version]) -> int:
    """How often in a row a member was replaced and died before it finished a slice."""
    kinds = [version.kind for version in versions]
    trained = max((index for index, kind in enumerate(kinds) if kind == "slice"), default=-1)
    return kinds[trained + 1 :].count("reseed")


def explore_from(
    config: run.RunConfig, me: Member, hyperparameters: Mapping[str, float]
) -> explore.Exploration:
    """New hyperparameters for `me`, starting from the given ones."""
    rng = generator(config.seed, me.id, me.version, Purpose.EXPLORE)
    match config.explore:
        case "perturb":
            return explore.perturb(hyperparameters, config.space, rng, config.perturb_factors)
        case "resample":
            return explore.resample(
                hyperparameters,
                config.space,
                rng,
                config.resample_probability,
                config.perturb_factors,
            )
        case "gaussian":
            return explore.gaussian(hyperparameters, config.space, rng, config.standard_deviation)
        case "none":
            return explore.Exploration(dict(hyperparameters), {"strategy": "none", "changes": {}})
