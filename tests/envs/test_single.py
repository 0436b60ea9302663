"""One environment is the vector of one, and what Gymnasium takes for an environment."""

import warnings

import numpy as np
import pytest
from gymnasium.utils import env_checker

from envs import make


@pytest.mark.parametrize(
    ("env_id", "keywords"),
    [("Catch", {}), ("CartPole-v1", {"max_episode_steps": 6}), ("Pendulum-v1", {}), ("Pong", {})],
)
def test_it_goes_as_the_vector_of_one_goes(env_id, keywords):
    env, envs = make.make_single(env_id, **keywords), make.make_vec(env_id, 1, **keywords)
    assert env.observation_space == envs.single_observation_space
    assert env.action_space == envs.single_action_space
    env.action_space.seed(1)
    obs, _ = env.reset(seed=3)
    other, _ = envs.reset(seed=3)
    np.testing.assert_array_equal(obs, other[0])
    for _ in range(20):
        action = env.action_space.sample()
        obs, reward, terminated, truncated, info = env.step(action)
        other, rewards, ends, cuts, infos = envs.step(np.array([action]))
        assert (reward, terminated, truncated) == (rewards[0], ends[0], cuts[0])
        assert info == {"life_lost": infos["life_lost"][0]}
        if terminated or truncated:
            np.testing.assert_array_equal(obs, infos["final_obs"][0])
            break
        np.testing.assert_array_equal(obs, other[0])
    env.close()
    envs.close()


def test_gymnasium_takes_it_for_an_environment():
    env = make.make_single("Catch")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it is not registered, and draws nothing
        env_checker.check_env(env, skip_render_check=True, skip_close_check=True)
    env.close()
