"""Damaged, missing and hostile checkpoints, and full disks, as the engine meets them."""

import ast
import errno
import json
import os
import pickle
import shutil
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest

from pbt import checkpoint, claim, create, disk, storage, verdict

ROOT = Path(__file__).parents[2]


@pytest.fixture
def impatient(monkeypatch):
    monkeypatch.setattr(disk, "PAUSES_S", (0.01, 0.01))


def truncate(directory, other):
    path = directory / "theta.safetensors"
    _rewrite(path, path.read_bytes()[:-1])


def flip_a_bit(directory, other):
    path = directory / "theta.safetensors"
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    _rewrite(path, bytes(content))


def empty(directory, other):
    _rewrite(directory / "theta.safetensors", b"")


def no_manifest(directory, other):
    (directory / checkpoint.MANIFEST).unlink()


def manifest_of_another_member(directory, other):
    _rewrite(directory / checkpoint.MANIFEST, (other / checkpoint.MANIFEST).read_bytes())


def gone(directory, other):
    shutil.rmtree(directory)


def _rewrite(path, content):
    path.unlink()  # a new file: children share the old one by hard links
    path.write_bytes(content)


DAMAGES = [truncate, flip_a_bit, empty, no_manifest, manifest_of_another_member, gone]


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_checkpoint_falls_back_to_the_version_before(damage, toy_run):
    """B1: never from scratch without a word."""
    run = toy_run(exploit="none")
    run.work_until(12)  # three of each
    member = run.store.member(0)
    assert (member.version, member.agent_steps) == (3, 300)
    damage(run.newest(0), run.newest(1))
    assert run.work().exit_code == 0
    [event] = run.events("restored")
    assert (event.member, event.details["from_version"], event.details["to_version"]) == (0, 3, 2)
    assert event.details["agent_steps_repeated"] == 100
    assert "member 0" in event.details["error"] or "manifest" in event.details["error"]
    [restored] = [version for version in run.store.versions(0) if version.kind == "restore"]
    assert (restored.version, restored.agent_steps, restored.parent) == (4, 200, (0, 2))
    run.assert_complete()


def test_a_checkpoint_that_comes_back_is_gone_on_from(toy_run, tmp_path):
    """B1: a disk that shows other files at each look. Agent steps then rise by a restore."""
    run = toy_run(exploit="none")
    run.work_until(12)
    newest = run.newest(0)  # with 300 steps
    shutil.move(newest, tmp_path / "away")
    run.work(stop=lambda: 15 if run.events("restored") else 0)
    for version in run.store.versions(0):
        if version.version > 3:
            gone(run.checkpoints / version.checkpoint, None)
    shutil.move(tmp_path / "away", newest)
    assert run.store.member(0).agent_steps < 300
    assert run.work().exit_code == 0
    restored = [version for version in run.store.versions() if version.kind == "restore"]
    assert [(version.agent_steps, version.parent) for version in restored] == [
        (200, (0, 2)),
        (300, (0, 3)),
    ]
    assert [event.details["agent_steps_repeated"] for event in run.events("restored")] == [100, 0]
    run.assert_complete()


def test_without_any_readable_version_a_member_is_replaced(toy_run):
    run = toy_run()
    run.work_until(8)
    for directory in (run.checkpoints / "1").iterdir():
        flip_a_bit(directory, None)
    assert run.work().exit_code == 0
    [failed] = run.events("failed")
    assert failed.member == 1
    assert "no checkpoint of the member can be read" in failed.details["error"]
    assert [event.member for event in run.events("reseed")] == [1]
    run.assert_complete()


def test_without_exploitation_it_stays_dead_and_the_run_says_so(toy_run):
    run = toy_run(exploit="none")
    run.work_until(8)
    for directory in (run.checkpoints / "1").iterdir():
        empty(directory, None)
    steps = run.store.member(1).agent_steps
    outcome = run.work()
    assert outcome.exit_code == verdict.EXIT_UNSPENT
    assert "finished: 3 of 4 members; the others" in outcome.message
    assert f"failed for good and left {400 - steps} steps unspent" in outcome.message
    assert "the first was member 1, failed at" in outcome.message
    assert run.store.member(1).state == "failed"


def test_an_exploit_of_a_damaged_donor_is_abandoned(toy_run):
    """B1, B6: the loser goes on as it was."""
    run = toy_run(total_steps=800)
    hit = []

    def probe(name):
        if name == "decided" and not hit:
            hit.append(name)
            for member in run.store.members():
                if member.owner is None and member.checkpoint:
                    gone(run.newest(member.id), None)

    assert run.work(probe=probe).exit_code == 0
    events = [event for event in run.events("no-exploit") if "abandoned" in event.details]
    assert events
    assert all("is missing" in event.details["abandoned"] for event in events)
    # The donors' own tasks are alive in memory: they published new checkpoints and lost nothing.
    assert not run.events("restored")
    run.assert_complete()


