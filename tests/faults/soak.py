"""Runs of the toy under random faults: soak.py --minutes 10 --seed 0 [--store postgresql].

Between faults, and at the end of each run, the run directory is checked with the database's driver
and hashlib, and with none of the project's code. The exit code is 0 if nothing was violated.

Faults: a worker, a launcher, a terminal or everything is killed; a worker is stopped for a while;
the checkpoints are renamed away for a while; the database is locked or watched for a while; a
PostgreSQL server crashes or is restarted; a
second terminal joins, in this PID namespace or in one of its own; the wall clock is set; the disk
is full for a while. What the system does not allow is left out, and the report names it.
"""

import argparse
import collections
import hashlib
import itertools
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import psutil

HERE = Path(__file__).parent
# This clone's packages, and the tests' PostgreSQL server.
sys.path[:0] = [str(HERE.parents[1]), str(HERE.parent / "experiments")]

import soak_stores  # noqa: E402

TABLES = ("version", "report", "event")
LEASE_SECONDS = 5.0
FAULTS = {
    "kill a worker": 6,
    "kill a launcher": 3,
    "kill a terminal": 3,
    "kill everything": 2,
    "stop a worker": 3,
    "hide the checkpoints": 2,
    "lock the database": 2,
    "watch the database": 2,
    "second terminal": 2,
    "second terminal in another PID namespace": 2,
    "set the clock": 2,
    "fill the disk": 2,
}
CREATE = """
import json, sys
from pathlib import Path
from pbt import create, run, space
create.create_run(Path(sys.argv[1]), run.RunConfig(
    task="toy:make_task", space=space.Space({"rate": space.Uniform(0.05, 1.0)}, adapt=("rate",)),
    **json.loads(sys.argv[2])), url=sys.argv[3] or None, durable=False).close()
"""


class Soak:
    """Counts of everything, over all runs."""

    def __init__(
        self,
        seed: int,
        directory: Path,
        can_unshare: bool,
        is_small: bool,
        store: soak_stores.SQLite | soak_stores.PostgreSQL,
    ):
        self.store = store
        self.rng = random.Random(seed)
        self.directory = directory
        self.can_unshare = can_unshare
        self.is_small = is_small
        self.counts = collections.Counter()
        self.violations: list[str] = []

    def faults(self) -> dict[str, int]:
        left_out = [] if self.can_unshare else ["second terminal in another PID namespace"]
        left_out += [] if self.is_small else ["fill the disk"]
        possible = FAULTS | self.store.faults
        return {name: weight for name, weight in possible.items() if name not in left_out}

    def report(self) -> dict:
        return {
            "counts": dict(sorted(self.counts.items())),
            "store": type(self.store).__name__,
            "left out": sorted(FAULTS.keys() - self.faults().keys()),
            "violations": self.violations,
        }


