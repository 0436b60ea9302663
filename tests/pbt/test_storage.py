"""Where checkpoints are: one suite over a directory, objects in a folder, and objects on S3."""

import hashlib
import json
import os
import secrets
import shutil
import signal
import threading
import time

import pytest

import s3_server as s3_servers
from pbt import checkpoint, manifests, objects, storage

FILES = {"weights.safetensors": bytes(range(256)) * 9, "state.json": b'{"updates": 3}', "none": b""}
IDENTITY = {"created_s": 1.25, "seed": 0}


def write(directory, files=FILES):
    for name, content in files.items():
        (directory / name).write_bytes(content)


def publish(place, member=3, version=7, files=FILES, **manifest):
    return place.publish(member, version, lambda directory: write(directory, files), manifest)


def contents(directory):
    return {path.name: path.read_bytes() for path in directory.iterdir()}


class Machines:
    """Machines that see one place. Those that share objects have caches of their own."""

    def __init__(self, kind, tmp_path, url):
        self.kind, self.tmp_path, self.url = kind, tmp_path, url
        self.made = 0

    def place(self):
        self.made += 1
        if self.kind == "directory":
            return storage.Directory(self.tmp_path / "checkpoints", durable=False)
        return objects.Objects(self.url, self.tmp_path / f"cache-{self.made}")

    def damage(self, name, what):
        """Change a file, or delete it with None, behind everybody's back."""
        if self.kind == "directory":
            path = self.tmp_path / "checkpoints" / name / "weights.safetensors"
            path.unlink()
            if what is not None:
                path.write_bytes(what)
            return
        bucket = self.place()._bucket
        digest = hashlib.sha256(FILES["weights.safetensors"]).hexdigest()
        bucket.delete(f"blobs/{digest}") if what is None else bucket.write(f"blobs/{digest}", what)

    def files(self):
        if self.kind == "directory":
            root = self.tmp_path / "checkpoints"
            return {str(path.relative_to(root)) for path in root.rglob("*") if path.is_file()}
        return {one.key for one in self.place()._bucket.list()}


@pytest.fixture(params=["directory", "folder", "s3"])
def machines(request, tmp_path):
    if request.param == "s3":
        url = request.getfixturevalue("s3_server").url(f"run-{secrets.token_hex(4)}")
    else:
        url = f"file://{tmp_path}/objects"
    return Machines(request.param, tmp_path, url)


def test_what_one_machine_publishes_another_one_opens(machines):
    here, there = machines.place(), machines.place()
    here.mark(IDENTITY)
    name = publish(here, agent_steps=70, parent=[1, 2])
    for place in (here, there):
        directory = place.open_verified(name, 3, 7, {"agent_steps": 70})
        assert directory == place.local / name
        found = contents(directory)
        manifest = json.loads(found.pop("manifest.json"))
        assert found == FILES
        assert (manifest["parent"], manifest["agent_steps"]) == ([1, 2], 70)
        with pytest.raises(checkpoint.CheckpointError, match="in the store has 71"):
            place.open_verified(name, 3, 7, {"agent_steps": 71})
        with pytest.raises(checkpoint.CheckpointError, match="not a checkpoint of member 4"):
            place.open_verified(name, 4, 7)
    with pytest.raises(checkpoint.CheckpointError, match="no name of a checkpoint"):
        here.open_verified("../7-0123456789abcdef", 3, 7)
    with pytest.raises(ValueError, match="written by publish itself"):
        publish(here, files={}, member_of="x", version_of="y", **{"format": 3})


