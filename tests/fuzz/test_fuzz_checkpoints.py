"""Damaged manifests, states and shards: `CheckpointError`, or a checkpoint that is what its manifest says."""

import json
import shutil

import torch
from fuzzing import FOLDER, JUNK, damaged, edited, fuzz
from hypothesis import example, given
from hypothesis import strategies as st

from pgrpo_ray.data.run_state import OpenDemand, OpenRequest, RunState, SavedEstimate, read_state
from pgrpo_ray.errors import CheckpointError
from pgrpo_ray.learner.shards import KINDS, About, Shards, Snapshot
from pgrpo_ray.obs.checkpoint_files import facts_of, put_file
from pgrpo_ray.obs.checkpoints import MANIFEST, STATE, CheckpointStore

REQUEST = OpenRequest(number=3, problem_id="p", seed=7, epoch=0, step=1)
RUN_STATE = RunState(
    step=1,
    policy_version=2,
    batches=1,
    unasked=[REQUEST],
    asked=[OpenDemand(version=0, requests=[REQUEST], done=[3], file="pending-000.arrow")],
    asked_rollouts=8,
    issued=4,
    settled={"trained": 24},
    before=SavedEstimate(value=0.5, low=0.25, high=0.75),
    config={"run": {"steps": 4}},
    data="sha256:0",
)
PARTS = {kind: {"w": torch.arange(4.0)} for kind in KINDS}
ABOUT = About(rank=0, num_ranks=1, num_steps=1, adam_steps=1.0, norms=[0.5], skipped_in_a_row=0, numels={"w": 4})
SHARD = Snapshot(ABOUT, PARTS, {"cpu": torch.zeros(8, dtype=torch.uint8)})
STORE = CheckpointStore(str(FOLDER / "checkpoints"))


def made():
    """Write a checkpoint anew; return its folder."""
    shutil.rmtree(STORE.root, ignore_errors=True)
    draft = STORE.begin(1)
    files = [
        put_file(draft, STATE, lambda path: path.write_text(RUN_STATE.model_dump_json())),
        put_file(draft, SHARD.file_name, SHARD.write),
    ]
    STORE.commit(draft, 1, dict(files), 0.5)
    return FOLDER / "checkpoints" / "step-000001"


GOOD = {path.name: path.read_bytes() for path in made().iterdir()}
SEEDS = [GOOD[MANIFEST]]


def read(data: bytes) -> None:
    """Open a checkpoint with this manifest."""
    folder = made()
    (folder / MANIFEST).write_bytes(data)
    try:
        checkpoint = STORE.open()
    except CheckpointError:
        assert STORE.newest_whole() is None
        return
    assert {name: facts_of(folder / name) for name in checkpoint.manifest.files} == checkpoint.manifest.files
    assert read_state(checkpoint) == RUN_STATE
    STORE.best(STORE.names(), highest=True)


@fuzz(200)
@example(b"[" * 100_000)
@example(GOOD[MANIFEST].replace(b'"format": 1', b'"format": 1e400'))
@given(damaged([GOOD[MANIFEST]], [b"../x", b"null", b"-1", b"1e5", b'"', b"[]"]))
def test_a_damaged_manifest(data):
    read(data)


@fuzz(200)
@given(edited([json.loads(GOOD[MANIFEST])]) | JUNK)
def test_a_manifest_with_other_values(value):
    try:
        read(json.dumps(value).encode())
    except UnicodeEncodeError:
        read(b"")


@fuzz(200)
@example(b'{"step": ' + b"9" * 5000 + b"}")
@given(damaged([GOOD[STATE]]) | edited([json.loads(GOOD[STATE])]).map(lambda value: json.dumps(value).encode()))
def test_a_state_that_is_none_of_ours(data):
    """Of one that was written so, and whose hash therefore fits."""
    folder = made()
    (folder / STATE).write_bytes(data)
    manifest = json.loads(GOOD[MANIFEST])
    manifest["files"][STATE] = facts_of(folder / STATE).model_dump()
    (folder / MANIFEST).write_text(json.dumps(manifest))
    try:
        state = read_state(STORE.open())
    except CheckpointError:
        return
    assert RunState.model_validate_json(state.model_dump_json()) == state


@fuzz(150)
@given(damaged([GOOD[SHARD.file_name]]), st.integers(1, 3))
def test_a_shard_that_is_none_of_ours(data, ranks):
    folder = made()
    (folder / SHARD.file_name).write_bytes(data)
    try:
        with Shards(str(folder), [SHARD.file_name]) as shards:
            shards.check_fits({"w": 4})
            for kind in KINDS:
                for rank in range(ranks):
                    assert shards.part(kind, "w", rank, ranks).shape == (-(-4 // ranks),)
            shards.rng(0)
    except CheckpointError:
        return
