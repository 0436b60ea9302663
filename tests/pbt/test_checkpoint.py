import errno
import hashlib
import json
import os
import pickle
import shutil
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from pbt import checkpoint, files

REPOSITORY = Path(checkpoint.__file__).parents[1]
FILES = {"weights.safetensors": bytes(range(256)) * 9, "state.json": b'{"updates": 3}'}


def write(directory):
    for name, content in FILES.items():
        (directory / name).write_bytes(content)


def publish(root, member=3, version=7, write=write, **manifest):
    return checkpoint.publish(root, member, version, write, manifest, durable=False)


def read_manifest(root, name):
    return json.loads((root / name / checkpoint.MANIFEST).read_bytes())


def forge(root, name, change):
    """Rewrite a manifest as somebody would who knows the format: with a digest that is right."""
    path = root / name / "manifest.json"
    content = json.loads(path.read_bytes())
    content.pop("digest")
    change(content)
    path.unlink()
    text = json.dumps(content, indent=1, sort_keys=True).encode()
    content["digest"] = hashlib.sha256(text).hexdigest()
    path.write_bytes(json.dumps(content, indent=1, sort_keys=True).encode() + b"\n")


def overwrite(path, content):
    path.unlink()
    path.write_bytes(content)


def refused(root, name, member=3, version=7):
    with pytest.raises(checkpoint.CheckpointError) as raised:
        checkpoint.open_verified(root, name, member, version)
    assert f"member {member}" in str(raised.value)
    return str(raised.value)


def test_what_was_published_is_what_is_opened(tmp_path):
    hyperparameters = {"lr": 0.1 + 0.2, "ünrøll": 20}
    name = checkpoint.publish(
        tmp_path / "new" / "root",
        3,
        7,
        write,
        {"hyperparameters": hyperparameters, "parent": [1, 2]},
    )
    root = tmp_path / "new" / "root"
    directory = checkpoint.open_verified(root, name, 3, 7)
    assert directory == root / name
    assert {path.name: path.read_bytes() for path in directory.iterdir()}.items() >= FILES.items()
    manifest = read_manifest(root, name)
    assert manifest["hyperparameters"] == hyperparameters
    assert (manifest["parent"], manifest["format"]) == ([1, 2], checkpoint.FORMAT)
    for file_name, content in FILES.items():
        assert manifest["files"][file_name] == {
            "sha256": hashlib.sha256(content).hexdigest(),
            "bytes": len(content),
        }


def test_two_tries_at_the_same_version_do_not_meet(tmp_path):
    names = {publish(tmp_path) for _ in range(5)}
    assert len(names) == 5
    for name in names:
        checkpoint.open_verified(tmp_path, name, 3, 7)


def test_published_files_cannot_be_written_to_by_mistake(tmp_path):
    name = publish(tmp_path)
    for path in (tmp_path / name).iterdir():
        assert path.stat().st_mode & 0o222 == 0


def test_it_is_synced_before_it_has_its_name(tmp_path, monkeypatch):
    """Files, then their directory, then the rename, then the directory that holds the name."""
    calls = []
    real_fsync, real_rename = os.fsync, os.rename

    def fsync(descriptor):
        calls.append(Path(os.readlink(f"/proc/self/fd/{descriptor}")).name)
        real_fsync(descriptor)

    def rename(source, target):
        calls.append("rename")
        real_rename(source, target)

    monkeypatch.setattr(os, "fsync", fsync)
    monkeypatch.setattr(os, "rename", rename)
    checkpoint.publish(tmp_path / "c", 3, 7, write, {})
    assert calls[0] == "c"
    assert set(calls[1:4]) == {*FILES, "manifest.json"}
    assert calls[4].startswith(".tmp-")
    assert calls[5:] == ["rename", "3"]


# Damage.