def test_a_mark_tells_whose_they_are(machines):
    place = machines.place()
    assert not place.is_used()
    with pytest.raises(checkpoint.NotThere, match=r"RUN\.json"):
        place.check_there(IDENTITY)
    publish(place, version=0)
    assert not place.is_used()  # the remains of a killed fork
    name = publish(place)
    assert place.is_used()
    assert not place.adopt(IDENTITY, {"3/8-0123456789abcdef"})
    assert place.adopt(IDENTITY, {name})
    assert machines.place().is_there(IDENTITY)
    other = {**IDENTITY, "seed": 1}
    assert not place.adopt(other, set())
    for use in (place.mark, place.check_there):
        with pytest.raises(checkpoint.NotThere, match="another run's"):
            use(other)


def test_a_child_copies_nothing_and_outlives_its_donor(machines):
    here, there = machines.place(), machines.place()
    here.mark(IDENTITY)
    donor = publish(here)
    there.open_verified(donor, 3, 7)
    before = machines.files()
    child = there.child_of(donor, 3, 7, 5, 2, {"parent": [3, 7]})
    new = machines.files() - before
    assert f"{child}/manifest.json" in new
    assert not any(key.startswith("blobs/") for key in new)
    assert here.collect(lambda: {child}, 0.0) == [donor]
    for place in (here, there, machines.place()):
        found = contents(place.open_verified(child, 5, 2))
        assert json.loads(found.pop("manifest.json"))["parent"] == [3, 7]
        assert found == FILES


@pytest.mark.parametrize("what", [None, b"", b"x", FILES["weights.safetensors"][:-1] + b"?"])
def test_damage_is_found_and_names_the_file(machines, what):
    here = machines.place()
    here.mark(IDENTITY)
    name = publish(here)
    machines.damage(name, what)
    with pytest.raises(checkpoint.CheckpointError, match=r"weights\.safetensors is") as raised:
        machines.place().open_verified(name, 3, 7)
    assert not isinstance(raised.value, checkpoint.NotThere)
    assert f"member 3: {name}/weights" in str(raised.value)


def test_a_checkpoint_that_is_nowhere_is_missing(machines):
    place = machines.place()
    with pytest.raises(checkpoint.NotThere):
        place.open_verified("3/7-0123456789abcdef", 3, 7)
    place.mark(IDENTITY)
    with pytest.raises(checkpoint.Missing, match="member 3: 3/7-0123456789abcdef"):
        place.open_verified("3/7-0123456789abcdef", 3, 7)


def test_collection_keeps_what_is_named_pinned_or_young(machines):
    here, there = machines.place(), machines.place()
    here.mark(IDENTITY)
    names = [publish(here, 1, n, {"w": bytes([n]), "same": b"s"}) for n in range(4)]
    there.open_verified(names[0], 1, 0)
    named = set()

    def referenced():
        named.update(names[2:])  # committed after the listing
        return named

    assert there.collect(referenced, 3600.0) == []
    assert there.collect(referenced, 3600.0, lambda names_: {names[0], names[3]}) == [names[0]]
    assert there.collect(referenced, 0.0) == [names[1]]
    for n in (2, 3):
        found = contents(machines.place().open_verified(names[n], 1, n))
        assert (found["w"], found["same"]) == (bytes([n]), b"s")
    for n in (0, 1):
        with pytest.raises(checkpoint.CheckpointError):
            machines.place().open_verified(names[n], 1, n)
    kept = sum(key.startswith("blobs/") for key in machines.files())
    assert kept == (0 if machines.kind == "directory" else 3)


def test_publishers_and_a_collector_at_the_same_time(machines):
    """All publish the same bytes, while what nobody names is swept again and again."""
    machines.place().mark(IDENTITY)
    named, failures = set(), []
    over = threading.Event()

    def publisher(member):
        place = machines.place()
        try:
            for version in range(4):
                name = publish(place, member, version, {"same": b"s" * 99, "own": bytes([member])})
                named.add(name)
        except BaseException as error:
            failures.append(error)

    def collector():
        place = machines.place()
        try:
            while not over.is_set():
                place.collect(lambda: set(named), 30.0)
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=publisher, args=(member,)) for member in range(3)]
    sweeper = threading.Thread(target=collector)
    for thread in (sweeper, *threads):
        thread.start()
    for thread in threads:
        thread.join()
    over.set()
    sweeper.join()
    assert failures == []
    assert len(named) == 12
    for name in named:
        member, version = map(int, name.partition("-")[0].split("/"))
        machines.place().open_verified(name, member, version)


