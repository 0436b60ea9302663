"""What an agent sees of StarCraft II and does there: planes, numbers, functions and arguments.

PySC2 shows feature layers, arrays of integers over screen and minimap (Vinyals et al. 2017,
https://arxiv.org/abs/1708.04782). Here each becomes uint8 planes, which any network for images
takes. A number becomes one plane, scaled to 0..255. A category becomes one plane per value that
matters, 255 where the layer has it. These are the layers and unit types that the seven mini-games
use.

An action is a function and its arguments. PySC2 has 573 functions, and the mini-games need those in
`FUNCTIONS`. An action is an array of integers: the function's number, then one integer for every
argument in `ARGUMENTS`, of which the function uses some. A place on the screen or minimap is one
integer, y times the resolution plus x.
"""

import dataclasses
import functools
from collections.abc import Mapping
from typing import Any

import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray

from envs import function_call, starcraft_import


@dataclasses.dataclass(frozen=True)
class Layer:
    """A feature layer of PySC2, and its planes."""

    name: str
    """PySC2's name."""
    values: tuple[int, ...] = ()
    """Values with a plane each; none if the layer is a number."""
    scale: int = 255
    """Value of a number that becomes 255."""

    @property
    def num_planes(self) -> int:
        """Number of planes."""
        return len(self.values) or 1

    def planes(self, layer: NDArray[np.int32]) -> NDArray[np.uint8]:
        """Return the planes, [planes, H, W], of a layer, [H, W]."""
        if self.values:
            is_value = layer == np.array(self.values, dtype=np.int32)[:, None, None]
            return np.where(is_value, np.uint8(255), np.uint8(0))
        scaled: NDArray[np.int32] = np.clip(layer, 0, self.scale) * 255 // self.scale
        return scaled[None].astype(np.uint8)


UNIT_TYPES: Mapping[str, int] = {
    **{"CommandCenter": 18, "SupplyDepot": 19, "Refinery": 20, "Barracks": 21},
    **{"SCV": 45, "Marine": 48, "Baneling": 9, "Zergling": 105, "Roach": 110},
    **{"MineralField": 341, "VespeneGeyser": 342, "MineralField750": 483},
}
"""Types of the units in the mini-games, by PySC2's names. Beacons and mineral shards have none,
as they are the only neutral units of their maps."""

_ON = (1,)
_SELF, _NEUTRAL, _ENEMY = 1, 3, 4
_SEEN, _VISIBLE = 1, 2

SCREEN = (
    Layer("height_map"),
    Layer("visibility_map", (_SEEN, _VISIBLE)),
    Layer("player_relative", (_SELF, _NEUTRAL, _ENEMY)),
    Layer("unit_type", tuple(UNIT_TYPES.values())),
    Layer("selected", _ON),
    Layer("unit_hit_points_ratio"),
    Layer("unit_density", scale=15),
    Layer("build_progress"),
    Layer("active", _ON),
)
MINIMAP = (
    Layer("height_map"),
    Layer("visibility_map", (_SEEN, _VISIBLE)),
    Layer("camera", _ON),
    Layer("player_relative", (_SELF, _NEUTRAL, _ENEMY)),
    Layer("selected", _ON),
)
PLAYER_SIZE = 11
"""Numbers about the player, such as minerals and idle workers, in PySC2's order."""
_LOG_LIMIT = 22.0  # log(1 + x) of the largest int32

FUNCTIONS: Mapping[str, tuple[str, ...]] = {
    "no_op": (),
    "move_camera": ("minimap",),
    "select_point": ("select_point_act", "screen"),
    "select_rect": ("select_add", "screen", "screen2"),
    "select_control_group": ("control_group_act", "control_group_id"),
    "select_army": ("select_add",),
    "select_idle_worker": ("select_worker",),
    "Attack_screen": ("queued", "screen"),
    "Attack_minimap": ("queued", "minimap"),
    "Move_screen": ("queued", "screen"),
    "Move_minimap": ("queued", "minimap"),
    "Smart_screen": ("queued", "screen"),
    "Smart_minimap": ("queued", "minimap"),
    "Stop_quick": ("queued",),
    "HoldPosition_quick": ("queued",),
    "Harvest_Gather_screen": ("queued", "screen"),
    "Harvest_Return_quick": ("queued",),
    "Build_SupplyDepot_screen": ("queued", "screen"),
    "Build_Barracks_screen": ("queued", "screen"),
    "Build_CommandCenter_screen": ("queued", "screen"),
    "Build_Refinery_screen": ("queued", "screen"),
    "Train_SCV_quick": ("queued",),
    "Train_Marine_quick": ("queued",),
    "Rally_Units_screen": ("queued", "screen"),
}
"""PySC2's names of the functions, with the arguments that each uses. The first five are always
available."""