def test_a_row_that_contradicts_its_manifest_goes_back_a_version(toy_run):
    """A changed learning rate would be trained with, and nobody would know."""
    run = toy_run(exploit="none")
    run.work_until(12)
    member = run.store.member(0)
    changed = json.dumps({"rate": member.hyperparameters["rate"] / 2})
    with sqlite3.connect(run.store.path) as database:
        database.execute("UPDATE member SET hyperparameters = ? WHERE id = 0", [changed])
        database.execute(
            "UPDATE version SET hyperparameters = ? WHERE member = 0 AND version = ?",
            [changed, member.version],
        )
    database.close()
    assert run.work().exit_code == 0
    [event] = run.events("restored")
    assert event.member == 0
    error = event.details["error"]
    assert f"{member.checkpoint}/manifest.json has hyperparameters" in error
    assert f"the row of member 0 version {member.version} in the store has" in error
    final = run.store.member(0)
    assert (final.agent_steps, final.hyperparameters) == (400, member.hyperparameters)


# What is kept.


def kept_and_found(run):
    kept = run.store.referenced_checkpoints()
    found = {f"{path.parent.name}/{path.name}" for path in run.checkpoints.glob("*/*")}
    return kept, found


@pytest.mark.parametrize(
    "fault",
    [
        pytest.param("none:none:0", marks=pytest.mark.slow),
        pytest.param("writing-checkpoint:kill:4", marks=pytest.mark.slow),
        "published:kill:4",
        pytest.param("committed:kill:4", marks=pytest.mark.slow),
        "collecting:kill:1",
    ],
)
def test_at_the_end_only_what_is_kept_is_there(fault, toy_run):
    """Two workers die, and the run takes a small part of the grace time."""
    run = toy_run(total_steps=1_600)
    for _ in range(2):
        worker = run.spawn("child.py", fault=fault)
        worker.wait(60)
        assert worker.returncode == (0 if "none" in fault else -9)
    assert run.launch() == 0
    kept, found = kept_and_found(run)
    assert found == kept
    assert len(found) <= 2 * 4 + 1
    run.assert_complete()


def test_the_command_of_a_finished_run_collects(toy_run):
    """As it finds the runs of before, which kept what was younger than the grace."""
    run = toy_run()
    assert run.launch() == 0
    members = run.store.members()
    superseded = run.store.version(0, 1)
    assert superseded.checkpoint not in run.store.referenced_checkpoints()
    for name in (superseded.checkpoint, "1/3-0123456789abcdef"):
        (run.checkpoints / name).mkdir()
    creating = run.directory / ".run.sqlite3.creating-0123"
    creating.touch()
    os.utime(creating, (0, 0))
    assert run.launch() == 0
    kept, found = kept_and_found(run)
    assert found == kept
    assert not creating.exists()
    assert run.store.members() == members


def test_the_checkpoints_of_a_run_of_before_are_marked(toy_run):
    run = toy_run()
    run.work_until(8)
    (run.checkpoints / checkpoint.MARKER).unlink()
    assert run.launch() == 0
    assert checkpoint.is_there(run.checkpoints, run.store.identity())
    run.assert_complete()


def test_a_checkpoint_that_is_not_committed_yet_is_kept(toy_run):
    """However short the run, and though other workers collect."""
    run = toy_run()
    run.work_until(8)
    lease = run.store.claim("a slow worker")
    member = lease.member
    name = checkpoint.publish(
        run.checkpoints, member.id, member.version + 1, lambda directory: None, {}
    )
    claim.collect(run.store, storage.Directory(run.checkpoints))
    assert (run.checkpoints / name).exists()
    run.store.release(lease)  # now nobody can commit it
    claim.collect(run.store, storage.Directory(run.checkpoints))
    assert not (run.checkpoints / name).exists()


def test_another_runs_checkpoints_are_never_collected(toy_run, tmp_path):
    run, other = toy_run("one"), toy_run("other")
    for each in (run, other):
        each.work_until(8)
    run.checkpoints.rename(tmp_path / "aside")
    run.checkpoints.symlink_to(other.checkpoints)
    claim.collect(run.store, storage.Directory(run.checkpoints), 0.0)
    other.check()
    run.checkpoints.unlink()
    (tmp_path / "aside").rename(run.checkpoints)
    run.check()