@pytest.mark.parametrize("file_name", [*FILES, "manifest.json"])
@pytest.mark.parametrize("cut", ["0", "1", "half", "n-1"])
def test_torn_files_are_refused(tmp_path, file_name, cut):
    name = publish(tmp_path, parent=None)
    path = tmp_path / name / file_name
    content = path.read_bytes()
    length = {"0": 0, "1": 1, "half": len(content) // 2, "n-1": len(content) - 1}[cut]
    overwrite(path, content[:length])
    assert f"{name}/{file_name}" in refused(tmp_path, name)


@pytest.mark.parametrize("file_name", [*FILES, "manifest.json"])
def test_flipped_bits_are_refused(tmp_path, file_name):
    """One bit in each byte, also of the manifest's white space (in every 7th of the large file)."""
    name = publish(tmp_path, hyperparameters={"lr": 0.25}, parent=[3, 4])
    path = tmp_path / name / file_name
    content = path.read_bytes()
    path.chmod(0o644)
    step = 1 if len(content) < 600 else 7
    for position in range(0, len(content), step):
        bit = 1 << (position % 8)
        flipped = bytearray(content)
        flipped[position] ^= bit
        path.write_bytes(flipped)
        assert f"{name}/{file_name}" in refused(tmp_path, name)
    path.write_bytes(content)
    checkpoint.open_verified(tmp_path, name, 3, 7)


@pytest.mark.parametrize("file_name", [*FILES, "manifest.json"])
def test_missing_files_are_named(tmp_path, file_name):
    name = publish(tmp_path)
    (tmp_path / name / file_name).unlink()
    message = refused(tmp_path, name)
    assert f"{name}/{file_name}" in message
    assert "missing" in message


def test_extra_files_directories_and_links_are_refused(tmp_path):
    name = publish(tmp_path)
    directory = tmp_path / name
    (directory / "extra.bin").write_bytes(b"x")
    assert "extra.bin is not in the manifest" in refused(tmp_path, name)
    (directory / "extra.bin").unlink()
    (directory / "deeper").mkdir()
    assert "deeper is no plain file" in refused(tmp_path, name)
    (directory / "deeper").rmdir()
    os.mkfifo(directory / "pipe")  # opening it would wait for ever
    assert "pipe is no plain file" in refused(tmp_path, name)
    (directory / "pipe").unlink()
    checkpoint.open_verified(tmp_path, name, 3, 7)


def test_a_missing_checkpoint_is_named(tmp_path):
    assert "3/7-0123456789abcdef is missing" in refused(tmp_path, "3/7-0123456789abcdef")


@pytest.mark.parametrize(
    ("row", "problem"),
    [
        ({"agent_steps": 700}, None),
        ({"agent_steps": 700, "hyperparameters": {"lr": 0.25, "n": 3.0}}, None),
        ({"agent_steps": 800}, "agent_steps 700, but the row of member 3 version 7 in the store"),
        ({"hyperparameters": {"lr": 0.26, "n": 3.0}}, "hyperparameters {'lr': 0.25, 'n': 3}, but"),
        ({"hyperparameters": {"lr": 0.25}}, "hyperparameters"),
    ],
)
def test_a_manifest_must_say_what_the_row_says(tmp_path, row, problem):
    name = publish(tmp_path, agent_steps=700, hyperparameters={"lr": 0.25, "n": 3})
    unsaid = publish(tmp_path)  # as runs of before and forks write it
    checkpoint.open_verified(tmp_path, unsaid, 3, 7, row)
    if problem is None:
        checkpoint.open_verified(tmp_path, name, 3, 7, row)
        return
    with pytest.raises(checkpoint.CheckpointError, match=problem) as raised:
        checkpoint.open_verified(tmp_path, name, 3, 7, row)
    assert f"{name}/manifest.json" in str(raised.value)


# Not there.

IDENTITY = {"created_s": 1.25, "seed": 0}


def test_a_marked_directory_is_there(tmp_path):
    root = tmp_path / "new" / "checkpoints"
    assert not checkpoint.is_there(root, IDENTITY)
    checkpoint.mark(root, IDENTITY)
    checkpoint.check_there(root, IDENTITY)
    before = (root / "RUN.json").stat()
    checkpoint.mark(root, IDENTITY)
    assert (root / "RUN.json").stat().st_mtime_ns == before.st_mtime_ns  # written once
    assert [path.name for path in root.iterdir()] == ["RUN.json"]


def test_another_runs_directory_is_refused_and_left_alone(tmp_path):
    checkpoint.mark(tmp_path, IDENTITY)
    other = {**IDENTITY, "seed": 1}
    assert not checkpoint.is_there(tmp_path, other)
    for use in (checkpoint.mark, checkpoint.check_there):
        with pytest.raises(checkpoint.NotThere, match="another run's"):
            use(tmp_path, other)
    assert not checkpoint.adopt(tmp_path, other, set())
    checkpoint.check_there(tmp_path, IDENTITY)


def test_a_directory_of_before_is_adopted_if_it_holds_a_named_checkpoint(tmp_path):
    name = publish(tmp_path / "root")
    lost = "3/8-0123456789abcdef"
    (tmp_path / "mount point").mkdir()
    for root, names, adopted in (
        (tmp_path / "missing", {name}, False),
        (tmp_path / "mount point", {name}, False),
        (tmp_path / "root", {lost}, False),
        (tmp_path / "root", {lost, name}, True),
        (tmp_path / "untrained", set(), True),
    ):
        assert checkpoint.adopt(root, IDENTITY, names) == adopted, root
        assert checkpoint.is_there(root, IDENTITY) == adopted
    assert not (tmp_path / "missing").exists()


@pytest.mark.parametrize("content", [b"", b"{", b"\xff", b"null"])
def test_a_damaged_mark_is_written_again(tmp_path, content):
    name = publish(tmp_path)
    (tmp_path / "RUN.json").write_bytes(content)
    assert not checkpoint.is_there(tmp_path, IDENTITY)
    assert checkpoint.adopt(tmp_path, IDENTITY, {name})


@pytest.mark.parametrize("how", ["moved", "empty", "dangling", "loop", "a file"])
def test_a_directory_that_is_not_there_is_not_damaged(tmp_path, how):
    root = tmp_path / "checkpoints"
    checkpoint.mark(root, IDENTITY)
    name = publish(root)
    root.rename(tmp_path / "elsewhere")
    if how == "empty":
        root.mkdir()
    elif how == "dangling":
        root.symlink_to(tmp_path / "unmounted")
    elif how == "loop":
        root.symlink_to(root)
    elif how == "a file":
        root.touch()
    assert not checkpoint.is_there(root, IDENTITY)
    with pytest.raises(checkpoint.NotThere, match="member 3"):
        checkpoint.open_verified(root, name, 3, 7)
    with pytest.raises(checkpoint.NotThere):
        checkpoint.child_of(root, name, 3, 7, 1, 1, {})
    assert checkpoint.collect(root, set(), 0) == []
    if how != "moved":
        root.rmdir() if how == "empty" else root.unlink()
    (tmp_path / "elsewhere").rename(root)
    checkpoint.check_there(root, IDENTITY)
    checkpoint.open_verified(root, name, 3, 7)


def test_a_checkpoint_that_is_gone_from_a_directory_that_is_there_is_lost(tmp_path):
    checkpoint.mark(tmp_path, IDENTITY)
    name = publish(tmp_path)
    (tmp_path / name / "state.json").unlink()
    for lost in (name, "3/7-0123456789abcdef"):
        with pytest.raises(checkpoint.CheckpointError, match="is missing") as raised:
            checkpoint.open_verified(tmp_path, lost, 3, 7)
        assert not isinstance(raised.value, checkpoint.NotThere)


@pytest.mark.parametrize("code", [errno.EIO, errno.ESTALE, errno.EACCES, errno.ENOTCONN])
def test_what_the_disk_does_not_give_out_is_not_damaged(tmp_path, monkeypatch, code):
    checkpoint.mark(tmp_path, IDENTITY)
    name = publish(tmp_path)

    def fail(path):
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(checkpoint, "digest", fail)
    with pytest.raises(checkpoint.NotThere, match=f"delete {tmp_path / name}"):
        checkpoint.open_verified(tmp_path, name, 3, 7)


# Somebody else's, and malice.


def test_the_manifest_of_another_member_or_version_is_refused(tmp_path):
    name = publish(tmp_path)
    with pytest.raises(checkpoint.CheckpointError, match="not a checkpoint of member 4 version 7"):
        checkpoint.open_verified(tmp_path, name, 4, 7)
    with pytest.raises(checkpoint.CheckpointError, match="not a checkpoint of member 3 version 8"):
        checkpoint.open_verified(tmp_path, name, 3, 8)
    other = publish(tmp_path, member=5)
    shutil.copytree(tmp_path / other, tmp_path / "3" / "7-00000000000000aa")
    assert "is of member 5 version 7" in refused(tmp_path, "3/7-00000000000000aa")
    forge(tmp_path, name, lambda content: content.update(version=6))
    assert "version 6" in refused(tmp_path, name)


@pytest.mark.parametrize(
    "name",
    [
        "../outside/7-0123456789abcdef",
        "3/../../outside",
        "3/7-0123456789abcdef/..",
        "3//7-0123456789abcdef",
        "/etc/7-0123456789abcdef",
        "3/.tmp-0123456789abcdef",
        "3/7-0123456789ABCDEF",
        "03/7-0123456789abcdef",
        "٣/7-0123456789abcdef",
        "3/7-0123456789abcdef\n",
        "3",
        "",
        ".",
        None,
        7,
    ],
)
def test_names_that_could_lead_elsewhere_are_refused(tmp_path, name):
    publish(tmp_path)
    publish(tmp_path / "outside")
    refused(tmp_path, name)


@pytest.mark.parametrize(
    "file_name", ["../../../secret", "/etc/passwd", "..", ".", "", "a/b", "a\0b", "manifest.json"]
)
def test_manifests_cannot_name_files_elsewhere(tmp_path, file_name):
    (tmp_path / "secret").write_bytes(b"s")
    entry = {"sha256": hashlib.sha256(b"s").hexdigest(), "bytes": 1}
    name = publish(tmp_path / "root")
    forge(tmp_path / "root", name, lambda content: content["files"].update({file_name: entry}))
    assert repr(file_name) in refused(tmp_path / "root", name)
    with pytest.raises(checkpoint.CheckpointError):
        checkpoint.child_of(tmp_path / "root", name, 3, 7, 1, 1, {})


@pytest.mark.parametrize(
    "change",
    [
        lambda content: content.update(files=[]),
        lambda content: content.update(files={"state.json": None}),
        lambda content: content["files"]["state.json"].update(bytes="14"),
        lambda content: content["files"]["state.json"].update(sha256=None),
        lambda content: content.pop("files"),
        lambda content: content.update(format=0),
        lambda content: content.update(member="3"),
    ],
)
def test_manifests_of_another_shape_are_refused(tmp_path, change):
    name = publish(tmp_path)
    forge(tmp_path, name, change)
    assert "manifest.json" in refused(tmp_path, name)


def test_newer_formats_are_refused_with_the_way_out(tmp_path):
    name = publish(tmp_path)
    forge(tmp_path, name, lambda content: content.update(format=checkpoint.FORMAT + 1))
    assert "update this code" in refused(tmp_path, name)


@pytest.mark.parametrize(
    "content", [b"", b"[]", b"null", b"3", b"{}", b"\xff\xfe", b"[" * 100_000, b" " * 5_000_000]
)
def test_manifests_that_are_none_are_refused(tmp_path, content):
    name = publish(tmp_path)
    overwrite(tmp_path / name / "manifest.json", content)
    refused(tmp_path, name)


def test_a_pickle_is_never_executed(tmp_path):
    """It is a file like any other to us: its bytes are hashed, moved and nothing else."""
    canary = tmp_path / "canary"

    class Malice:
        def __reduce__(self):
            return (Path.touch, (canary,))

    payload = pickle.dumps(Malice())
    name = publish(tmp_path / "root")
    path = tmp_path / "root" / name / "weights.safetensors"
    overwrite(path, payload)
    refused(tmp_path / "root", name)
    overwrite(tmp_path / "root" / name / "manifest.json", payload)
    refused(tmp_path / "root", name)
    with pytest.raises(checkpoint.CheckpointError):
        checkpoint.child_of(tmp_path / "root", name, 3, 7, 1, 1, {})
    checkpoint.collect(tmp_path / "root", set(), 0)
    assert not canary.exists()


@pytest.mark.parametrize("level", ["file", "manifest", "directory", "member"])
def test_links_out_of_the_run_are_refused_and_never_followed(tmp_path, level):
    outside, root = tmp_path / "outside", tmp_path / "root"
    name = publish(outside)
    shutil.copytree(outside, root)
    link = {
        "file": root / name / "state.json",
        "manifest": root / name / "manifest.json",
        "directory": root / name,
        "member": root / "3",
    }[level]
    if link.is_dir():
        shutil.rmtree(link)
    else:
        link.unlink()
    link.symlink_to(outside / link.relative_to(root))
    refused(root, name)
    with pytest.raises(checkpoint.CheckpointError):
        checkpoint.child_of(root, name, 3, 7, 1, 1, {})
    checkpoint.collect(root, set(), 0)
    checkpoint.open_verified(outside, name, 3, 7)


# Children.


def test_a_child_shares_files_but_not_the_manifest(tmp_path):
    donor = publish(tmp_path, hyperparameters={"lr": 1.0})
    child = checkpoint.child_of(
        tmp_path, donor, 3, 7, 5, 2, {"hyperparameters": {"lr": 1.2}, "parent": [3, 7]}
    )
    assert child.startswith("5/2-")
    directory = checkpoint.open_verified(tmp_path, child, 5, 2)
    for name in FILES:
        assert (directory / name).samefile(tmp_path / donor / name)
    assert read_manifest(tmp_path, child)["hyperparameters"] == {"lr": 1.2}
    assert read_manifest(tmp_path, donor)["hyperparameters"] == {"lr": 1.0}
    checkpoint.collect(tmp_path, {child}, 0)
    assert not (tmp_path / donor).exists()
    checkpoint.open_verified(tmp_path, child, 5, 2)


@pytest.mark.parametrize("code", [errno.EXDEV, errno.EPERM, errno.EMLINK])
def test_where_links_cannot_be_made_a_child_is_a_copy(tmp_path, monkeypatch, code):
    def link(*_, **__):
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(os, "link", link)
    donor = publish(tmp_path / "one")
    child = checkpoint.child_of(
        tmp_path / "two", donor, 3, 7, 5, 2, {}, donor_root=tmp_path / "one"
    )
    directory = checkpoint.open_verified(tmp_path / "two", child, 5, 2)
    assert not (directory / "state.json").samefile(tmp_path / "one" / donor / "state.json")


def test_a_donor_that_is_gone_or_of_another_version_leaves_no_child(tmp_path):
    donor = publish(tmp_path)
    with pytest.raises(checkpoint.CheckpointError):
        checkpoint.child_of(tmp_path, donor, 3, 6, 5, 2, {})
    shutil.rmtree(tmp_path / donor)
    with pytest.raises(checkpoint.CheckpointError, match="missing"):
        checkpoint.child_of(tmp_path, donor, 3, 7, 5, 2, {})
    assert not list(tmp_path.glob("5/*"))


def test_a_donor_that_vanishes_while_it_is_linked_leaves_no_child(tmp_path, monkeypatch):
    donor = publish(tmp_path)
    real_link = os.link

    def link(source, target, **arguments):
        shutil.rmtree(tmp_path / donor, ignore_errors=True)
        real_link(source, target, **arguments)

    monkeypatch.setattr(os, "link", link)
    with pytest.raises(checkpoint.CheckpointError, match="missing"):
        checkpoint.child_of(tmp_path, donor, 3, 7, 5, 2, {})
    assert not list(tmp_path.glob("5/*"))


# Failing writes.


def test_no_space_leaves_nothing_behind(tmp_path):
    def full(directory):
        write(directory)
        raise OSError(errno.ENOSPC, "No space left on device")

    with pytest.raises(OSError, match="No space left"):
        publish(tmp_path, write=full)
    assert list((tmp_path / "3").iterdir()) == []


def test_a_file_size_limit_while_writing_leaves_nothing_behind(tmp_path):
    """A real limit of the kernel's, in a real process."""
    script = f"""
import resource, signal, sys
from pathlib import Path
sys.path.insert(0, {str(REPOSITORY)!r})
from pbt import checkpoint
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
def write(directory):
    (directory / "weights").write_bytes(bytes(200_000))
try:
    checkpoint.publish(Path(sys.argv[1]), 3, 7, write, {{}})
except OSError as error:
    print("errno", error.errno)
"""
    result = subprocess.run(
        [sys.executable, "-c", script, str(tmp_path)], capture_output=True, text=True, check=True
    )
    assert result.stdout.split() == ["errno", str(errno.EFBIG)]
    assert list((tmp_path / "3").iterdir()) == []


@pytest.mark.parametrize(
    ("manifest", "problem"),
    [
        ({"lr": float("nan")}, "finite JSON"),
        ({"lr": object()}, "finite JSON"),
        ({"files": {}}, "files are written by publish"),
    ],
)
def test_bad_manifests_leave_nothing_behind(tmp_path, manifest, problem):
    with pytest.raises(ValueError, match=problem):
        publish(tmp_path, **manifest)
    assert not list(tmp_path.glob("*/*"))


@pytest.mark.parametrize("kind", ["directory", "link", "manifest"])
def test_tasks_may_save_plain_files_only(tmp_path, kind):
    def odd(directory):
        write(directory)
        if kind == "directory":
            (directory / "odd").mkdir()
        elif kind == "link":
            (directory / "odd").symlink_to("/etc/passwd")
        else:
            (directory / "manifest.json").write_text("{}")

    with pytest.raises(ValueError, match="plain files only"):
        publish(tmp_path, write=odd)
    assert not list(tmp_path.glob("3/*"))


@pytest.mark.parametrize(("member", "version"), [(-1, 0), (0, -1), ("../x", 0), (0, 10**12)])
def test_odd_ids_are_refused(tmp_path, member, version):
    with pytest.raises(ValueError, match="no small natural numbers"):
        publish(tmp_path, member=member, version=version)
    assert list(tmp_path.iterdir()) == []


def test_a_kill_while_writing_leaves_only_what_is_collected(tmp_path):
    script = f"""
import os, signal, sys
from pathlib import Path
sys.path.insert(0, {str(REPOSITORY)!r})
from pbt import checkpoint
def write(directory):
    (directory / "weights").write_bytes(bytes(1000))
    os.kill(os.getpid(), signal.SIGKILL)
checkpoint.publish(Path(sys.argv[1]), 3, 7, write, {{}})
"""
    kept = publish(tmp_path)
    result = subprocess.run([sys.executable, "-c", script, str(tmp_path)], check=False)
    assert result.returncode == -9
    remains = [path for path in (tmp_path / "3").iterdir() if path.name.startswith(".tmp-")]
    assert len(remains) == 1
    # Nobody lives who could complete it, so it needs no grace.
    assert checkpoint.collect(tmp_path, {kept}, 3600) == []
    assert not remains[0].exists()
    checkpoint.open_verified(tmp_path, kept, 3, 7)


# Collection.


def age(path, seconds):
    """Make a directory and all in it older, as if it had been written before."""
    for entry in [path, *path.iterdir()]:
        moment = entry.stat().st_mtime - seconds
        os.utime(entry, (moment, moment))


def test_only_what_is_old_and_unnamed_goes(tmp_path):
    names = [publish(tmp_path, member, version) for member in (0, 1) for version in range(4)]
    for name in names[:6]:
        age(tmp_path / name, 100)
    removed = checkpoint.collect(tmp_path, {names[0], names[5]}, 50)
    assert sorted(removed) == sorted(names[1:5])
    for name, (member, version) in zip(
        names, [(m, v) for m in (0, 1) for v in range(4)], strict=True
    ):
        if name in removed:
            assert not (tmp_path / name).exists()
        else:
            checkpoint.open_verified(tmp_path, name, member, version)


def test_what_a_living_writer_writes_is_kept_however_old(tmp_path):
    """Also while it writes one large file, or sleeps with the laptop's lid closed."""
    script = f"""
import os, sys
from pathlib import Path
sys.path.insert(0, {str(REPOSITORY)!r})
from pbt import checkpoint
def write(directory):
    (directory / "weights").write_bytes(bytes(1000))
    os.utime(directory / "weights", (0, 0))
    os.utime(directory, (0, 0))
    print("writing", flush=True)
    sys.stdin.readline()
print(checkpoint.publish(Path(sys.argv[1]), 3, 7, write, {{}}))
"""
    writers = [
        subprocess.Popen(
            [sys.executable, "-c", script, str(tmp_path)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for _ in range(2)
    ]
    try:
        for writer in writers:
            assert writer.stdout.readline() == "writing\n"
        checkpoint.collect(tmp_path, set(), 0)
        assert len(list(tmp_path.glob("3/.tmp-*"))) == 2
        writers[0].kill()
        writers[0].wait()
        checkpoint.collect(tmp_path, set(), 0)
        assert len(list(tmp_path.glob("3/.tmp-*"))) == 1
        name, _ = writers[1].communicate("go on\n")
        checkpoint.open_verified(tmp_path, name.strip(), 3, 7)
        assert not list(tmp_path.glob("3/.tmp-*"))
    finally:
        for writer in writers:
            writer.kill()
            writer.communicate()


def test_a_writer_that_meets_a_collector_begins_again(tmp_path, monkeypatch):
    """The collector comes between the directory's creation and its lock."""
    real_flock = checkpoint.fcntl.flock
    met = []

    def flock(descriptor, operation):
        if not met:
            met.append(os.readlink(f"/proc/self/fd/{descriptor}"))
            shutil.rmtree(met[0])
        real_flock(descriptor, operation)

    monkeypatch.setattr(checkpoint.fcntl, "flock", flock)
    checkpoint.open_verified(tmp_path, publish(tmp_path), 3, 7)
    assert met


def test_without_locks_temporary_directories_go_by_their_age(tmp_path, monkeypatch):
    def flock(descriptor, operation):
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr(checkpoint.fcntl, "flock", flock)
    checkpoint.open_verified(tmp_path, publish(tmp_path), 3, 7)
    temporary = tmp_path / "3" / ".tmp-abc"
    temporary.mkdir(parents=True)
    (temporary / "weights").write_bytes(b"x")
    os.utime(temporary, (0, 0))
    checkpoint.collect(tmp_path, set(), 50)
    assert temporary.exists()
    age(temporary, files.OLD_S + 100)
    checkpoint.collect(tmp_path, set(), 50)
    assert not temporary.exists()


def test_what_no_row_will_need_goes_without_grace(tmp_path):
    names = [publish(tmp_path, 0, version) for version in range(4)]
    asked = []

    def unneeded(those):
        asked.extend(those)
        return {names[0], names[3]}

    removed = checkpoint.collect(tmp_path, {names[3]}, 3600, unneeded)
    assert removed == [names[0]]  # what is kept is kept
    assert sorted(asked) == sorted(names[:3])


def test_old_temporary_files_go_and_others_stay(tmp_path):
    old, young, directory = tmp_path / ".a.tmp", tmp_path / ".b.tmp", tmp_path / ".c.tmp"
    old.touch()
    young.touch()
    (tmp_path / "mine").touch()
    directory.mkdir()
    (directory / "file").touch()
    for path in (old, tmp_path / "mine", directory):
        os.utime(path, (0, 0))
    files.remove_old(tmp_path, ".*.tmp")
    assert sorted(path.name for path in tmp_path.iterdir()) == [".b.tmp", "mine"]
    files.remove_old(tmp_path / "missing", "*")


def test_what_is_committed_while_collecting_is_kept(tmp_path):
    """Listed before it was named, named before it would be deleted: the reference counts."""
    named = set()
    name = publish(tmp_path)

    def referenced():
        named.add(name)  # the commit falls between listing and reading the references
        return named

    assert checkpoint.collect(tmp_path, referenced, 0) == []
    checkpoint.open_verified(tmp_path, name, 3, 7)


def test_what_is_not_ours_is_left_alone(tmp_path):
    for path in (
        "notes.txt",
        "3/readme",
        "3/7-short",
        "other/7-0123456789abcdef/x",
        "lost+found/a",
    ):
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_text("mine")
    before = sorted(tmp_path.rglob("*"))
    assert checkpoint.collect(tmp_path, set(), 0) == []
    assert checkpoint.collect(tmp_path / "missing", set(), 0) == []
    assert sorted(tmp_path.rglob("*")) == before


def test_an_interrupted_collection_is_finished_by_the_next(tmp_path, monkeypatch):
    names = [publish(tmp_path, 0, version) for version in range(3)]

    class Killed(BaseException):
        pass

    def die(path, **_):
        (path / "state.json").unlink()
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(shutil, "rmtree", die)
        with pytest.raises(Killed):
            checkpoint.collect(tmp_path, {names[2]}, 0)
    # What is there under its own name is whole, also now.
    for version, name in enumerate(names):
        if (tmp_path / name).exists():
            checkpoint.open_verified(tmp_path, name, 0, version)
    checkpoint.collect(tmp_path, {names[2]}, 0)
    assert [path.name for path in (tmp_path / "0").iterdir()] == [names[2].split("/")[1]]


def test_concurrent_collectors_delete_each_checkpoint_once(tmp_path):
    names = [publish(tmp_path, member, version) for member in range(4) for version in range(15)]
    keep = set(names[::5])
    removed, failures = [], []
    barrier = threading.Barrier(6)

    def collector():
        barrier.wait()
        try:
            removed.extend(checkpoint.collect(tmp_path, keep, 0))
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=collector) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    assert sorted(removed) == sorted(set(names) - keep)
    left = {f"{path.parent.name}/{path.name}" for path in tmp_path.glob("*/*")}
    assert left == keep


def test_the_engine_loads_no_learning_library():
    script = (
        "import sys, pbt.checkpoint, pbt.store; print({'torch', 'safetensors'} & set(sys.modules))"
    )
    result = subprocess.run(
        [sys.executable, "-c", script], cwd=REPOSITORY, capture_output=True, text=True, check=True
    )
    assert result.stdout.strip() == "set()"
