"""A deterministic learner for the engine's tests, which can be told to misbehave.

Its one parameter climbs fastest at the learning rate 0.5; each update of 10 steps ends one episode,
whose return is the parameter and a little noise from a generator that is part of the checkpoint.
Like an optimiser's, its checkpoint holds the learning rate, and loading brings it back.
"""

import json
import os
import signal
import time

import numpy as np
import safetensors.numpy

from pbt.task import Diverged, Episode, Progress

UPDATE = 10


class Toy:
    def __init__(self, config, member, seed):
        self.config = config
        self.member = member
        self.rng = np.random.default_rng(seed)
        self.theta = np.zeros(2)
        self.rate = float("nan")
        self.log("build")

    def log(self, *words):
        """One atomic line in a file of the run's, for what the store is not told."""
        if path := self.config.get("log"):
            line = " ".join(map(str, (os.getpid(), self.member, *words))) + "\n"
            descriptor = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o666)
            os.write(descriptor, line.encode())
            os.close(descriptor)

    def misbehaves(self, how):
        """Whether the fault `how` is due: {"member": m, "times": n, "marks": directory}."""
        fault = self.config.get(how)
        if fault is None or fault["member"] not in (self.member, None):
            return False
        for number in range(fault["times"]):
            try:
                os.close(os.open(f"{fault['marks']}/{how}-{number}", os.O_CREAT | os.O_EXCL))
            except FileExistsError:
                continue
            return True
        return False

    def wait_for_workers(self, number):
        """Wait until so many processes have built a task, at most 15 s."""
        deadline = time.monotonic() + 15
        while number > 1 and time.monotonic() < deadline:
            with open(self.config["log"]) as log:
                if len({line.split()[0] for line in log}) >= number:
                    return
            time.sleep(0.02)

    def refuse_while_broken(self):
        """Crash like every other member as long as the file "broken" is there."""
        if os.path.exists(self.config.get("broken", "")):
            raise RuntimeError("the learner has a typo")

    def train(self, agent_steps, limit):
        done = 0
        self.refuse_while_broken()
        self.log("train", self.rate)
        self.wait_for_workers(self.config.get("workers", 1))
        while done < agent_steps:
            steps = min(UPDATE, limit - done)
            time.sleep(self.config.get("update_s", 0))
            if self.misbehaves("kill"):
                os.kill(os.getpid(), signal.SIGKILL)
            if self.misbehaves("crash"):
                if text := self.config["crash"].get("text"):
                    raise RuntimeError(text)
                raise RuntimeError("the environment fell over")
            while self.misbehaves("hang"):
                time.sleep(1000)
            if self.rate > self.config.get("diverge_above", np.inf):
                raise Diverged(f"loss is nan at rate {self.rate}")
            done += steps
            self.theta += steps * 0.01 * (1 - abs(self.rate - 0.5))
            score = float(self.theta[0] + 0.01 * self.rng.normal())
            if self.rate > self.config.get("nan_return_above", np.inf):
                score = float("nan")
            self.log("steps", steps)
            yield Progress(steps, (Episode(done, score, steps, True),), {"theta": self.theta[0]})

    def set_hyperparameters(self, values):
        if not self.config.get("deaf"):
            self.rate = values["rate"]

    def hyperparameters(self):
        return {"rate": self.rate}

    def save(self, directory):
        safetensors.numpy.save_file({"theta": self.theta}, directory / "theta.safetensors")
        (directory / "state.json").write_text(
            json.dumps({"rate": self.rate, "rng": self.rng.bit_generator.state})
        )

    def load(self, directory):
        self.refuse_while_broken()
        theta = safetensors.numpy.load_file(directory / "theta.safetensors")["theta"]
        state = json.loads((directory / "state.json").read_text())
        self.theta, self.rate = theta, state["rate"]
        self.rng.bit_generator.state = state["rng"]
        self.log("load", directory.parent.name, directory.name)

    def close(self):
        self.log("close")


def make_task(config, member, seed):
    return Toy(config, member, seed)
