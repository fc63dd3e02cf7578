"""Checkpoints are whole or do not count: torn, flipped, missing and strange ones; what is kept; what a kill leaves."""

import errno
import json
import os
import shutil

import fsspec
import pytest
from moto.server import ThreadedMotoServer
from safetensors import SafetensorError

from pgrpo_ray.errors import CheckpointError, EnvironmentFault, OwnershipError
from pgrpo_ray.learner import shards
from pgrpo_ray.obs import checkpoints
from pgrpo_ray.obs.checkpoint_files import local_copy, put_file
from pgrpo_ray.obs.checkpoints import MANIFEST, STATE, CheckpointStore


@pytest.fixture(scope="module")
def s3():
    """A server that speaks Amazon's protocol, with a bucket; clients find it as they find any other: by environment."""
    server = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    with pytest.MonkeyPatch.context() as patch:
        for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
            patch.setenv(name, "nobody's")
        patch.setenv("AWS_DEFAULT_REGION", "us-east-1")
        patch.setenv("AWS_ENDPOINT_URL", f"http://{host}:{port}")
        fsspec.filesystem("s3").mkdir("bucket")
        yield
    fsspec.filesystem("s3").clear_instance_cache()
    server.stop()


@pytest.fixture(params=["disk", "memory", "s3"])
def root(request, tmp_path):
    if request.param == "disk":
        yield str(tmp_path / "run" / "checkpoints")
        return
    if request.param == "s3":
        request.getfixturevalue("s3")
    yield f"{request.param}://bucket/run"
    fs = fsspec.filesystem(request.param)
    if fs.exists("bucket/run"):
        fs.rm("bucket/run", recursive=True)


def make(store, step, value=None, shard=b"weights"):
    draft = store.begin(step)
    files = [
        put_file(draft, STATE, lambda path: path.write_text(f'{{"step": {step}}}')),
        put_file(draft, "learner-00000-of-00001.safetensors", lambda path: path.write_bytes(shard)),
    ]
    return store.commit(draft, step, dict(files), value)


def test_what_was_committed_is_found_whole(root):
    store = CheckpointStore(root)
    assert store.names() == []
    assert (
        [make(store, step) for step in (9, 10, 100)] == store.names() == ["step-000009", "step-000010", "step-000100"]
    )
    newest = CheckpointStore(root).open()
    assert (newest.name, newest.manifest.step, newest.state()) == ("step-000100", 100, '{"step": 100}')
    assert newest.shards() == ["learner-00000-of-00001.safetensors"]
    with local_copy(newest.folder, newest.shards()[0]) as path:
        assert path.read_bytes() == b"weights"


def test_a_draft_does_not_count(root):
    store = CheckpointStore(root)
    make(store, 1)
    put_file(store.begin(2), STATE, lambda path: path.write_text("{}"))
    assert store.names() == ["step-000001"]
    with pytest.raises(CheckpointError, match=r"no checkpoint 'step-000002'.* there are: step-000001"):
        store.open("step-000002")


def test_who_was_replaced_is_told_and_touches_nothing(root, monkeypatch):
    mine = CheckpointStore(root)
    mine.check_owner()  # nobody's, so mine
    make(mine, 1)
    monkeypatch.setattr(checkpoints, "_ME", "process 7 on elsewhere")
    CheckpointStore(root).claim()
    CheckpointStore(root).check_owner()
    monkeypatch.undo()
    with pytest.raises(OwnershipError, match="has been taken over by process 7 on elsewhere"):
        mine.check_owner()
    assert mine.names() == ["step-000001"]


def test_where_there_is_none_it_says_so(root):
    with pytest.raises(CheckpointError, match="Start the run without --resume"):
        CheckpointStore(root).open()


def test_a_step_that_is_taken_again_replaces_its_checkpoint(root):
    store = CheckpointStore(root)
    make(store, 3, shard=b"old")
    make(store, 3, shard=b"newer")
    found = store.open()
    assert store.names() == ["step-000003"]
    assert found.manifest.files[found.shards()[0]].bytes == 5


