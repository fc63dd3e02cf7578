"""What does it cost to bring rollouts from the engine to the learner, in copies of their bytes?

    .venv/bin/python benchmarks/arrow_stream.py                # 1k, 10k and 100k rollouts; a few minutes
    .venv/bin/python benchmarks/arrow_stream.py --no-ray       # serialised bytes alone

Producer: what the engine leaves (rows of numpy arrays, or of Python lists; both are measured) becomes a shipment a
group. Consumer: the shipments of a window become padded micro-batches, longest rows first, as the learner makes them.
The same tokens go three ways:

- `arrow`: as pgrpo_ray ships and reads them (`data.arrow`), through bytes and through Ray's object store
- `dicts`: pickled dicts of lists
- `padded`: pickled padded arrays (ids and mask int64, response mask bool, logprobs float32), padded to the longest of
  the group; frameworks that pad to the longest allowed move more

The measure is a memcpy of the same payload (4 bytes a prompt token, 8 a response token) in the same run, group by group
into new memory that lives as long as the shipments do; both in CPU seconds of the process, which on a quiet machine are
seconds. Responses have 2,000 to 16,000 tokens; a case of more than
`--max-payload-mb` gets shorter ones, and its `tokens_scale` says so. A window is all that is in memory at a time, so
that 100,000 rollouts fit. Ways take turns; of several rounds the fastest counts. Writes `arrow-stream.json` and `.png`.
Exits with 1 unless numpy rows as `arrow` bytes take at most `--wanted` memcpys in every case.
"""

import argparse
import json
import os
import pickle
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from provenance import RESULTS, origin

from pgrpo_ray.data import arrow
from pgrpo_ray.data.padding import TOKEN_COLUMNS, VERSION_COLUMNS, TokenRows

GROUP, WINDOW = 8, 64
"""Rollouts of a group, groups of a window."""
PROMPT, SHORTEST, LONGEST = 256, 2000, 16000
"""Tokens."""
MICRO_BATCH_TOKENS = 65536
SCHEMA = pa.schema([arrow.ROLLOUT_SCHEMA.field(name) for name in (*TOKEN_COLUMNS, *VERSION_COLUMNS)])

Rows = list[Any]
Group = dict[str, Rows]
"""Rows of each column of `SCHEMA`."""
Micro = tuple[np.ndarray, ...]
"""input_ids int64, attention mask and response mask bool, logprobs float32, each [B, T]."""


class Way:
    """One way from engine to learner; each method is timed."""

    def build(self, group: Group) -> Any:
        """Make what is shipped from what the engine left."""
        raise NotImplementedError

    def ship(self, built: Any) -> tuple[Any, int]:
        """Return the shipment and its bytes."""
        wire = pickle.dumps(built, protocol=5)
        return wire, len(wire)

    def read(self, shipment: Any) -> Any:
        """Return what was built."""
        return pickle.loads(shipment)

    def pad(self, groups: list[Any]) -> Iterator[Micro]:
        """Yield the micro-batches of a window."""
        raise NotImplementedError


class Arrow(Way):
    """pgrpo_ray's."""

    def build(self, group: Group) -> pa.Table:
        """One copy."""
        return arrow.build_table(SCHEMA, group)

    def ship(self, built: pa.Table) -> tuple[Any, int]:
        """As an IPC stream."""
        wire = arrow.to_wire(built)
        return wire, wire.size

    def read(self, shipment: Any) -> pa.Table:
        """No copy."""
        return arrow.from_wire(shipment)

    def pad(self, groups: list[pa.Table]) -> Iterator[Micro]:
        """As `learner.worker` does."""
        lengths = sum(
            np.concatenate([arrow.list_lengths(group[name]) for group in groups]) for name in TOKEN_COLUMNS[:2]
        )
        rows = TokenRows(groups)
        for picked in micro_batches(lengths):
            padded = rows.pad(picked, version=0)
            yield padded.input_ids, padded.is_token, padded.is_response, padded.rollout_logprobs


class Dicts(Way):
    """Pickled dicts of lists."""

    def build(self, group: Group) -> Group:
        """Lists, if they are none."""
        return {name: [row if isinstance(row, list) else row.tolist() for row in rows] for name, rows in group.items()}

    def pad(self, groups: list[Group]) -> Iterator[Micro]:
        """Row after row."""
        prompts, responses, logprobs = ([row for group in groups for row in group[name]] for name in TOKEN_COLUMNS)
        lengths = np.array([len(p) + len(r) for p, r in zip(prompts, responses, strict=True)])
        for picked in micro_batches(lengths):
            rows = [(prompts[row], responses[row], logprobs[row]) for row in picked.tolist()]
            yield pad_rows(rows)


