"""Rollouts from Arrow columns to padded arrays."""

import numpy as np
import pyarrow as pa
import pytest

from pgrpo_ray.data.padding import TOKEN_COLUMNS, VERSION_COLUMNS, TokenRows, row_views


def looped(lists, width, fill, dtype):
    """The reference: one row after another."""
    padded = np.full((len(lists), width), fill, dtype)
    for row, values in enumerate(lists):
        padded[row, : len(values)] = values
    return padded


def sampled(prompts, responses, spans=None):
    """A table of the columns that the learner reads; logprobs are minus the token over 128.

    `spans`: (version, first token) pairs of each response; version 3 throughout where not given.
    """
    ids = pa.list_(pa.int32())
    logprobs = [[-token / 128 for token in response] for response in responses]
    spans = spans or [[(3, 0)] if response else [] for response in responses]
    columns = [pa.array(prompts, ids), pa.array(responses, ids), pa.array(logprobs, pa.list_(pa.float32()))]
    columns += [pa.array([[version for version, _ in row] for row in spans], pa.list_(pa.int64()))]
    columns += [pa.array([[start for _, start in row] for row in spans], ids)]
    return pa.Table.from_arrays(columns, names=[*TOKEN_COLUMNS, *VERSION_COLUMNS])


def random_spans(rng, length):
    """Versions up to 3, growing along a response."""
    starts = sorted({0, *rng.integers(0, max(1, length), 2).tolist()}) if length else []
    return list(zip(sorted(rng.choice([1, 2, 3], len(starts), replace=False).tolist()), starts, strict=True))


def token_versions(spans, length):
    """The version of each token."""
    return [[version for version, start in spans if start <= token][-1] for token in range(length)]


@pytest.mark.parametrize("seed", range(20))
def test_padded_rollouts_equal_a_loop_over_lists(seed):
    rng = np.random.default_rng(seed)
    size = int(rng.integers(1, 30))
    # Empty prompts and responses among them.
    prompts, responses = ([rng.integers(1, 99, rng.integers(0, 7)).tolist() for _ in range(size)] for _ in range(2))
    spans = [random_spans(rng, len(response)) for response in responses]
    half = size // 2
    before = sampled(prompts[:half], responses[:half])
    rest = sampled(prompts[half:], responses[half:], spans[half:])
    # Two tables, the first a slice of one in two chunks: `size` rows, the first `half` behind an offset.
    tables = [pa.concat_tables([before, sampled(prompts[:half], responses[:half], spans[:half])]).slice(half), rest]
    rows = rng.permutation(size)[: int(rng.integers(1, size + 1))]
    padded = TokenRows(tables).pad(rows, version=3)
    both = [prompts[row] + responses[row] for row in rows]
    width = max(map(len, both))
    ones = [[0] * len(prompts[row]) + [1] * len(responses[row]) for row in rows]
    logprobs = [[0.0] * len(prompts[row]) + [-token / 128 for token in responses[row]] for row in rows]
    assert np.array_equal(padded.input_ids, looped(both, width, 0, np.int64))
    assert np.array_equal(padded.is_token, looped([[1] * len(ids) for ids in both], width, 0, bool))
    assert np.array_equal(padded.is_response, looped(ones, width, 0, bool))
    assert np.array_equal(padded.rollout_logprobs, looped(logprobs, width, 0.0, np.float32))
    versions = [[0] * len(prompts[row]) + token_versions(spans[row], len(responses[row])) for row in rows]
    assert np.array_equal(padded.is_current, looped(versions, width, 0, np.int64) == 3)
    assert (padded.input_ids.dtype, padded.rollout_logprobs.dtype) == (np.int64, np.float32)
    assert padded.input_ids.flags.writeable  # torch.from_numpy wants that


def test_padded_rollouts_refuse_logprobs_that_belong_to_other_tokens():
    table = sampled([[1], [1]], [[5, 6], [7, 8]])
    crossed = table.set_column(2, "rollout_logprobs", pa.array([[-1.0], [-1.0] * 3], pa.list_(pa.float32())))
    with pytest.raises(ValueError, match="row 0 has 2 response tokens and 1 logprobs"):
        TokenRows([crossed])


def test_rows_are_views_of_the_slice_over_all_chunks():
    lists = [[1], [], [2, 3], [4], [5, 6, 7]]
    chunks = [pa.array(lists[:2], pa.list_(pa.int32())), pa.array(lists[2:], pa.list_(pa.int32()))]
    whole = pa.table({"ids": pa.chunked_array(chunks)})

    def rows(*tables):
        return [row.tolist() for row in row_views(tables, "ids")]

    assert rows(whole) == lists
    assert rows(whole.slice(1, 2), whole.slice(3)) == lists[1:]
    assert rows(whole.slice(0, 0)) == rows() == []
    (view,) = row_views([whole.slice(4)], "ids")
    assert view.ctypes.data == chunks[1].values.buffers()[1].address + 4 * 3


def test_null_lists_and_values_are_refused():
    for lists in ([[5], None], [[5], [None]]):
        table = pa.table({"ids": pa.array(lists, pa.list_(pa.int32()))})
        with pytest.raises(ValueError, match="column ids holds a null list or value"):
            row_views([table], "ids")
        assert [row.tolist() for row in row_views([table.slice(0, 1)], "ids")] == [[5]]