def test_when_space_is_short_superseded_checkpoints_make_room(toy_run, impatient):
    """A disk with room for twelve of them, nine of which are kept."""
    run = toy_run(total_steps=2_000)

    def probe(name):
        if name == "writing-checkpoint" and len(list(run.checkpoints.glob("*/*-*"))) > 12:
            raise OSError(errno.ENOSPC, "No space left on device")

    outcome = run.work(probe=probe)
    assert outcome.exit_code == 0, outcome.message
    assert run.repeated_steps() == 0
    run.assert_complete()


# Creation.

CREATE_WITH_KILLS = """
import json, os, signal, sys
from pathlib import Path
from pbt import checkpoint, create, run, worker

directory, config = Path(sys.argv[1]), run.RunConfig.from_json(json.loads(sys.argv[2]))
fork = Path(sys.argv[3]) if len(sys.argv) > 3 else None
left = 0

def hook(event, arguments):
    global left
    touched = event in ("open", "sqlite3.connect/handle", "shutil.rmtree") or event[:3] == "os."
    if left and touched and event not in ("os.fork", "os.kill"):
        left -= 1
        if not left:
            os.kill(os.getpid(), signal.SIGKILL)

sys.addaudithook(hook)

def in_a_process(call):
    if not (pid := os.fork()):
        try:
            call()
        except BaseException as error:
            print(repr(error), flush=True)
            os._exit(1)
        os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])

def create_until(point):
    global left
    left = point
    create.open_or_create(place, config, fork).close()
    left = 0

def go_on():
    with create.open_or_create(place, config, fork, durable=False) as run_store:
        assert first_versions(run_store) == expected
        assert checkpoint.is_there(place / "checkpoints", run_store.identity())
        assert worker.run(run_store, place, durable=False).exit_code == 0
        kept = run_store.referenced_checkpoints()
    found = {f"{path.parent.name}/{path.name}" for path in place.glob("checkpoints/*/*")}
    assert found == kept, (found, kept)

def first_versions(run_store):
    return [(m.id, m.version, m.hyperparameters, bool(m.checkpoint)) for m in run_store.members()]

with create.open_or_create(directory / "reference", config, fork) as run_store:
    expected = first_versions(run_store)
point, kills, apart = 0, 0, int(sys.argv[4]) if fork else 1
while True:
    point += apart
    place = directory / f"run {point}"
    exit_code = in_a_process(lambda: create_until(point))
    if exit_code == 0:
        break
    assert exit_code == -signal.SIGKILL, exit_code
    kills += 1
    assert in_a_process(go_on) == 0, f"killed at point {point}"
print(kills, "kills")
"""


