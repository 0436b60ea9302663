"""Say whether training or playing a run would execute code that is not the suite's.

A run directory names its environment, and Gymnasium imports the module of "module:EnvId". So a
directory from somebody else could bring code with it, which commands that read a run must not
execute.
"""

import re
from typing import Any

import gymnasium

from envs import atari, ids, make, toy
from experiments.analysis import tasks
from pbt import store

IF_TRUSTED = "add --trust if you trust it (in Python, trust=True)"
"""The way out of a refusal, in words."""
_OWN_TASK = re.compile(r"experiments(\.\w+)*:make_(scheduled_)?task", re.ASCII)


def check_run(run_store: store.Store) -> None:
    """Refuse a run whose training would execute code that is not the suite's or Gymnasium's.

    Args:
        run_store: The run.

    Raises:
        ValueError: Its task or its environment is other code; one line that says which.
    """
    config = run_store.config
    for task in (config.task, tasks.trained(config)):
        if not _OWN_TASK.fullmatch(task):
            raise ValueError(
                f"{run_store.path.parent} names the task {task!r}, and training executes it: read "
                f"that code first, and {IF_TRUSTED}"
            )
    if "env_id" in config.task_config:
        check(run_store, config.task_config["env_id"])


def check(run_store: store.Store, env_id: Any) -> None:
    """Refuse an environment that is not the suite's or Gymnasium's own.

    Unknown ids pass: nothing can be executed for them, and building them says what is possible.

    Args:
        run_store: The run that names the environment.
        env_id: The id, as stored.

    Raises:
        ValueError: Another package's code would be executed; one line that says which.
    """
    code = foreign_code(env_id)
    if code is not None:
        raise ValueError(
            f"{run_store.path.parent} names the environment {env_id!r}, and playing it executes "
            f"{code}: read that code first, and {IF_TRUSTED}"
        )


def foreign_code(env_id: Any) -> str | None:
    """Return which code outside of the suite and Gymnasium an environment executes, in words.

    Raises:
        ValueError: The id is no text, or names a game or level that does not exist.
    """
    if not isinstance(env_id, str):
        raise ValueError(f"the environment {env_id!r} is no text")
    module, colon, _ = env_id.rpartition(":")
    if colon:
        return f"the module {module!r}"
    plain, _ = ids.split(env_id)
    if plain in toy.ENVS or make.find_level(plain) or atari.find_game(plain):
        return None
    spec = gymnasium.registry.get(plain)
    if spec is None:
        return None
    for entry in (spec.entry_point, spec.vector_entry_point):
        # Entry points are "module:name", or functions.
        source = entry if isinstance(entry, str) else getattr(entry, "__module__", "")
        if entry is not None and source.partition(":")[0].partition(".")[0] != "gymnasium":
            return f"{source or entry!r}"
    return None