def harm(folder, how):
    shard = folder / "learner-00000-of-00001.safetensors"
    if how == "flipped bit":
        data = bytearray(shard.read_bytes())
        data[3] ^= 1
        shard.write_bytes(data)
    elif how == "torn":
        os.truncate(shard, 3)
    elif how == "missing":
        shard.unlink()
    elif how == "no manifest":
        (folder / MANIFEST).unlink()
    elif how == "torn manifest":
        os.truncate(folder / MANIFEST, 40)
    else:
        manifest = json.loads((folder / MANIFEST).read_text())
        manifest |= {"another step": {"step": 4}, "newer format": {"format": 2}, "odd key": {"x": 1}}.get(how, {})
        if how == "path upwards":
            manifest["files"]["../../elsewhere"] = manifest["files"][STATE]
        (folder / MANIFEST).write_text(json.dumps(manifest))


HARM = {
    "flipped bit": "damaged: it has 7 bytes .* the manifest says 7",
    "torn": "damaged: it has 3 bytes",
    "missing": "is missing",
    "no manifest": "has no manifest.json, so it is not whole",
    "torn manifest": "manifest.json cannot be read",
    "another step": "not one of ours",
    "newer format": "has format 2, this version of pgrpo_ray reads 1",
    "odd key": "manifest.json cannot be read",
    "path upwards": r"not one of ours: \['../../elsewhere'\]",
}


@pytest.mark.parametrize("how", HARM)
def test_a_damaged_one_is_refused_and_the_next_whole_one_is_offered(tmp_path, how):
    store = CheckpointStore(str(tmp_path))
    for step in (1, 2, 3):
        make(store, step)
    harm(tmp_path / "step-000003", how)
    with pytest.raises(CheckpointError, match=f"{HARM[how]}.* --resume-from step-000002"):
        store.open()
    assert store.newest_whole().name == "step-000002"
    harm(tmp_path / "step-000002", "torn")
    harm(tmp_path / "step-000001", "torn")
    with pytest.raises(CheckpointError, match="No older one is whole"):
        store.open()
    assert store.newest_whole() is None


def test_the_last_and_the_best_are_kept(root):
    store = CheckpointStore(root)
    for step, value in ((1, 0.2), (2, 0.9), (3, None), (4, 0.9), (5, 0.1), (6, 0.3), (7, None)):
        make(store, step, value)
    assert store.best(store.names(), highest=True) == "step-000004"  # of equals the later
    assert store.prune(2, highest=True) == [f"step-{step:06d}" for step in (1, 2, 3, 5)]
    assert store.names() == ["step-000004", "step-000006", "step-000007"]
    assert store.prune(1, highest=False) == ["step-000004"]
    assert store.open("step-000006")


def test_later_ones_are_not_in_the_way_of_a_run_that_goes_on_from_an_earlier(root):
    store = CheckpointStore(root)
    for step in (1, 2, 3):
        make(store, step)
    assert store.supersede(1) == ["step-000002", "step-000003"]
    assert store.names() == ["step-000001"]
    make(store, 2)
    assert store.supersede(1) == ["step-000002"]


@pytest.mark.parametrize("renames", [0, 1])
def test_a_kill_while_a_checkpoint_takes_its_name_loses_nothing(tmp_path, monkeypatch, renames):
    store = CheckpointStore(str(tmp_path))
    make(store, 5, shard=b"old")
    rename, done = checkpoints.Path.rename, []

    def killed(path, target):
        if len(done) == renames:
            raise KeyboardInterrupt
        done.append(path)
        return rename(path, target)

    monkeypatch.setattr(checkpoints.Path, "rename", killed)
    with pytest.raises(KeyboardInterrupt):
        make(store, 5, shard=b"newer")
    monkeypatch.undo()
    again = CheckpointStore(str(tmp_path))
    again.tidy()
    assert again.open().name == "step-000005"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["step-000005"]


