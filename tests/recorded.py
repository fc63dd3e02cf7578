"""A recorded run that the driver's own code rewarded and wrote, from invented rollouts: no engine, no Ray.

Of every kind of rollout some: wrong formats, failures, passers, cut ones, ones that the sandbox or the reward server
lost, whole groups without a difference.
"""

from pathlib import Path
from types import SimpleNamespace

import numpy as np

from pgrpo_ray.actors.batch import reward_groups
from pgrpo_ray.actors.demands import Demand, Group, Shipment, places_of
from pgrpo_ray.actors.pools import Judging
from pgrpo_ray.actors.roles import RecorderRole
from pgrpo_ray.actors.scoring import GroupScorer, Scoring
from pgrpo_ray.algo.rewarding import Arm
from pgrpo_ray.config import parse
from pgrpo_ray.data import arrow
from pgrpo_ray.data.scalars import scalar_table, thinking_table
from pgrpo_ray.driver import Driver
from pgrpo_ray.obs.run_log import RunLog
from pgrpo_ray.preflight.reward import plan_reward
from pgrpo_ray.types import Judgement, PromptRequest, Verdict

PROGRAM = "def double(x):\n    return x + x\n"
GROUPS, SIZE = 12, 6
POLICY_VERSION = 7


def record(folder: Path, steps: int = 1, **sections) -> Path:
    """Record a run of `sections` of its config in `folder`; return the run's folder."""
    sections = {"run": {"name": "recorded", "dir": str(folder)}, **sections}
    config = parse(sections)
    log = RunLog(config)
    try:
        driver = _driver(config, log)
        arm = Arm.of(plan_reward(config).rule, config.algo)
        for step in range(1, steps + 1):
            batch = reward_groups(_groups(config, step), arm, config.algo, POLICY_VERSION)
            driver._write(log.rollouts_path(step), step, batch.shipments, batch.places, batch)
            log.step(step, {"reward": float(np.nanmean(batch.columns["reward"])), **_shares(batch.shares)})
        driver._write(log.evaluation_path("before"), 0, *places_of(_groups(config, 100)))
    finally:
        log.close()
    return log.folder


def _shares(shares):
    return {f"advantage_share_{term}": share for term, share in shares.items()}


def _driver(config, log):
    """A driver of which only writing is used, with a recorder that writes at once."""
    driver = Driver.__new__(Driver)
    driver._config, driver._log = config, log
    write = SimpleNamespace(remote=lambda *given: RecorderRole().write(*given) and None)
    driver._fleet = SimpleNamespace(recorder=SimpleNamespace(write=write), reward=SimpleNamespace(version="rm-1"))
    driver._writing = None
    return driver


def _groups(config, step):
    """Groups that came in two shipments, and stand in another order than they came."""
    rng = np.random.default_rng(step)
    groups = []
    for part in range(2):
        ids = [f"set/p{part}-{index}" for index in range(GROUPS // 2)]
        groups += _shipment(config, rng, ids)
    return [groups[index] for index in rng.permutation(len(groups))]


def _shipment(config, rng, ids):
    count = len(ids) * SIZE
    group = np.arange(count) // SIZE
    format_ok = (rng.random(count) < 0.8) | (group == 0)
    passed = format_ok & (rng.random(count) < 0.5) | (group == 0)
    passed[group == 1] = False  # and so without a gradient where nothing else tells them apart
    format_ok[group == 1] = True
    lost = (rng.random(count) < 0.1) & (group > 2)
    lengths = rng.integers(1, 40, count)
    lengths[group == 1] = 5
    tokens = [rng.integers(0, 99, length).astype(np.int32) for length in lengths]
    rollouts = arrow.build_table(
        arrow.ROLLOUT_SCHEMA,
        {
            "problem_id": [ids[index] for index in group],
            "sample_index": [row % SIZE for row in range(count)],
            "policy_version": [POLICY_VERSION] * count,
            "prompt": ["Double x."] * count,
            "prompt_ids": [[1, 2, 3]] * count,
            "response_ids": tokens,
            "rollout_logprobs": [np.full(len(ids), -0.5, np.float32) for ids in tokens],
            "versions": [[POLICY_VERSION]] * count,
            "version_starts": [[0]] * count,
            "response": [f"<think>Sample {row}.</think><answer>{PROGRAM}</answer>" for row in range(count)],
            "finish_reason": np.where((rng.random(count) < 0.1) & (group != 1), "length", "stop").tolist(),
            "format_ok": format_ok.tolist(),
            "thinking": [f"Sample {row}." if good else None for row, good in enumerate(format_ok)],
            "program": [PROGRAM if good else None for good in format_ok],
        },
    )
    judgements = []
    for good, right, gone in zip(format_ok, passed, lost, strict=True):
        if not good:
            judgements.append(None)
        elif gone:
            judgements.append(Judgement(None, 0, 4, 1.0, "docker", error="the container died"))
        elif right:
            judgements.append(Judgement(Verdict.PASSED, 4, 4, 1.0, "docker"))
        else:
            done = int(rng.integers(0, 4))
            judgements.append(Judgement(Verdict.WRONG_ANSWER, done, 4, 1.0, "docker", done, "expected 4, got 5"))
    verdicts = arrow.verdict_table(judgements)
    scalars = scalar_table(rollouts, verdicts)
    asked = GroupScorer(None, 1.0, plan_reward(config).scored)._rows(scalars)
    fail = {row: "no score in time" for row in asked if rng.random() < 0.1}
    thinking = thinking_table(count, {row: float(rng.random()) for row in asked if row not in fail}, fail)
    scoring = Scoring(rollouts, count, [], [], 0.0, None, thinking)
    requests = tuple(PromptRequest(name, (1, 2, 3), 0) for name in ids)
    demand = Demand("demand", requests, SIZE, 1.0, True, POLICY_VERSION, lambda: None)
    shipment = Shipment(demand, Judging(rollouts, verdicts, None, (), 0.0, 0.0), scoring=scoring, scalars=scalars)
    return [Group(shipment, request, index * SIZE, SIZE) for index, request in enumerate(requests)]
