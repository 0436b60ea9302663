"""Players of the mini-games by rule and at random, and their scores on the stand-in.

    python tests/envs/starcraft_players.py

The rules are those of PySC2's scripted agents (pysc2/agents/scripted_agent.py): select the army,
then walk to the beacon, or to the mineral shard that is nearest to the middle of all marines.
"""

import os
import tempfile
from pathlib import Path

import numpy as np

from envs import make, starcraft_interface

# At 16 x 16 a marine hides the shard that it walks to, and the scripted player goes to and fro.
RESOLUTION = 32


def plane(layers, name, value=0):
    """Return the number of a layer's plane, in all planes of `layers`; `value` is of a category."""
    at = 0
    for layer in layers:
        if layer.name == name:
            return at + (layer.values.index(value) if layer.values else 0)
        at += layer.num_planes
    raise KeyError(name)


def seen(obs, name, value=0):
    """Return the pixels of one observation's screen where a plane is not 0, as (x, y), [n, 2]."""
    planes = obs["screen"][plane(starcraft_interface.SCREEN, name, value)]
    return np.argwhere(planes)[:, ::-1]


def by_rule(obs, mask, rng):
    """Return the scripted player's action."""
    resolution = obs["screen"].shape[-1]
    if not mask[list(starcraft_interface.FUNCTIONS).index("Move_screen")]:
        return starcraft_interface.action("select_army", resolution)
    targets = seen(obs, "player_relative", 3)
    if not len(targets):
        return starcraft_interface.action("no_op", resolution)
    goal = targets.mean(0).round()
    if is_of_shards(obs):
        middle = seen(obs, "player_relative", 1).mean(0)
        goal = targets[np.linalg.norm(targets - middle, axis=1).argmin()]
    place = (int(goal[0]), int(goal[1]))
    return starcraft_interface.action("Move_screen", resolution, screen=place)


def is_of_shards(obs):
    """Return whether there are two marines, as on CollectMineralShards."""
    armies = 8  # place of army_count in PySC2's order of the player's numbers
    return np.expm1(obs["player"][armies]).round() > 1


def at_random(obs, mask, rng):
    """Return a random action: a legal function, and any arguments."""
    resolution = obs["screen"].shape[-1]
    sizes = starcraft_interface.action_space(resolution).nvec
    action = rng.integers(sizes)
    action[0] = rng.choice(np.flatnonzero(mask[: sizes[0]]))
    return action


def scores(envs, player, episodes, seed=0):
    """Return the scores of the first episodes that a player finishes in `envs`."""
    rng = np.random.default_rng(seed)
    obs, info = envs.reset(seed=seed)
    running, finished = np.zeros(envs.num_envs), []
    while len(finished) < episodes:
        slots = range(envs.num_envs)
        rows = [{name: part[slot] for name, part in obs.items()} for slot in slots]
        actions = [player(rows[slot], info["action_mask"][slot], rng) for slot in slots]
        obs, reward, terminated, truncated, info = envs.step(np.array(actions))
        running += reward
        for slot in np.flatnonzero(terminated | truncated):
            finished.append(float(running[slot]))
            running[slot] = 0.0
    return finished[:episodes]


def reference(name, resolution=RESOLUTION, episodes=4, num_envs=2):
    """Return the scores of the scripted and of the random player on a mini-game of the stand-in."""
    envs = make.make_vec(f"StarCraft/{name}-{resolution}", num_envs)
    found = {player.__name__: scores(envs, player, episodes) for player in (by_rule, at_random)}
    envs.close()
    return found


def main():
    import starcraft_stand_in

    with tempfile.TemporaryDirectory() as directory:
        starcraft_stand_in.install(Path(directory))
        os.environ["SC2PATH"] = directory
        for name in ("MoveToBeacon", "CollectMineralShards"):
            for player, found in reference(name, episodes=8).items():
                print(
                    f"{name}, {RESOLUTION} x {RESOLUTION}, {player}: mean {np.mean(found):.1f} of "
                    f"{len(found)} episodes, {min(found):g} to {max(found):g}"
                )


if __name__ == "__main__":
    main()
