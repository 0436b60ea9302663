"""Population Based Training (Jaderberg et al. 2017, https://arxiv.org/abs/1711.09846): the engine.

The engine sees a learner only through `pbt.task.Task`; it imports neither torch nor gymnasium.
"""
