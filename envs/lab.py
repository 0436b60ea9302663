"""Levels of DeepMind Lab, for users who have built it.

DeepMind Lab (Beattie et al. 2016, arXiv 1612.03801; https://github.com/google-deepmind/lab) has the
levels of the papers. No package index has it; it is built from source with bazel. Wherever
`deepmind_lab` can be imported, `Lab/NAME` is its level NAME, a script below
`game_scripts/levels`: `Lab/nav_maze_static_01`, `Lab/contributed/dmlab30/rooms_watermaze`.

The calls are those of its documentation (docs/users/python_api.md, observations.md, actions.md).
They were tested against a stand-in that has these calls and no others, never against the real Lab.

- Observations: `RGB_INTERLEAVED` at 84 x 84, moved to channels first. There are 60 frames a second,
  and 4 per agent step, all with the same action. The reward is their sum, raw.
- Seeding: each episode gets its number since the last seeded reset, and a seed of 31 bits from its
  slot's generator.
- An episode's end is a termination. Lab does not say why an episode ended. Most levels end by the
  clock, some by a goal or a death. Published agents bootstrap at none of these ends (replicas of
  UNREAL, IMPALA's code), and scores are comparable with theirs only this way.
- Lab has no observation at the end, so the final one is the frame before the last action.
"""

import dataclasses
import importlib.util
import re
from collections.abc import Mapping
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from envs import first_person, ids

PREFIX = "Lab/"
"""Beginning of every id."""
OBSERVATION = "RGB_INTERLEAVED"
"""Name of the observation in Lab, `[H, W, 3]` uint8."""
FRAMES_PER_SECOND = 60
"""Lab's default. It matters, because a look action turns by a number of pixels per frame."""

ACTIONS: Mapping[str, tuple[int, ...]] = {
    "look left": (-20, 0, 0, 0, 0, 0, 0),
    "look right": (20, 0, 0, 0, 0, 0, 0),
    "strafe left": (0, 0, -1, 0, 0, 0, 0),
    "strafe right": (0, 0, 1, 0, 0, 0, 0),
    "forward": (0, 0, 0, 1, 0, 0, 0),
    "backward": (0, 0, 0, -1, 0, 0, 0),
}
"""Reduced set of actions, in the order of Lab's seven integers: look left/right, look down/up,
strafe left/right, move back/forward, fire, jump, crouch. The UNREAL paper does not list its reduced
set; these six are those of a replica, https://github.com/miyosuda/unreal."""

PUBLISHED = (
    *("nav_maze_static_01", "nav_maze_static_02", "nav_maze_static_03"),
    *("nav_maze_random_goal_01", "nav_maze_random_goal_02", "nav_maze_random_goal_03"),
    *("seekavoid_arena_01", "stairway_to_melon"),
    *("lt_chasm", "lt_hallway_slope", "lt_horseshoe_color", "lt_space_bounce_hard"),
)
"""Levels of Lab's first release, to suggest; any other may be given."""

Renderer = Literal["software", "hardware"]


@dataclasses.dataclass(frozen=True)
class Level:
    """A level by Lab's own name."""

    name: str
    """Path of the level script, without .lua."""
    reward_scale: float = 1.0
    """Factor of raw rewards to learn from. Apples are 1 and goals 10; learners clip to [-1, 1]."""

    @property
    def env_id(self) -> str:
        """The id."""
        return PREFIX + self.name

    @property
    def num_actions(self) -> int:
        """Number of discrete actions."""
        return len(ACTIONS)


def find_level(env_id: str) -> Level | None:
    """Return the level of `Lab/nav_maze_static_01`; None if the id does not begin with `Lab/`.

    Raises:
        ValueError: The rest of the id cannot be the name of a level script.
    """
    if not env_id.startswith(PREFIX):
        return None
    name = env_id.removeprefix(PREFIX)
    if not re.fullmatch(r"\w+(/\w+)*", name, re.ASCII):
        hint = ids.did_you_mean(name, {one: PREFIX + one for one in PUBLISHED})
        raise ValueError(
            f"{env_id!r} is no level of DeepMind Lab{hint} Give the path of a level script below "
            f"game_scripts/levels without .lua, as {PREFIX}{PUBLISHED[0]}"
        )
    return Level(name)


class LabVectorEnv(first_person.FirstPersonVectorEnv):
    """`num_envs` copies of one level. See `envs.make.make_vec` for the contract of `step`.

    Args:
        level: Level to play.
        num_envs: Number of copies, all in this process, stepped in turn.
        renderer: "software", or "hardware" where Lab was built for it.
    """

    @staticmethod
    def check(level: Level, renderer: str = "software") -> None:
        """Refuse settings, and an installation, that a level cannot be built with.

        Raises:
            ValueError: There is no such renderer, or DeepMind Lab is not installed.
        """
        if renderer not in get_args(Renderer):
            raise ValueError(
                f"renderer is {renderer!r}: give one of {', '.join(get_args(Renderer))}"
            )
        if importlib.util.find_spec("deepmind_lab") is None:
            raise ValueError(
                "DeepMind Lab is not installed, and pip cannot get it: build deepmind_lab from "
                "source with bazel "
                "(https://github.com/google-deepmind/lab/tree/master/python/pip_package), "
                "or take a level of ViZDoom, such as Doom/MyWayHome"
            )

    def __init__(self, level: Level, num_envs: int, renderer: Renderer = "software") -> None:
        self.check(level, renderer)
        super().__init__(num_envs, level.num_actions)
        import deepmind_lab

        self._actions = [np.array(action, dtype=np.intc) for action in ACTIONS.values()]
        self._episodes = [0] * num_envs  # begun since the last seeded reset
        self._labs: list[Any] = []
        _, height, width = first_person.OBSERVATION_SHAPE
        config = {"width": str(width), "height": str(height), "fps": str(FRAMES_PER_SECOND)}
        try:
            for _ in range(num_envs):
                lab = deepmind_lab.Lab(level.name, [OBSERVATION], config=config, renderer=renderer)
                self._labs.append(lab)
        except BaseException:
            self.close()
            raise

    def _restart(self) -> None:
        self._episodes = [0] * self.num_envs

    def _begin(self, slot: int) -> NDArray[np.uint8]:
        seed = int(self._generators[slot].integers(2**31))
        self._labs[slot].reset(episode=self._episodes[slot], seed=seed)
        self._episodes[slot] += 1
        return self._frame(slot)

    def _act(self, slot: int, action: int) -> first_person.Outcome:
        lab = self._labs[slot]
        reward = lab.step(self._actions[action], num_steps=first_person.FRAMES_PER_STEP)
        if not lab.is_running():
            return first_person.Outcome(reward, True, False, None)
        return first_person.Outcome(reward, False, False, self._frame(slot))

    def _frame(self, slot: int) -> NDArray[np.uint8]:
        pixels: NDArray[np.uint8] = self._labs[slot].observations()[OBSERVATION]
        return pixels.transpose(2, 0, 1)

    def close_extras(self, **kwargs: Any) -> None:
        """Release the engines."""
        for lab in self._labs:
            lab.close()
