"""Record one episode of an agent as a video file."""

import os
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np

from envs import ids, make, toy
from experiments.members import actor, learner

_SCALE = 4
"""Enlargement of an agent's images, whose 84 x 84 pixels are too few to watch."""


def check(path: Path) -> None:
    """Refuse a file that could not be written, before anything is played.

    Raises:
        ValueError: It is no .mp4 in an existing directory, or the extra "video" is missing.
    """
    if path.suffix != ".mp4":
        raise ValueError(f"--video {path}: name an .mp4 file")
    if not path.parent.is_dir():
        raise ValueError(f"--video {path}: there is no directory {path.parent}")
    if not os.access(path if path.exists() else path.parent, os.W_OK) or path.is_dir():
        raise ValueError(f"--video {path} cannot be written: name another file")
    try:
        import imageio.v2  # noqa: F401 - an extra, as the next
        import imageio_ffmpeg  # noqa: F401
    except ImportError:
        raise ValueError(
            "--video needs the extra: pip install -c constraints.txt -e '.[video]'"
        ) from None


def record(agent: actor.Agent, config: learner.LearnerConfig, path: Path, seed: int) -> float:
    """Play one episode and write it as a video.

    Environments of images are shown as the agent sees them. Of Atari's four grey frames, that is
    the newest. Other environments are shown as Gymnasium renders them.

    Args:
        agent: The agent that plays.
        config: Its environment.
        path: The file, as `check` accepts it.
        seed: Seed of the environment.

    Returns:
        The raw return of the episode.

    Raises:
        ValueError: The environment cannot be rendered.
    """
    import imageio.v2

    spec = make.describe(config.env_id, preset=config.preset)
    sees_images = len(spec.single_observation_space.shape or ()) == 3
    is_toy = ids.split(config.env_id)[0] in toy.ENVS
    if not sees_images and (is_toy or spec.is_large):
        raise ValueError(f"--video: {config.env_id} cannot be rendered, evaluate it without")
    keywords: dict[str, Any] = {} if sees_images else {"render_mode": "rgb_array"}
    # Frames are arrays, so no screen is needed, and SDL should not look for one.
    os.environ.setdefault("SDL_VIDEODRIVER", "dummy")
    envs = make.make_vec(config.env_id, 1, preset=config.preset, **keywords)
    try:
        player = actor.Actor(agent, envs, config.clip_rewards, config.reward_scale)
        player.reset([seed])
        fps = 15 if sees_images else 30
        writer: Any = imageio.v2.get_writer(path, fps=fps, macro_block_size=2)
        with writer:
            while True:
                writer.append_data(_seen(player) if sees_images else _rendered(envs))
                finished = player.step().finished
                if finished:
                    return finished[0][1]
    finally:
        envs.close()


def _seen(player: actor.Actor) -> Any:
    image = player.inputs.obs[0].cpu().numpy()  # [C, H, W]
    if image.shape[0] != 3:
        image = np.repeat(image[-1:], 3, axis=0)  # the newest frame, grey: [3, H, W]
    image = image.transpose(1, 2, 0)  # [H, W, C]
    return image.repeat(_SCALE, axis=0).repeat(_SCALE, axis=1)  # [4 H, 4 W, C]


def _rendered(envs: gymnasium.vector.VectorEnv[Any, Any, Any]) -> Any:
    try:
        frames = envs.render()
    except gymnasium.error.Error as error:
        raise ValueError(f"--video: this environment cannot be rendered: {error}") from error
    if not frames or frames[0] is None:
        raise ValueError("--video: this environment cannot be rendered: it returns no frames")
    return np.asarray(frames[0])