# Objects.


def test_a_small_file_is_read_on_other_machines_and_is_no_checkpoint(machines):
    here, there = machines.place(), machines.place()
    here.mark(IDENTITY)
    assert there.read_text("files.json") is None
    here.write_text("files.json", "one")
    here.write_text("files.json", "two \N{SNOWMAN}")
    assert there.read_text("files.json") == "two \N{SNOWMAN}"
    name = publish(here)
    assert here.collect(lambda: {name}, 0.0) == []
    assert there.read_text("files.json") == "two \N{SNOWMAN}"
    assert there.is_there(IDENTITY)
    assert contents(there.open_verified(name, 3, 7)).keys() == {*FILES, "manifest.json"}


@pytest.fixture
def folder(tmp_path):
    return Machines("folder", tmp_path, f"file://{tmp_path}/objects")


def test_the_cache_is_verified_and_mended(folder):
    here = folder.place()
    here.mark(IDENTITY)
    name = publish(here)
    there = folder.place()
    path = there.open_verified(name, 3, 7) / "weights.safetensors"
    path.chmod(0o644)
    path.write_bytes(b"torn")  # the blob in the cache is the same file
    assert contents(there.open_verified(name, 3, 7))["weights.safetensors"] == FILES[path.name]


def test_a_download_happens_once_by_digest(folder):
    here, there = folder.place(), folder.place()
    here.mark(IDENTITY)
    donor = publish(here)
    there.open_verified(donor, 3, 7)
    child = there.child_of(donor, 3, 7, 5, 1, {})
    for key in folder.files():
        if key.startswith("blobs/"):
            here._bucket.delete(key)
    shutil.rmtree(there.local / child)
    for place in (here, there):
        assert contents(place.open_verified(child, 5, 1)).items() >= FILES.items()


@pytest.mark.parametrize("digest", ["../../RUN.json", "x" * 64, ""])
def test_a_manifest_cannot_name_objects_elsewhere(folder, digest):
    here = folder.place()
    here.mark(IDENTITY)
    name = publish(here)
    content = json.loads((here.local / name / "manifest.json").read_bytes())
    content.pop("digest")
    content["files"]["none"]["sha256"] = digest
    here._bucket.write(f"{name}/manifest.json", manifests.encode(content))
    with pytest.raises(checkpoint.CheckpointError, match="no sha256"):
        folder.place().open_verified(name, 3, 7)


def test_ages_are_told_by_the_clock_of_the_server(folder, monkeypatch):
    """A clock that is a day ahead deletes nothing that is young."""
    here = folder.place()
    here.mark(IDENTITY)
    name = publish(here)
    directory = storage.Directory(folder.tmp_path / "directory", durable=False)
    second = publish(directory)
    real = time.time
    monkeypatch.setattr(time, "time", lambda: real() + 86_400)
    assert here.collect(set, 300.0) == []
    assert directory.collect(set, 300.0) == []
    folder.place().open_verified(name, 3, 7)
    directory.open_verified(second, 3, 7)


def test_a_damaged_manifest_stops_the_sweep(folder):
    """Nobody knows which blobs it named."""
    here = folder.place()
    here.mark(IDENTITY)
    name = publish(here)
    raw = (here.local / name / "manifest.json").read_bytes()
    there = folder.place()
    there._bucket.write(f"{name}/manifest.json", raw[:-9])
    assert there.collect(lambda: {name}, 0.0) == []
    there._bucket.write(f"{name}/manifest.json", raw)
    folder.place().open_verified(name, 3, 7)


# The server.