class Run:
    """One population, from its creation to its end."""

    def __init__(self, soak: Soak, number: int, outside: Path):
        rng = soak.rng
        self.soak, self.rng = soak, rng
        self.directory = soak.directory / f"run {number}"
        self.store = soak.store
        self.log = outside / f"{number}.log"  # on another disk, so that it never is full
        self.clock = outside / f"{number}.clock"
        self.clock.write_text("0")
        self.log.touch()
        self.settings = {
            "population": rng.randint(3, 6),
            "total_steps": rng.choice([1500, 2500, 4000]),
            "report_interval": 100,
            "ready_interval": rng.choice([100, 300]),
            "exploit": rng.choice(["t-test", "truncation", "binary-tournament", "none"]),
            "lease_seconds": LEASE_SECONDS,
            "seed": rng.randrange(1000),
            "task_config": {"log": str(self.log), "update_s": rng.choice([0.03, 0.05])},
        }
        self.launchers: list[subprocess.Popen] = []
        self.outputs: list[Path] = []
        self.seen: dict[tuple[str, int], str] = {}
        self.may_repeat = 0
        """Workers that were killed, or whose work may have been dropped."""
        self.finished = False
        given = (str(self.directory), json.dumps(self.settings), self.store.url or "")
        self.execute(sys.executable, "-c", CREATE, *given)
        soak.counts["runs"] += 1
        soak.counts[f"runs with {self.settings['exploit']}"] += 1

    # Processes.

    def environment(self) -> dict[str, str]:
        paths = os.pathsep.join([str(HERE), *filter(None, sys.path)])
        added = {"PYTHONPATH": paths, "CLOCK_FILE": str(self.clock), "OMP_NUM_THREADS": "1"}
        if self.store.url is not None:
            added["DURABLE"] = "yes"  # else a server that crashes may lose the last commits
        return {**os.environ, **added}

    def execute(self, *command: str) -> None:
        subprocess.run(command, env=self.environment(), check=True)

    def launch(self, workers: int, *prefix: str) -> None:
        """The same command, in a terminal of its own."""
        output = self.log.with_suffix(f".{len(self.outputs)}.out")
        self.outputs.append(output)
        with output.open("wb") as file:
            launcher = subprocess.Popen(
                [
                    *prefix,
                    sys.executable,
                    str(HERE / "launch.py"),
                    str(self.directory),
                    str(workers),
                ],
                env=self.environment(),
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=file,
                start_new_session=True,
            )
        launcher.output = output
        self.launchers.append(launcher)
        self.soak.counts["launches"] += 1

    def processes(self, script: str) -> list[psutil.Process]:
        """Processes of this run, in all namespaces."""
        found = []
        for process in psutil.process_iter():
            try:
                command = process.cmdline()
                is_ours = str(self.directory) in command and str(HERE / script) in command
                if is_ours and "unshare" not in command[0]:
                    found.append(process)
            except psutil.Error:
                continue
        return found

    def workers(self) -> list[psutil.Process]:
        return self.processes("child.py")

    def kill(self, processes: list[psutil.Process]) -> None:
        for process in processes:
            try:
                is_worker = str(HERE / "child.py") in process.cmdline()
                process.kill()
            except psutil.Error:
                continue
            self.soak.counts["kills of workers" if is_worker else "kills of launchers"] += 1
            self.may_repeat += is_worker

    def reap(self) -> None:
        """Note how launchers ended."""
        for launcher in list(self.launchers):
            if (code := launcher.poll()) is None:
                continue
            self.launchers.remove(launcher)
            text = launcher.output.read_text(errors="replace").strip()
            if "unshare:" in text:
                code = -9  # it dies less well of its child's signal
            if code > 0:
                print(f"a launcher ended with {code}: {text[-300:]}", flush=True)
            self.soak.counts[f"launchers that ended with {code}"] += 1
            self.finished |= code == 0

    # Faults.

    def do(self, fault: str) -> None:
        self.soak.counts[fault] += 1
        workers, launchers = self.workers(), self.processes("launch.py")
        seconds = self.rng.uniform(1.0, 8.0)
        if fault == "kill a worker" and workers:
            self.kill([self.rng.choice(workers)])
        elif fault == "kill a launcher" and launchers:
            self.kill([self.rng.choice(launchers)])
        elif fault == "kill a terminal" and launchers:
            launcher = self.rng.choice(launchers)
            try:
                children = launcher.children(recursive=True)
            except psutil.Error:
                children = []
            self.kill([launcher, *children])
        elif fault == "kill everything":
            self.kill([*launchers, *workers])
        elif fault == "stop a worker" and workers:
            worker = self.rng.choice(workers)
            self.may_repeat += 1
            try:
                worker.suspend()
                time.sleep(seconds * 1.5)
                worker.resume()
            except psutil.Error:
                return
        elif fault == "hide the checkpoints":
            self.hide(self.rng.uniform(0.5, 5.0))
        elif fault == "lock the database":
            self.soak.counts["locks that were not got"] += not self.store.lock(
                self.directory, seconds
            )
        elif fault == "watch the database":
            self.store.watch(self.directory, seconds)
        elif fault in ("crash the database server", "restart the database server"):
            self.may_repeat += len(workers)  # leases may lapse meanwhile
            self.store.away("immediate" if "crash" in fault else "fast", seconds)
        elif fault == "second terminal" and len(launchers) < 3:
            self.launch(1)
        elif fault == "second terminal in another PID namespace" and len(launchers) < 3:
            self.launch(1, "unshare", "--pid", "--fork", "--kill-child", "--mount-proc")
        elif fault == "set the clock":
            self.clock.write_text(str(self.rng.choice([0, 60, 3600, -60, -3600])))
            self.may_repeat += len(workers)  # leases may lapse for nothing
        elif fault == "fill the disk":
            self.fill(seconds)

    def hide(self, seconds: float) -> None:
        if not any(row["checkpoint"] for row in self.rows("version")):
            return  # an empty place is taken for a new one until the first commit
        there, away = self.directory / "checkpoints", self.directory / "hidden"
        there.rename(away)
        self.may_repeat += len(self.workers())
        time.sleep(seconds)
        if there.exists():
            self.violated(f"checkpoints were made anew: {sorted(there.rglob('*'))[:5]}")
            shutil.rmtree(there)
        away.rename(there)

    def fill(self, seconds: float) -> None:
        filler = self.soak.directory / "filler"
        self.may_repeat += len(self.workers())
        with filler.open("wb", buffering=0) as file:
            for size in (1 << 20, 1 << 12):
                try:
                    while True:
                        file.write(bytes(size))
                except OSError:
                    continue
        time.sleep(seconds)
        filler.unlink()

    # Checks, without the project's code.

    def violated(self, what: str) -> None:
        line = f"{self.directory.name} ({self.settings['exploit']}): {what}"
        print(f"VIOLATION {line}", flush=True)
        self.soak.violations.append(line)

    def expect(self, holds: object, what: str) -> None:
        if not holds:
            self.violated(what)

    def rows(self, table: str) -> list[dict]:
        return self.store.rows(self.directory, table)

    def check_nothing_changed(self) -> None:
        """All rows that were ever seen are still there, byte for byte."""
        for table in TABLES:
            now = {
                (table, row["id"]): hashlib.sha256(repr(sorted(row.items())).encode()).hexdigest()
                for row in self.rows(table)
            }
            before = {key: value for key, value in self.seen.items() if key[0] == table}
            lost = [key for key, value in before.items() if now.get(key) != value]
            self.expect(not lost, f"rows lost or changed: {lost[:5]}")
            self.seen |= now
        self.soak.counts["checks between faults"] += 1

    def check_end(self) -> None:
        self.check_nothing_changed()
        total, interval = self.settings["total_steps"], self.settings["report_interval"]
        members, versions = self.rows("member"), self.rows("version")
        reports, events = self.rows("report"), self.rows("event")
        by_version = {(row["member"], row["version"]): row for row in versions}
        reported = collections.Counter((row["member"], row["version"]) for row in reports)
        steps_of = {(row["member"], row["version"]): row for row in reports}
        self.expect(len(members) == self.settings["population"], "the population changed")
        self.expect(len(by_version) == len(versions), "a version is there twice")
        for member in members:
            who = f"member {member['id']}"
            self.expect(member["agent_steps"] == total, f"{who} is at {member['agent_steps']}")
            self.expect(member["state"] == "finished", f"{who} is {member['state']}")
            self.expect(member["owner"] is None, f"{who} is held by {member['owner']}")
            own = [row for row in versions if row["member"] == member["id"]]
            numbers = [row["version"] for row in own]
            self.expect(numbers == list(range(member["version"] + 1)), f"{who}: gaps {numbers}")
            for before, after in itertools.pairwise(own):
                key = (after["member"], after["version"])
                what = f"{who} version {after['version']} ({after['kind']})"
                is_slice = after["kind"] == "slice"
                self.expect(reported[key] == is_slice, f"{what}: {reported[key]} reports")
                grown = after["agent_steps"] - before["agent_steps"]
                if is_slice:
                    steps = steps_of[key]["slice_steps"] if key in steps_of else 0
                    self.expect(grown == steps > 0, f"{what}: {grown} steps, {steps} reported")
                    self.expect(steps <= interval, f"{what}: {steps} steps in one slice")
                elif after["kind"] == "restore":
                    parent = by_version[after["parent_member"], after["parent_version"]]
                    steps = after["agent_steps"]
                    self.expect(steps == parent["agent_steps"], f"{what}: {steps} steps")
                else:
                    self.expect(grown == 0, f"{what}: grew by {grown}")
            self.check_checkpoint(member)
        self.check_copies(by_version, events)
        trained = sum(
            int(line.split()[3])
            for line in self.log.read_text().splitlines()
            if line.split()[2] == "steps"
        )
        repeated = trained - sum(row["slice_steps"] for row in reports)
        self.soak.counts["repeated steps"] += repeated
        self.soak.counts["repeated steps allowed"] += interval * self.may_repeat
        self.soak.counts["agent steps"] += trained
        self.expect(
            0 <= repeated <= interval * self.may_repeat,
            f"{repeated} steps repeated, {self.may_repeat} workers killed or disturbed",
        )
        for event in events:
            because = json.loads(event["details"]).get("because")
            if event["kind"] in ("takeover", "crashed", "failed", "revived", "restored", "reseed"):
                self.soak.counts[f"events {event['kind']}" + f" ({because})" * bool(because)] += 1
        for output in self.outputs:
            text = output.read_text(errors="replace")
            self.expect("Traceback" not in text, f"a launcher's traceback: {text[-600:]}")
        left = [*self.directory.glob("checkpoints/*/.tmp-*"), *self.directory.glob(".*creating*")]
        self.expect(not left, f"temporary files are left: {left}")
        kept = len([*self.directory.glob("checkpoints/*/*")])
        self.soak.counts["checkpoints left"] += kept
        self.soak.counts["checkpoints needed at most"] += 2 * len(members) + 1
        self.expect(kept <= 2 * len(members) + 1, f"{kept} checkpoints are left")

    def check_checkpoint(self, member: dict) -> None:
        directory = self.directory / "checkpoints" / member["checkpoint"]
        try:
            files = json.loads((directory / "manifest.json").read_text())["files"]
            for name, entry in files.items():
                digest = hashlib.sha256((directory / name).read_bytes()).hexdigest()
                self.expect(digest == entry["sha256"], f"{directory / name} is damaged")
        except OSError as error:
            self.violated(f"the newest checkpoint of member {member['id']}: {error}")

    def check_copies(self, by_version: dict, events: list[dict]) -> None:
        told = collections.Counter()
        for event in events:
            if event["kind"] not in ("exploit", "reseed"):
                continue
            details = json.loads(event["details"])
            child = by_version.get((event["member"], event["version"]))
            donor = by_version.get((details["donor"], details["donor_version"]))
            what = f"{event['kind']} of member {event['member']} version {event['version']}"
            if child is None or donor is None:
                self.violated(f"{what}: no such version")
                continue
            told[event["member"], event["version"]] += 1
            parent = (child["parent_member"], child["parent_version"])
            self.expect(parent == (donor["member"], donor["version"]), f"{what}: {parent}")
            self.expect(donor["id"] < child["id"], f"{what}: the donor is younger")
            self.expect(donor["member"] != child["member"], f"{what}: copied itself")
            self.expect(donor["checkpoint"], f"{what}: the donor had no checkpoint")
            if event["kind"] == "exploit" and self.settings["exploit"] == "t-test":
                samples = [details.get("own_returns"), details.get("opponent_returns")]
                self.expect(all(len(s or []) == 10 for s in samples), f"{what}: no evidence")
        copies = {k for k, row in by_version.items() if row["kind"] in ("exploit", "reseed")}
        self.expect(told == dict.fromkeys(copies, 1), "copies and their events differ")
        self.soak.counts["copies"] += len(copies)

    # All of it.

    def soak_until(self, deadline_s: float) -> None:
        faults = self.soak.faults()
        self.launch(2)
        for _ in range(25):
            time.sleep(self.rng.uniform(0.3, 4.0))
            self.reap()
            if self.finished or time.monotonic() > deadline_s:
                break
            self.do(self.rng.choices(list(faults), list(faults.values()))[0])
            self.check_nothing_changed()
            self.reap()
            if not self.launchers and not self.finished:
                self.launch(self.rng.choice([1, 2, 2]))
        self.finish()

    def finish(self) -> None:
        """Without faults, the same command ends the run."""
        started_s = time.monotonic()
        self.clock.write_text("0")
        while not self.finished and time.monotonic() - started_s < 240:
            self.reap()
            if not self.launchers and not self.finished:
                self.launch(2)
            time.sleep(0.2)
        self.expect(self.finished, f"the run does not end: {self.outputs[-1].read_text()[-600:]}")
        left = self.processes("child.py") + self.processes("launch.py")
        _, alive = psutil.wait_procs(left, timeout=60)
        self.expect(not alive, f"processes are left: {alive}")
        for process in alive:
            process.kill()
        self.reap()
        if self.finished:
            self.check_end()


