"""Damaged, missing and hostile checkpoints, and full disks, as the engine meets them."""

import ast
import errno
import os
import pickle
import shutil
from pathlib import Path

import pytest

from pbt import checkpoint, claim, disk, verdict

ROOT = Path(__file__).parents[2]


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
    assert outcome.exit_code == 0
    assert "finished: 3 of 4 members; the others" in outcome.message
    assert f"failed for good and left {400 - steps} agent steps unspent" in outcome.message
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


@pytest.fixture
def impatient(monkeypatch):
    monkeypatch.setattr(disk, "PAUSES_S", (0.01, 0.01))


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