class Padded(Way):
    """Pickled padded arrays."""

    def build(self, group: Group) -> Micro:
        """Padded to the longest of the group."""
        rows = [group[name] for name in TOKEN_COLUMNS]
        ids, token, response, logprobs = pad_rows(list(zip(*rows, strict=True)))
        return ids, token.astype(np.int64), response, logprobs

    def pad(self, groups: list[Micro]) -> Iterator[Micro]:
        """Brought to one width, then picked and cut."""
        width = max(ids.shape[1] for ids, *_ in groups)
        whole = []
        for parts in zip(*groups, strict=True):
            joined = np.zeros((len(parts) * GROUP, width), parts[0].dtype)
            for place, part in enumerate(parts):
                joined[place * GROUP : (place + 1) * GROUP, : part.shape[1]] = part
            whole.append(joined)
        lengths = whole[1].sum(axis=1)
        for picked in micro_batches(lengths):
            longest = int(lengths[picked[0]])
            ids, token, response, logprobs = (array[picked, :longest] for array in whole)
            yield ids, token.astype(bool), response, logprobs


class ThroughRay(Way):
    """Another way's tables or arrays through the object store; Ray pickles what is not a table."""

    def __init__(self, way: Way):
        self.build, self.pad = way.build, way.pad

    def ship(self, built: Any) -> tuple[Any, int]:
        """Put it there."""
        import ray

        return ray.put(built), 0

    def read(self, shipment: Any) -> Any:
        """Views where Ray can give them."""
        import ray

        return ray.get(shipment)


def pad_rows(rows: list[tuple[Any, Any, Any]]) -> Micro:
    """Pad (prompt, response, logprobs) rows one after another."""
    shape = len(rows), max(len(prompt) + len(response) for prompt, response, _ in rows)
    ids, logprobs = np.zeros(shape, np.int64), np.zeros(shape, np.float32)
    token, sampled = np.zeros(shape, bool), np.zeros(shape, bool)
    for place, (prompt, response, values) in enumerate(rows):
        start, end = len(prompt), len(prompt) + len(response)
        ids[place, :start], ids[place, start:end], logprobs[place, start:end] = prompt, response, values
        token[place, :end], sampled[place, start:end] = True, True
    return ids, token, sampled, logprobs