ARGUMENTS: Mapping[str, int] = {
    **{"screen": 0, "minimap": 0, "screen2": 0},
    **{"queued": 2, "select_point_act": 4, "select_add": 2, "select_worker": 4},
    **{"control_group_act": 5, "control_group_id": 10},
}
"""Number of values of each argument in PySC2; 0 for a place, which has resolution^2."""

USED: NDArray[np.bool_] = np.array(
    [[argument in used for argument in ARGUMENTS] for used in FUNCTIONS.values()]
)
"""Which arguments each function uses, [functions, arguments]."""
USED.flags.writeable = False

_ORDER = {name: at for at, name in enumerate(FUNCTIONS)}
_PART = {name: at for at, name in enumerate(ARGUMENTS, start=1)}


def observation_space(resolution: int) -> spaces.Dict:
    """Return the space of observations with screen and minimap of this many pixels a side."""

    def images(layers: tuple[Layer, ...]) -> spaces.Box:
        planes = sum(layer.num_planes for layer in layers)
        return spaces.Box(0, 255, (planes, resolution, resolution), np.uint8)

    return spaces.Dict(
        {
            "available_actions": spaces.Box(0.0, 1.0, (len(FUNCTIONS),), np.float32),
            "minimap": images(MINIMAP),
            "player": spaces.Box(0.0, _LOG_LIMIT, (PLAYER_SIZE,), np.float32),
            "screen": images(SCREEN),
        }
    )


def action_space(resolution: int) -> function_call.FunctionCall:
    """Return the space of actions: the function, then every argument in `ARGUMENTS`."""
    sizes = [size or resolution**2 for size in ARGUMENTS.values()]
    return function_call.FunctionCall([len(FUNCTIONS), *sizes], USED)


def observe(seen: Any) -> dict[str, NDArray[Any]]:
    """Return an observation of `observation_space` from PySC2's."""

    def images(layers: tuple[Layer, ...], of: Any) -> NDArray[np.uint8]:
        return np.concatenate([layer.planes(np.asarray(of[layer.name])) for layer in layers])

    player = np.log1p(np.maximum(np.asarray(seen["player"], dtype=np.float64), 0))
    available = np.isin(_function_ids(), seen["available_actions"])
    return {  # in the order of the space
        "available_actions": available.astype(np.float32),
        "minimap": images(MINIMAP, seen["feature_minimap"]),
        "player": player.astype(np.float32),
        "screen": images(SCREEN, seen["feature_screen"]),
    }


def pysc2_call(action: NDArray[np.integer[Any]], resolution: int) -> Any:
    """Return PySC2's form of one action, an array of `action_space`."""
    name = list(FUNCTIONS)[action[0]]
    arguments = []
    for used in FUNCTIONS[name]:
        value = int(action[_PART[used]])
        if not ARGUMENTS[used]:
            y, x = divmod(value, resolution)
            arguments.append([x, y])
        else:
            arguments.append([value])
    functions = starcraft_import.pysc2().actions
    return functions.FunctionCall(getattr(functions.FUNCTIONS, name).id, arguments)


def action(name: str, resolution: int, **arguments: int | tuple[int, int]) -> NDArray[np.int64]:
    """Return an array of `action_space`, for players that are written by hand.

    Args:
        name: A function in `FUNCTIONS`.
        resolution: Pixels a side of screen and minimap.
        **arguments: Values of its arguments; a place is (x, y).

    Raises:
        KeyError: There is no such function or argument.
    """
    chosen = np.zeros(1 + len(ARGUMENTS), dtype=np.int64)
    chosen[0] = _ORDER[name]
    for argument, value in arguments.items():
        if isinstance(value, tuple):
            x, y = value
            value = y * resolution + x
        chosen[_PART[argument]] = value
    return chosen


@functools.cache
def _function_ids() -> NDArray[np.int64]:
    """Return PySC2's numbers of the functions, in the order of `FUNCTIONS`."""
    functions = starcraft_import.pysc2().actions.FUNCTIONS
    return np.array([int(getattr(functions, name).id) for name in FUNCTIONS])