@pytest.mark.parametrize(
    ("forked", "apart"),
    [(False, 1), (True, 3), pytest.param(True, 1, marks=pytest.mark.slow)],
    ids=["draws", "fork, every third", "fork"],
)
def test_creation_may_be_killed_at_any_point(forked, apart, toy_run, tmp_path):
    """At each call that opens, makes, links, renames or deletes a file; then the same call again.

    The members are those of a creation that nobody killed, and the run goes to its end.
    """
    config = toy_run("settings", population=2, total_steps=100, exploit="none").config
    arguments = [str(tmp_path), json.dumps(config.to_json())]
    if forked:
        source = toy_run("source", population=2)
        source.work_until(4)
        arguments += [str(source.directory), str(apart)]
    result = subprocess.run(
        [sys.executable, "-c", CREATE_WITH_KILLS, *arguments],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stdout + result.stderr
    kills, _ = result.stdout.split()
    assert int(kills) >= 15


def test_a_script_begins_with_open_or_create(toy_run, tmp_path):
    config = toy_run().config
    create.open_or_create(tmp_path / "new" / "run", config).close()
    with create.open_or_create(tmp_path / "new" / "run", config) as run_store:
        assert run_store.config == config
    larger = claim.replace(config, total_steps=800)
    create.open_or_create(tmp_path / "new" / "run", larger).close()
    with create.open_or_create(tmp_path / "new" / "run", config) as run_store:
        assert run_store.config.total_steps == 800
    with pytest.raises(create.OtherSettings, match="seed: 1 -> 2"):
        create.open_or_create(tmp_path / "new" / "run", claim.replace(config, seed=2))


def test_no_new_run_over_the_checkpoints_of_a_run_whose_store_is_gone(toy_run):
    run = toy_run()
    run.work_until(8)
    run.store.path.rename(run.directory.with_name("backup"))
    before = sorted(run.checkpoints.rglob("*"))
    for begin in (create.create_run, create.open_or_create):
        with pytest.raises(ValueError, match=r"run\.sqlite3 is not in .*: put run"):
            begin(run.directory, run.config)
    (run.checkpoints / checkpoint.MARKER).unlink()  # as a run of before has none
    with pytest.raises(ValueError, match=r"run\.sqlite3 is not in .*: put run"):
        create.create_run(run.directory, run.config)
    assert sorted(run.checkpoints.rglob("*")) == [p for p in before if p.name != "RUN.json"]
    run.directory.with_name("backup").rename(run.store.path)
    with create.open_or_create(run.directory, run.config) as run_store:
        assert checkpoint.is_there(run.checkpoints, run_store.identity())
    assert run.work().exit_code == 0
    run.assert_complete()


class Bomb:
    def __init__(self, canary):
        self.canary = str(canary)

    def __reduce__(self):
        return (os.mkdir, (self.canary,))


@pytest.mark.parametrize("listed", [False, True], ids=["unlisted", "listed in the manifest"])
def test_a_pickle_is_never_executed(listed, toy_run, tmp_path):
    """B4: neither one that was slipped in, nor one that came with a manifest of its own."""
    canary = tmp_path / "canary"
    bomb = pickle.dumps(Bomb(canary))
    run = toy_run()
    run.work_until(8)
    if listed:
        lease = run.store.claim("mallory")
        member = lease.member

        def write(directory):
            (directory / "theta.safetensors").write_bytes(bomb)
            (directory / "state.json").write_bytes(bomb)

        name = checkpoint.publish(run.checkpoints, member.id, member.version + 1, write, {})
        child = claim.replace(member, version=member.version + 1, checkpoint=name)
        run.store.commit(lease, child, kind="explore", release=True)
    else:
        _rewrite(run.newest(0) / "theta.safetensors", bomb)
    assert run.work().exit_code == 0
    assert not canary.exists()
    assert run.events("failed" if listed else "restored")
    if listed:
        assert "safetensors" in run.events("crashed")[0].details["error"]
    run.assert_complete()
    pickle.loads(bomb)
    assert canary.exists()  # it was a live one


def test_a_link_out_of_the_run_is_not_followed(toy_run, tmp_path):
    run = toy_run(exploit="none")
    run.work_until(8)
    outside = tmp_path / "outside"
    run.newest(0).rename(outside)
    run.newest(0).symlink_to(outside)
    assert run.work().exit_code == 0
    assert "link" in run.events("restored")[0].details["error"]
    assert (outside / checkpoint.MANIFEST).exists()


def test_nothing_in_the_source_executes_data():
    """No pickle, no unsafe loader, no eval: by the syntax tree: words in text do not count."""
    forbidden = {"eval", "exec", "pickle.load", "pickle.loads", "yaml.load", "marshal.loads"}
    found = []
    for package in ("agents", "envs", "experiments", "pbt"):
        for path in (ROOT / package).rglob("*.py"):
            for node in ast.walk(ast.parse(path.read_text())):
                if not isinstance(node, ast.Call):
                    continue
                name = ast.unparse(node.func)
                keywords = {word.arg: ast.unparse(word.value) for word in node.keywords}
                if (
                    name in forbidden
                    or (name == "torch.load" and keywords.get("weights_only") != "True")
                    or keywords.get("allow_pickle") == "True"
                ):
                    found.append(f"{path}:{node.lineno}: {name}")
    assert not found


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EFBIG])
def test_a_full_disk_stops_the_worker_cleanly(number, toy_run, impatient):
    """B2: nothing torn, the lease given back, free and needed bytes named."""
    run = toy_run()
    run.work_until(8)
    before = run.store.members()

    def probe(name):
        if name == "writing-checkpoint":
            raise OSError(number, os.strerror(number))

    outcome = run.work(probe=probe)
    assert outcome.exit_code == verdict.EXIT_DISK_FULL
    assert "bytes free" in outcome.message
    assert "needed" in outcome.message
    after = run.store.members()
    assert [m.version for m in after] == [m.version for m in before]
    assert {m.owner for m in after} == {None}
    assert {m.attempts for m in after} == {0}  # no member's fault
    run.check()
    assert not list(run.checkpoints.glob("*/.tmp-*"))
    assert run.work().exit_code == 0
    run.assert_complete()


def test_a_disk_that_was_full_for_a_moment_costs_nothing(toy_run, impatient):
    run = toy_run(exploit="none")
    full = iter([True, True, False, True])

    def probe(name):
        if name == "writing-checkpoint" and next(full, False):
            raise OSError(errno.ENOSPC, "No space left on device")

    assert run.work(probe=probe).exit_code == 0
    run.assert_complete()
    assert run.repeated_steps() == 0
