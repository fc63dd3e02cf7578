"""Make the starter once and keep it: problems, policy and reward model under one content key.

Owns the cache and the order of the parts, for both families. Each heavy part runs in a child process (`python -m
pgrpo_ray.starter`), one after the other, because the reward model starts from the policy's weights; the caller's
process imports neither torch nor transformers here. Built in a temporary folder beside the cache and renamed, so a
folder of that name is always whole. Of several builders one builds and the others wait for it, as they would take each
other's processors (where the file system has no locks all build, and the first one's folder serves). The caller waits
for the child by reading its output; a child that ends or is killed closes it. On any exception, Ctrl-C included, the
child is stopped and the temporary folder removed.
"""

import contextlib
import fcntl
import hashlib
import importlib.metadata
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pgrpo_ray
from pgrpo_ray.config import StarterSection
from pgrpo_ray.errors import ConfigError, EnvironmentFault
from pgrpo_ray.starter import problems
from pgrpo_ray.starter.maths import problems as maths_problems

WARMUP_PROBLEMS = 12000
"""Problems for the warm start and the reward model, apart from the held-out ones."""
BUILD_TIMEOUT_S = 3600.0
"""For another builder. Ours: on one slow core both parts take about 20 minutes."""
PARTS = ("policy", "reward_model")
_LIBRARIES = ("torch", "transformers", "tokenizers")
_LOG_TAIL = 2000


@dataclass(frozen=True)
class Family:
    """What differs between the starter's families."""

    name: str
    """Of its folders in the cache, before the key."""
    module: str
    """Run with a part's name."""
    problems: Any
    """The module that generates its problems."""
    label: str
    """Before the names of its problems."""
    sources: tuple[str, ...]
    """What decides the artifacts, not what is done with them: another judge or server makes no other starter. A family
    has a key of its own, so that a change of one makes no starter of the other anew."""


_TRAINING = ("reward_model/calibration.py", "reward_model/model.py", "reward_model/train.py", "algo/preferences.py")
_OF_BOTH = ("parts.py", "policy.py", "products.py", "proofreading.py", "tokenizer.py", "demonstrations.py")
FAMILIES = {
    "code": Family("starter", "pgrpo_ray.starter", problems, "", ("starter/*.py", *_TRAINING)),
    "maths": Family(
        "starter-maths",
        "pgrpo_ray.starter.maths",
        maths_problems,
        "maths-",
        ("starter/maths/*.py", *(f"starter/{name}" for name in _OF_BOTH), *_TRAINING),
    ),
}


@dataclass(frozen=True, slots=True)
class StarterPaths:
    """Where the artifacts are. All inside one cache folder; read them, never write."""

    policy: Path
    """Model folder in Hugging Face format, tokenizer with chat template included."""
    proofreader: Path
    """Model folder in Hugging Face format: the reward model before it saw preferences, what `pgrpo rm train` begins
    with. Its head says whether the text was right so far; never trained on a pipeline of `heldout`."""
    reward_model: Path
    """Model folder in Hugging Face format."""
    train: Path
    """Problems, JSONL."""
    heldout: Path
    """Problems, JSONL; disjoint from `train` in English and in pipeline."""
    report: Path
    """JSON: seconds per part, losses, pair accuracy of the reward model per kind."""

    @classmethod
    def inside(cls, folder: Path) -> "StarterPaths":
        """Name the artifacts of one cache folder."""
        return cls(
            folder / "policy",
            folder / "proofreader",
            folder / "reward_model",
            folder / "train.jsonl",
            folder / "heldout.jsonl",
            folder / "report.json",
        )


def ensure_starter(
    section: StarterSection,
    cache_dir: str | Path,
    on_progress: Callable[[str, float], None] = lambda part, done: None,
) -> StarterPaths:
    """Return the starter's artifacts, making them when this section was never built by this version of the code.

    `on_progress` receives the part (`problems`, `policy`, `reward_model`) and how much of it is done, in [0, 1]. Raises
    `ConfigError` when more problems are asked for than the family holds, `EnvironmentFault` with the end of the log
    when a part fails.
    """
    cache = Path(cache_dir)
    cache.mkdir(parents=True, exist_ok=True)
    final = cache / f"{FAMILIES[section.family].name}-{content_key(section)}"
    if final.exists():
        return StarterPaths.inside(final)
    on_progress("problems", 0.0)
    with _alone(cache):
        if not final.exists():
            building = Path(tempfile.mkdtemp(prefix=f".{FAMILIES[section.family].name}-", dir=cache))
            try:
                _build(section, building, on_progress)
                building.chmod(0o755)  # mkdtemp's 0700 would lock other users out of a shared cache
                _publish(building, final)
            finally:
                shutil.rmtree(building, ignore_errors=True)
    return StarterPaths.inside(final)