def micro_batches(lengths: np.ndarray) -> Iterator[np.ndarray]:
    """Yield row ids, longest rows first, as many as fit."""
    order, start = np.argsort(-lengths, kind="stable"), 0
    while start < len(order):
        count = max(1, MICRO_BATCH_TOKENS // int(lengths[order[start]]))
        yield order[start : start + count]
        start += count


def window(scale: float, lists: bool) -> list[Group]:
    """Return a window's groups, as the engine left them."""
    rng = np.random.default_rng(0)
    groups = []
    for _ in range(WINDOW):
        prompt = rng.integers(0, 150_000, max(1, int(PROMPT * scale))).astype(np.int32)
        sizes = rng.integers(int(SHORTEST * scale), int(LONGEST * scale) + 1, GROUP)
        ids = [rng.integers(0, 150_000, size).astype(np.int32) for size in sizes]
        logprobs = [-rng.random(size, np.float32) for size in sizes]
        rows = {"prompt_ids": [prompt] * GROUP, "response_ids": ids, "rollout_logprobs": logprobs}
        rows |= {name: [np.zeros(1, np.int32)] * GROUP for name in VERSION_COLUMNS}
        groups.append({name: [row.tolist() for row in one] if lists else one for name, one in rows.items()})
    return groups


def run(way: Way, groups: list[Group], windows: int) -> dict[str, Any]:
    """Send the window so many times; return CPU seconds by part, and bytes."""
    seconds: dict[str, float] = defaultdict(float)
    moved = 0

    def timed(part: str, function: Callable[..., Any], *args: Any) -> Any:
        before = time.process_time()
        result = function(*args)
        seconds[part] += time.process_time() - before
        return result

    wall = time.perf_counter()
    for _ in range(windows):
        shipments = []
        for group in groups:
            shipment, size = timed("ship", way.ship, timed("build", way.build, group))
            shipments.append(shipment)
            moved += size
        read = [timed("read", way.read, shipment) for shipment in shipments]
        timed("pad", exhaust, way.pad(read))
        del read, shipments
    return {"seconds": sum(seconds.values()), "wall_s": time.perf_counter() - wall, "by_part": seconds, "bytes": moved}


def exhaust(batches: Iterator[Micro]) -> None:
    """Take one batch after another; the learner, too, holds one at a time."""
    for _ in batches:
        pass


def copy(payloads: list[np.ndarray], windows: int) -> dict[str, float]:
    """Return the CPU seconds of a memcpy of every payload, into new memory and into memory that is warm."""
    fresh = warm = 0.0
    place = np.empty(max(map(len, payloads)), np.uint8)
    for _ in range(windows):
        start = time.process_time()
        kept = [payload.copy() for payload in payloads]
        fresh += time.process_time() - start
        del kept
        start = time.process_time()
        for payload in payloads:
            place[: len(payload)] = payload
        warm += time.process_time() - start
    return {"fresh_s": fresh, "warm_s": warm}


def case(rollouts: int, max_payload: float, rounds: int, ways: dict[str, Way]) -> dict[str, Any]:
    """Measure every way and the memcpy on one number of rollouts."""
    full = rollouts * (4 * PROMPT + 4 * (SHORTEST + LONGEST))
    scale = min(1.0, max_payload / full)
    windows = max(1, round(rollouts / (GROUP * WINDOW)))
    found: dict[str, dict[str, Any]] = {}
    copies = []
    payload = 0
    for source in ("numpy", "lists"):
        groups = window(scale, lists=source == "lists")
        sizes = [sum(len(row) for rows in group.values() for row in rows) * 4 for group in groups]
        payload = sum(sizes) * windows
        payloads = [np.ones(size, np.uint8) for size in sizes]
        check(ways, groups[:2])
        for _ in range(rounds):
            copies.append(copy(payloads, windows))
            for name, way in ways.items():
                one = run(way, groups, windows)
                key = f"{name}, {source}"
                if key not in found or one["seconds"] < found[key]["seconds"]:
                    found[key] = one
    memcpy = {key: min(one[key] for one in copies) for key in copies[0]}
    for one in found.values():
        one["ratio"] = one["seconds"] / memcpy["fresh_s"]
        one["ratio_to_warm"] = one["seconds"] / memcpy["warm_s"]
        one["bytes_per_payload_byte"] = one["bytes"] / payload or None  # Ray does not say what it moved
    return {
        "rollouts": windows * WINDOW * GROUP,
        "tokens_scale": scale,
        "payload_bytes": payload,
        "memcpy": memcpy,
        "ways": found,
    }


def check(ways: dict[str, Way], groups: list[Group]) -> None:
    """Raise unless all ways end in the same micro-batches."""
    results = []
    for way in ways.values():
        read = [way.read(way.ship(way.build(group))[0]) for group in groups]
        results.append(list(way.pad(read)))
    for other in results[1:]:
        for mine, theirs in zip(results[0], other, strict=True):
            if not all(np.array_equal(a, b) for a, b in zip(mine, theirs, strict=True)):
                raise SystemExit("the ways do not end in the same arrays")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sizes", type=int, nargs="+", default=[1000, 10_000, 100_000], help="rollouts")
    parser.add_argument("--max-payload-mb", type=float, default=1500.0, help="a larger case gets shorter responses")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--no-ray", action="store_true")
    parser.add_argument("--wanted", type=float, default=2.0, help="memcpys that count")
    parser.add_argument("--results", type=Path, default=RESULTS, help="where figures go")
    arguments = parser.parse_args()
    ways: dict[str, Way] = {"arrow": Arrow(), "dicts": Dicts(), "padded": Padded()}
    if not arguments.no_ray:
        import ray

        from pgrpo_ray.actors.cluster import ship_tables

        # A window of padded arrays is the largest thing in there.
        ray.init(
            address="local",
            num_cpus=1,
            include_dashboard=False,
            log_to_driver=False,
            logging_level="ERROR",
            object_store_memory=600 << 20,
        )
        ship_tables()
        ways |= {f"{name} through Ray": ThroughRay(ways[name]) for name in ("arrow", "padded")}
    cases = []
    for size in arguments.sizes:
        cases.append(case(size, arguments.max_payload_mb * 1e6, arguments.rounds, ways))
        print(f"{size} rollouts, {cases[-1]['payload_bytes'] / 1e6:.0f} MB, memcpy {cases[-1]['memcpy']}", flush=True)
        for name, one in cases[-1]["ways"].items():
            parts = {part: round(value / cases[-1]["memcpy"]["fresh_s"], 2) for part, value in one["by_part"].items()}
            print(f"  {name}: {one['ratio']:.2f} memcpys {parts}, {one['bytes_per_payload_byte']} bytes a byte")
    result = {
        "question": __doc__.splitlines()[0],
        "command": " ".join(["python", "benchmarks/arrow_stream.py", *sys.argv[1:]]),
        **origin(),
        "load": os.getloadavg()[0],
        "group_size": GROUP,
        "window_groups": WINDOW,
        "micro_batch_tokens": MICRO_BATCH_TOKENS,
        "cut": [one["rollouts"] for one in cases if one["tokens_scale"] < 1],
        "cases": cases,
    }
    arguments.results.mkdir(exist_ok=True)
    (arguments.results / "arrow-stream.json").write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    plot(cases, arguments.results / "arrow-stream.png")
    return 0 if all(one["ways"]["arrow, numpy"]["ratio"] <= arguments.wanted for one in cases) else 1


def plot(cases: list[dict[str, Any]], path: Path) -> None:
    """Draw memcpys by way, one bar a case, on a logarithmic scale."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    names = list(cases[0]["ways"])
    figure, axes = pyplot.subplots(figsize=(10, 4.2))
    width = 0.8 / len(cases)
    for place, one in enumerate(cases):
        at = [number + width * place for number in range(len(names))]
        axes.bar(
            at,
            [one["ways"][name]["ratio"] for name in names],
            width,
            label=f"{one['rollouts']:,} rollouts",
            align="edge",
        )
    axes.axhline(2, color="black", linewidth=0.8, linestyle=":")
    axes.set(ylabel="memcpys of the payload", yscale="log")
    axes.set_xticks([number + 0.4 for number in range(len(names))], names, rotation=20, ha="right")
    axes.legend()
    figure.tight_layout()
    figure.savefig(path, dpi=100)


if __name__ == "__main__":
    sys.exit(main())