def test_an_upload_that_is_cut_leaves_nothing_under_a_name(tmp_path, monkeypatch):
    """The server is killed between two objects of a checkpoint, and comes back."""
    if s3_servers.PYTHON is None:
        pytest.skip("needs moto")
    for name, value in s3_servers.CREDENTIALS.items():
        monkeypatch.setenv(name, value)
    server = s3_servers.Server()
    try:
        place = objects.Objects(server.url("run"), tmp_path / "cache")
        place._bucket._opened[0].create_dir("bucket")
        place.mark(IDENTITY)
        real, written = place._bucket.write, []

        def write_and_die(key, content):
            real(key, content)
            written.append(key)
            if len(written) == 1:
                os.kill(server.process.pid, signal.SIGSTOP)  # it hangs, then it is gone
                server.kill()

        monkeypatch.setattr(place._bucket, "write", write_and_die)
        with pytest.raises(checkpoint.NotThere, match="s3://bucket/run cannot be used") as raised:
            publish(place)
        assert "see to the server" in str(raised.value)
        assert "endpoint" not in str(raised.value)
        assert not list(place.local.glob("3/*"))
        assert not place.is_there(IDENTITY)
        server.start()
        place._bucket._opened[0].create_dir("bucket")  # this server forgets
        place.mark(IDENTITY)
        place.open_verified(publish(place), 3, 7)
    finally:
        server.kill()


# The place of a run.


def test_a_small_file_is_not_taken_for_one_if_it_is_no_text(folder):
    place = folder.place()
    place._bucket.write("files.json", b"\xff")
    assert place.read_text("files.json") is None


@pytest.mark.parametrize(
    ("url", "found"),
    [
        ("s3://bucket/study", "s3://bucket/study/Catch/a-run"),
        (
            "s3://bucket/study/?region=x&scheme=http",
            "s3://bucket/study/Catch/a-run?region=x&scheme=http",
        ),
        ("file:///mnt/study", "file:///mnt/study/Catch/a-run"),
        ("/mnt/study", "/mnt/study/Catch/a-run"),
    ],
)
def test_a_run_of_several_has_a_folder_below_their_place(url, found):
    assert storage.below(url, "Catch/a-run") == found
    storage.check_url(found)


def test_a_run_remembers_where_its_checkpoints_are(tmp_path):
    run_dir = tmp_path / "run"
    run_dir.mkdir()
    assert storage.of(run_dir).local == run_dir / "checkpoints"
    for url, local in (
        ("s3://bucket/a run?region=eu", run_dir / "checkpoints-cache"),
        (str(tmp_path / "elsewhere"), tmp_path / "elsewhere"),
    ):
        storage.record(run_dir, url)
        assert storage.of(run_dir).local == local
        storage.check_same(run_dir, url)
        with pytest.raises(ValueError, match="leave --checkpoints out"):
            storage.check_same(run_dir, "s3://bucket/other")
    assert [path.name for path in run_dir.iterdir()] == ["run.checkpoints"]


@pytest.mark.parametrize(
    ("url", "problem"),
    [
        ("s3://me:sesame@bucket/run", "holds a key"),
        ("s3://bucket/run?secret_key=sesame", "parameter 'secret_key'"),
        ("s3://bucket", "names no folder"),
        ("s3://bucket/a/../../b", "names no folder"),
        ("s3:///run", "names no folder"),
        ("ftp://host/sesame", "checkpoints are on 'ftp'"),
        ("", "name a folder, or a URL"),
    ],
)
def test_a_place_that_cannot_be_used_is_refused(tmp_path, url, problem):
    with pytest.raises(ValueError, match=problem) as raised:
        storage.check_url(url)
    assert "sesame" not in str(raised.value)
    (tmp_path / storage.FILE_NAME).write_text(json.dumps({"url": url}))
    with pytest.raises(checkpoint.NotThere, match="does not say where the checkpoints are"):
        storage.of(tmp_path)