def test_a_kill_while_one_is_removed_leaves_no_half(tmp_path, monkeypatch):
    store = CheckpointStore(str(tmp_path))
    for step in (1, 2):
        make(store, step)
    with monkeypatch.context() as patch:
        patch.setattr(store._fs, "rm", lambda *_, **__: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            store.prune(1, highest=True)
    assert store.names() == ["step-000002"]
    store.tidy()
    assert [path.name for path in tmp_path.iterdir()] == ["step-000002"]


def test_files_that_another_node_wrote_elsewhere_are_noticed(tmp_path):
    store = CheckpointStore(str(tmp_path))
    draft = store.begin(1)
    files = dict([put_file(draft, STATE, lambda path: path.write_text("{}"))])
    files["learner-00000-of-00001.safetensors"] = files[STATE]
    with pytest.raises(CheckpointError, match=r"checkpoint\.dir must be storage that all nodes"):
        store.commit(draft, 1, files)
    assert store.names() == []


def test_a_full_disk_is_told_as_such(tmp_path):
    def full(path):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    store = CheckpointStore(str(tmp_path))
    draft = store.begin(1)
    with pytest.raises(EnvironmentFault, match="No space left on device"):
        put_file(draft, STATE, full)
    store.drop(draft)
    assert list(tmp_path.iterdir()) == []


def test_an_unknown_kind_of_url_is_refused_with_what_to_install():
    with pytest.raises(EnvironmentFault, match="s3fs for s3"):
        CheckpointStore("nosuchstore://bucket")


def test_only_checkpoints_are_looked_at(tmp_path):
    store = CheckpointStore(str(tmp_path))
    make(store, 1)
    for name in ("step-1", "step-000002.superseded.1", "notes", "step-00000x"):
        shutil.copytree(tmp_path / "step-000001", tmp_path / name)
    assert store.names() == ["step-000001"]


def test_what_could_not_be_read_this_time_is_not_taken_for_damage(tmp_path, monkeypatch):
    store = CheckpointStore(str(tmp_path))
    for step in (1, 2):
        make(store, step)

    def fails(path):
        raise TimeoutError(errno.ETIMEDOUT, "the storage does not answer")

    monkeypatch.setattr(checkpoints, "facts_of", fails)
    with pytest.raises(EnvironmentFault, match="the storage does not answer"):
        store.newest_whole()


def test_a_full_disk_under_a_shard_is_told_as_such(tmp_path, monkeypatch):
    def full(*_):
        raise SafetensorError("I/O error: No space left on device (os error 28)")

    monkeypatch.setattr(shards, "save_file", full)
    about = shards.About(rank=0, num_ranks=1, num_steps=0, adam_steps=0.0, norms=[], skipped_in_a_row=0, numels={})
    with pytest.raises(EnvironmentFault, match="No space left on device"):
        put_file(str(tmp_path), "shard", shards.Snapshot(about, {}, {}).write)


def test_on_an_object_store_nothing_is_left_of_failed_ones_and_later_ones_are_kept():
    fsspec.filesystem("memory").store.clear()
    store = CheckpointStore("memory://bucket/run")
    for step in (1, 2):
        make(store, step)
    put_file(dropped := store.begin(3), STATE, lambda path: path.write_text("{}"))
    store.drop(dropped)
    put_file(store.begin(4), STATE, lambda path: path.write_text("{}"))  # and the process dies
    store.supersede(1)
    store.tidy()
    files = {path.removeprefix("/bucket/run/") for path in fsspec.filesystem("memory").store}
    shard = "learner-00000-of-00001.safetensors"
    assert files == {
        *(f"step-000001/{name}" for name in (STATE, MANIFEST, shard)),
        *(f"step-000002/{name}" for name in (STATE, f"{MANIFEST}.superseded", shard)),
    }
    fsspec.filesystem("memory").store.clear()
