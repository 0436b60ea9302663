"""Decide what a ready member does: whether it copies another one, which, and how it explores.

This module applies the strategies of `pbt.exploit` and `pbt.explore` with the run's settings. Each
decision has a generator of its own, seeded by (run seed, member, version, purpose). So it does not
depend on earlier decisions, nor on the worker that makes it.
"""

import enum
from collections.abc import Mapping, Sequence

import numpy as np

from pbt import exploit, explore, records, run
from pbt.records import Member, Version


class Purpose(enum.IntEnum):
    """Purpose of a random draw."""

    INITIAL = 0
    EXPLOIT = 1
    EXPLORE = 2
    RESEED = 3
    TASK = 4


def generator(seed: int, member: int, version: int, purpose: Purpose) -> np.random.Generator:
    """Return the generator of all draws for one purpose at one version of a member."""
    return np.random.default_rng([seed, member, version, int(purpose)])


def task_seed(seed: int, member: int, version: int) -> int:
    """Return the seed (32 bits) of a task that is built when its member is at `version`."""
    return int(np.random.SeedSequence([seed, member, version, Purpose.TASK]).generate_state(1)[0])


def is_ready(config: run.RunConfig, member: Member) -> bool:
    """Return whether a member should be compared or explore now (the paper's ready(p, t, P)).

    A finished member is never ready, because it could not train with what it copied.
    """
    return (
        (config.exploit != "none" or config.explore_at == "ready")
        and member.state == "active"
        and member.agent_steps - member.last_ready_steps >= config.ready_interval
        and records.has_valid_window(member, config)
    )


def choose_donor(config: run.RunConfig, me: Member, members: Sequence[Member]) -> exploit.Decision:
    """Decide which of the other members `me` copies, if any."""
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
    """Return the members that may replace a dead one, in the random order in which to try them."""
    donors = [other for other in members if other.id != me.id and records.is_donor(other)]
    rng = generator(config.seed, me.id, me.version, Purpose.RESEED)
    return [donors[index] for index in rng.permutation(len(donors))]


def reseeds_in_vain(versions: Sequence[Version]) -> int:
    """Return how often in a row a member was replaced and died before it finished a slice."""
    kinds = [version.kind for version in versions]
    trained = max((index for index, kind in enumerate(kinds) if kind == "slice"), default=-1)
    return kinds[trained + 1 :].count("reseed")


def explore_from(
    config: run.RunConfig, me: Member, hyperparameters: Mapping[str, float]
) -> explore.Exploration:
    """Explore from the given hyperparameters; return new ones for `me`."""
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
