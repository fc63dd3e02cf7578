"""The house rules that `docs` and `design` promise, checked on the source: imports go down only, words stay light."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[2] / "pgrpo_ray"

WORDS = {"types", "errors", "protocols", "config"}
PARTS = {"data", "rollout", "sandbox", "reward_model", "learner", "sync", "evaluation", "starter", "chat"}
LEVEL = (
    dict.fromkeys(WORDS, 0)
    | dict.fromkeys(["algo", "obs", "interrupts"], 1)
    | dict.fromkeys(PARTS, 2)
    | {"actors": 3, "preflight": 3, "driver": 4, "grading": 4, "diagnosis": 4, "jobs": 4, "report": 4}
    | {"launch": 5, "api": 6, "cli": 6, "__init__": 7, "__main__": 7}
)
"""Room of the house -> floor. A module may import its own room, and rooms on lower floors."""
SEES = {"starter": {"reward_model"}}
"""Parts do not see each other, except `data`, which all may, and the starter, which trains a reward model."""
ONLY_IN = {
    "vllm": {"reward_model/vllm_pooling.py", "rollout/vllm_engine.py", "sync/gpu_transfer.py"},
    "deepspeed": {"learner/zero3.py"},
    "docker": {"sandbox/docker_runner.py"},
    "math_verify": {"evaluation/maths/compare.py"},
    "openai": {"chat/endpoint.py"},
    "ray": {
        "actors/chat_workers.py",
        "actors/checkpointing.py",
        "actors/cluster.py",
        "actors/pool_metrics.py",
        "actors/pools.py",
        "actors/postmortem.py",
        "actors/reservation.py",
        "actors/reward_server.py",
        "actors/rm_training.py",
        "actors/run_metrics.py",
        "actors/sampling.py",
        "actors/scoring.py",
        "actors/spawn.py",
        "actors/supervision.py",
        "actors/waits.py",
        "actors/watchdog.py",
    },
}


def modules() -> list[Path]:
    return sorted(PACKAGE.rglob("*.py"))


def imports(path: Path) -> set[str]:
    """Every module name that a file imports, inside functions too."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            assert node.level == 0, f"{path}: relative import; write the whole name"
            found.add(node.module)
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return found


def room_of(name: str) -> str | None:
    parts = name.split(".")
    if parts[0] != "pgrpo_ray" or len(parts) == 1 or parts[1] == "__version__":
        return None
    assert parts[1] in LEVEL, f"{parts[1]} is a new room: give it a floor here and in the README"
    return parts[1]


@pytest.mark.parametrize("path", modules(), ids=lambda path: str(path.relative_to(PACKAGE)))
def test_imports_go_down_only(path):
    own = path.relative_to(PACKAGE).parts[0].removesuffix(".py")
    assert own in LEVEL, f"{own} is a new room: give it a floor here and in the README"
    for name in imports(path):
        room = room_of(name)
        if room is None or room == own:
            continue
        if room in PARTS and own in PARTS:
            assert room == "data" or room in SEES.get(own, set()), f"part {own} imports part {room}"
            continue
        words = own in WORDS and room in WORDS  # the words may use each other; a cycle would fail at import
        assert LEVEL[room] < LEVEL[own] or words, f"{own} imports {room}, which is not below it"


@pytest.mark.parametrize("library", ONLY_IN)
def test_heavy_libraries_stay_behind_their_adapter(library):
    users = {
        str(path.relative_to(PACKAGE))
        for path in modules()
        if any(name == library or name.startswith(f"{library}.") for name in imports(path))
    }
    assert users == ONLY_IN[library]


@pytest.mark.parametrize(
    "module", ["pgrpo_ray", "pgrpo_ray.config", "pgrpo_ray.cli", "pgrpo_ray.types", "pgrpo_ray.protocols"]
)
def test_light_modules_load_nothing_heavy(module):
    code = (
        f"import sys, {module}\n"
        "print(*sorted({'torch', 'ray', 'vllm', 'deepspeed', 'docker', 'transformers', 'pyarrow'} & set(sys.modules)))"
    )
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert loaded == []


def test_no_room_for_leftovers():
    assert not [path for path in modules() if path.stem in {"utils", "helpers", "misc", "common"}]
