"""Start StarCraft II so that no process and no file of it is ever left behind.

A game is PySC2's own `SC2Env`, and a process of its own. PySC2 lets a subclass say how processes
are started (`pysc2.run_configs`). Ours differs from its default for Linux in these points:

- The process asks the kernel to kill it when its owner is gone (on Linux only). Otherwise it would
  outlive an owner that is killed.
- It has a session of its own, so that Ctrl-C reaches the owner only, and it prints nothing.
- Its temporary files are in a directory that the next owner clears away, if this one is killed.
- It must answer within `TIMEOUT_S`.
"""

import contextlib
import functools
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

from envs import engine_child, scratch, starcraft_import

PREFIX = "pbt-starcraft-"
"""Beginning of the names of temporary directories."""
TIMEOUT_S = 120
"""Seconds in which a game must be up, and answer each request."""
GAME_LOOPS_PER_STEP = 8
"""Game loops per agent step, PySC2's default for these maps (`pysc2/maps/mini_games.py`)."""
CAMERA_WIDTH = 24
"""Width of the screen in the game's units of length, PySC2's default."""
MAX_GAME_LOOPS = 2**18
"""Game loops that a process plays before it is replaced. From then on the game asks for a new one
(`need_hard_reset` in sc2api.proto of https://github.com/Blizzard/s2client-proto)."""

HOW_TO_INSTALL = (
    "Get the Linux package of the game from https://github.com/Blizzard/s2client-proto#downloads "
    "(to unpack it, you agree to Blizzard's AI and Machine Learning License), unpack "
    "mini_games.zip from https://github.com/google-deepmind/pysc2/releases/tag/v1.2 into its "
    "directory Maps, and set SC2PATH to the game's directory"
)
"""How to get what pip cannot."""


def directory() -> Path:
    """Return where the game should be, which is where PySC2 looks for it."""
    return Path(os.environ.get("SC2PATH", "~/StarCraftII")).expanduser()


def check(map_name: str) -> None:
    """Refuse an installation without PySC2, the game or the map.

    Raises:
        ValueError: Something is missing; the message says how to get it.
    """
    if starcraft_import.missing():
        raise ValueError(
            f"{', '.join(starcraft_import.missing())} cannot be imported: "
            "pip install -c constraints.txt -e '.[starcraft]' gets PySC2 and what it needs"
        )
    path = directory()
    given = "SC2PATH is" if "SC2PATH" in os.environ else "SC2PATH is not set, and the default is"
    programs = path.glob("Versions/Base*/SC2_x64")
    if not any(re.fullmatch(r"Base\d+", program.parent.name) for program in programs):
        raise ValueError(
            f"StarCraft II is not installed: {given} {path}, which has no Versions/Base*/SC2_x64. "
            f"{HOW_TO_INSTALL}"
        )
    file = path / "Maps" / "mini_games" / f"{map_name}.SC2Map"
    if not file.is_file():
        raise ValueError(f"the map {map_name} is not installed: no {file}. {HOW_TO_INSTALL}")


def launch(map_name: str, resolution: int, seed: int) -> Any:
    """Start a game, and return it: PySC2's `SC2Env` for one player with PySC2's default camera.

    Args:
        map_name: A mini-game that is installed.
        resolution: Pixels a side of screen and minimap.
        seed: Seed of the game, from 0 to 2^32 - 1.

    Raises:
        Exception: One of `failures`; no process is left.
    """
    sc2_env = starcraft_import.pysc2().sc2_env
    _register()
    scratch.clear_stale(PREFIX)
    game = sc2_env.SC2Env.__new__(sc2_env.SC2Env)
    try:
        game.__init__(
            map_name=map_name,
            players=[sc2_env.Agent(sc2_env.Race.terran)],
            agent_interface_format=sc2_env.AgentInterfaceFormat(
                feature_dimensions=sc2_env.Dimensions(screen=resolution, minimap=resolution),
                camera_width_world_units=CAMERA_WIDTH,
            ),
            step_mul=GAME_LOOPS_PER_STEP,
            random_seed=seed,
        )
    except BaseException:
        close(game)
        raise
    return game


def close(game: Any) -> None:
    """End a game's process, whatever its state."""
    with contextlib.suppress(*failures()):
        game.close()


@functools.cache
def failures() -> tuple[type[Exception], ...]:
    """Return the types of errors that say that a game's process died, hangs or refuses its part."""
    from google.protobuf import message
    from websocket import WebSocketException

    pysc2 = starcraft_import.pysc2()
    return (
        pysc2.protocol.ConnectionError,
        pysc2.protocol.ProtocolError,
        pysc2.remote_controller.ConnectError,
        pysc2.remote_controller.RequestError,
        pysc2.sc_process.SC2LaunchError,
        WebSocketException,
        message.DecodeError,
        OSError,
    )


@functools.cache
def _register() -> type[Any]:
    """Make PySC2 start processes by the classes below. It finds them as subclasses of its own."""
    pysc2 = starcraft_import.pysc2()

    class Process(pysc2.sc_process.StarcraftProcess):  # type: ignore[misc, name-defined]
        """A process that ends with this one; its arguments are those of PySC2."""

        def _launch(self, run_config: Any, args: list[str], **keywords: Any) -> Any:
            self._scratch: contextlib.ExitStack = keywords["scratch"]
            child = [sys.executable, "-I", "-S", engine_child.__file__, run_config.tmp_dir]
            return subprocess.Popen([*child, str(os.getpid()), "", *args], env=run_config.env)

        def close(self) -> None:
            super().close()
            if hasattr(self, "_scratch"):
                self._scratch.close()

    class Owned(pysc2.platforms.Linux):  # type: ignore[misc, name-defined]
        """Where the game lies and how it is started."""

        def __init__(self, version: Any = None) -> None:
            super().__init__(version)
            # The process has a working directory of its own.
            self.data_dir: str = os.path.abspath(directory())

        @classmethod
        def priority(cls) -> int | None:
            """Return a number above that of PySC2's own; None where there is no Linux."""
            return 2 if sys.platform == "linux" else None

        def start(self, want_rgb: bool = False, **keywords: Any) -> Process:
            build = f"Base{self.version.build_version:05d}"
            with contextlib.ExitStack() as stack:
                self.tmp_dir = str(stack.enter_context(scratch.directory(PREFIX)))
                process = Process(
                    self,
                    exec_path=os.path.join(self.data_dir, "Versions", build, "SC2_x64"),
                    version=self.version,
                    timeout_seconds=TIMEOUT_S,
                    scratch=stack.pop_all(),
                    **keywords,
                )
            return process

    return Owned