@contextlib.contextmanager
def _alone(cache: Path) -> Iterator[None]:
    """Wait until nobody else builds in the folder, and keep others waiting for the length of the block.

    Raises `EnvironmentFault` where another builder holds it for longer than any build takes.
    """
    folder = os.open(cache, os.O_RDONLY)
    try:
        deadline = time.monotonic() + BUILD_TIMEOUT_S
        with contextlib.suppress(OSError):  # not every network's file system can
            while not _locked(folder):
                if time.monotonic() > deadline:
                    raise EnvironmentFault(
                        f"another process has been making a starter in {cache} for {BUILD_TIMEOUT_S / 60:.0f} minutes. "
                        "End it if it hangs, or set PGRPO_CACHE to another folder."
                    )
                time.sleep(0.5)
        yield
    finally:
        os.close(folder)


def _locked(folder: int) -> bool:
    try:
        fcntl.flock(folder, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def content_key(section: StarterSection) -> str:
    """Return 12 hex digits of everything that decides what is built: settings, source and library versions.

    `threads` is left out, and what the processor multiplies fast (`products`): they change digits, as another machine
    does anyway, not what the artifacts are. `report.json` has both.
    """
    digest = hashlib.sha256(section.model_dump_json(exclude={"threads"}).encode())
    root = Path(pgrpo_ray.__file__).parent
    for source in sorted(path for pattern in FAMILIES[section.family].sources for path in root.glob(pattern)):
        digest.update(f"\0{source.relative_to(root)}\0".encode() + source.read_bytes())
    for library in _LIBRARIES:
        digest.update(f"\0{library}=={importlib.metadata.version(library)}".encode())
    return digest.hexdigest()[:12]


def _build(section: StarterSection, folder: Path, on_progress: Callable[[str, float], None]) -> None:
    """Make every artifact in `folder`."""
    report: dict[str, Any] = {"section": section.model_dump()}
    started = time.monotonic()
    _write_problems(section, folder)
    report["problems_s"] = round(time.monotonic() - started, 1)
    on_progress("problems", 1.0)
    for part in PARTS:
        report |= _run_part(part, section, folder, on_progress)
    report["total_s"] = round(time.monotonic() - started, 1)
    StarterPaths.inside(folder).report.write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")


def _write_problems(section: StarterSection, folder: Path) -> None:
    """Write `heldout.jsonl`, and apart from it in words and in solution `train.jsonl` and `warmup.jsonl`."""
    family = FAMILIES[section.family]
    make, make_apart = family.problems.generate, family.problems.generate_apart
    try:
        heldout = make(section.seed, section.heldout_problems)
        train = make_apart(section.seed, section.train_problems, heldout, "train")
        warmup = make_apart(section.seed, min(WARMUP_PROBLEMS, 32 * section.sft_steps), heldout, "warmup")
    except ValueError as error:
        raise ConfigError(
            f"starter.heldout_problems={section.heldout_problems} takes more of the starter's problems than it has, or "
            f"leaves none to train on: {error} Lower starter.heldout_problems.",
            path="starter.heldout_problems",
        ) from error
    for name, exercises in (("heldout", heldout), ("train", train), ("warmup", warmup)):
        family.problems.write_jsonl(folder / f"{name}.jsonl", exercises, f"{family.label}{name}")


def _run_part(
    part: str, section: StarterSection, folder: Path, on_progress: Callable[[str, float], None]
) -> dict[str, Any]:
    """Run one part in a child process and return its figures. Raises `EnvironmentFault` when it fails."""
    root = str(Path(pgrpo_ray.__file__).parent.parent)
    environment = dict(
        os.environ,
        PYTHONPATH=os.pathsep.join(filter(None, (root, os.environ.get("PYTHONPATH")))),
        OMP_NUM_THREADS=str(section.threads),
        HF_HUB_OFFLINE="1",
        CUDA_VISIBLE_DEVICES="",  # a model of this size trains on the CPU, the same everywhere
    )
    log = folder / f"{part}.log"
    module = FAMILIES[section.family].module
    command = [sys.executable, "-m", module, part, str(folder), section.model_dump_json()]
    report: dict[str, Any] | None = None
    on_progress(part, 0.0)
    with log.open("wb") as log_file:
        child = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=log_file, env=environment)
        try:
            for line in child.stdout or ():
                message = json.loads(line)
                if "done" in message:
                    on_progress(part, message["done"])
                report = message.get("report", report)
            child.wait()
        finally:
            _stop(child)
    if child.returncode or report is None:
        tail = log.read_text(encoding="utf-8", errors="replace")[-_LOG_TAIL:].strip()
        raise EnvironmentFault(
            f"the starter's part {part!r} failed with exit status {child.returncode}. The end of its log:\n{tail}"
        )
    return report


def _stop(child: subprocess.Popen[bytes]) -> None:
    """End a child that still runs and close its pipe; the caller's own exception goes on."""
    if child.poll() is None:
        child.terminate()
        try:
            child.wait(timeout=5)
        except subprocess.TimeoutExpired:
            child.kill()
            child.wait()
    if child.stdout:
        child.stdout.close()


def _publish(building: Path, final: Path) -> None:
    """Rename the finished folder into place; another builder may have been first, and then its folder serves."""
    try:
        building.rename(final)
    except OSError:
        if not StarterPaths.inside(final).report.exists():
            raise