def main(minutes: float, soak: Soak) -> dict:
    deadline_s = time.monotonic() + 60 * minutes
    with tempfile.TemporaryDirectory(prefix="soak-") as outside:
        while time.monotonic() < deadline_s:
            run = Run(soak, soak.counts["runs"], Path(outside))
            try:
                run.soak_until(deadline_s)
            finally:
                run.kill(run.processes("launch.py") + run.workers())
            print(json.dumps(soak.report()["counts"]), flush=True)
            if not soak.violations:
                shutil.rmtree(run.directory)
    return soak.report()


def _allowed(*command: str) -> bool:
    try:
        return subprocess.run(command, capture_output=True, check=False).returncode == 0
    except OSError:
        return False


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--store", choices=("sqlite", "postgresql"), default="sqlite")
    parser.add_argument("--json", type=Path, help="where to write the counts")
    parser.add_argument("--keep", type=Path, help="directory for the runs, which are then kept")
    parser.add_argument("--inside", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    mounting = ["unshare", "--mount"] if os.geteuid() == 0 else ["unshare", "-r", "--mount"]
    if not options.inside and _allowed(*mounting, "mount", "-t", "tmpfs", "none", "/mnt"):
        # A mount namespace of its own, for a small disk that can be filled.
        command = [*mounting, sys.executable, *sys.argv, "--inside"]
        os.execvp(command[0], command)
    base = Path(tempfile.mkdtemp(prefix="soak-runs-"))
    if options.inside:
        subprocess.run(["mount", "-t", "tmpfs", "-o", "size=48m", "none", base], check=True)
    store = soak_stores.PostgreSQL() if options.store == "postgresql" else soak_stores.SQLite()
    soak = Soak(
        options.seed,
        base,
        can_unshare=_allowed("unshare", "--pid", "--fork", "--mount-proc", "true"),
        is_small=options.inside,
        store=store,
    )
    try:
        result = main(options.minutes, soak)
    finally:
        store.close()
    if options.keep and result["violations"]:
        shutil.copytree(base, options.keep, dirs_exist_ok=True)
    text = json.dumps(result, indent=1)
    print(text)
    if options.json:
        options.json.write_text(text)
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    sys.exit(bool(result["violations"]))
