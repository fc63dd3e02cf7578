"""Errors teach: each wrong input ends with what is wrong, where, and how to mend it; never with a traceback.

One process runs the whole table, as a start of Python costs more than a row; a handful at the end are real processes.
"""

import json
import os
import re
import shlex
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import typer
import typer.main

from pgrpo_ray.cli import app, completion, failures
from pgrpo_ray.errors import ConfigError

CLUSTER = Path(__file__).parents[2] / "cluster"
LOCAL, PAIRS, RM, LCB = (CLUSTER / f"{name}.yaml" for name in ("local", "pairs", "reward-model", "lcb-rb"))
CASE = {"input": "", "output": "1"}
PROBLEM = {"id": "a", "prompt": "p", "tests": {"style": "stdin", "cases": [CASE]}}
GRADE = "grade --problems one.jsonl --programs programs.jsonl --out out.jsonl"
EVAL = "eval --model nomodel --benchmark jsonl --data one.jsonl"
OD = f"rm pairs {PAIRS} --set pairs.source=od --set pairs.out=p.parquet --set pairs.work=w --set chat.backend=endpoint"
ENDPOINT = f"{OD} --set chat.model=x --set problems.file=one.jsonl --set chat.base_url"

WRONG_INPUTS: list[tuple[str, ...]] = [
    # The command line itself.
    ("--nonsense", "No such option: --nonsense", "pgrpo --help"),
    ("trian", "No such command 'trian'", "Did you mean 'train'?"),
    ("rm pears", "No such command 'pears'", "Did you mean 'pairs'?", "pgrpo rm --help"),
    ("train", "Missing argument 'CONFIG'", "pgrpo train --help"),
    (f"train {LOCAL} --resum", "No such option: --resum", "--resume-from"),
    (f"check {LOCAL} extra", "unexpected extra argument", "extra", "pgrpo check --help"),
    (f"check {LOCAL} --gpu-gib 0", "'--gpu-gib'", "greater than or equal to 1"),
    ("doctor --jsn", "No such option: --jsn", "--json"),
    ("grade --problems one.jsonl --programs programs.jsonl", "Missing option '--out'", "pgrpo grade --help"),
    ("compare folder folder --seed -1", "'--seed'", "greater than or equal to 0"),
    # Files that hold no config.
    ("train missing.yaml", "missing.yaml: cannot be read (No such file or directory)", "path of a YAML config"),
    ("train loca.yaml", "loca.yaml", "Did you mean local.yaml?"),
    ("train folder", "folder: cannot be read (Is a directory)", "path of a YAML config"),
    ("train binary", "binary: is not valid YAML", "UTF-8", "at byte 0", "path of a YAML config"),
    ("check broken.yaml", "broken.yaml:3:1: is not valid YAML", "Close brackets"),
    ("check twice.yaml", "twice.yaml:1:1", "key 'run' stands twice"),
    ("check list.yaml", "list.yaml: must be a mapping of sections", "not a list"),
    ("check near.yaml", "near.yaml: run.stepps: unknown key", "Did you mean 'steps'?", "Did you mean 'rollout'?"),
    (f"train {PAIRS}", "unknown keys", "looks like a config of `pgrpo rm pairs`", "Known keys: algo"),
    (f"rm pairs {LOCAL}", "looks like a config of `pgrpo train`", "Known keys: chat"),
    ("rm serve missing.yaml", "missing.yaml: cannot be read"),
    (f"{EVAL} --config missing.yaml", "missing.yaml: cannot be read"),
    # Keys and values.
    (f"check {LOCAL} --set run.steps", "--set 'run.steps'", "section.key=value", "run.steps=10"),
    (f"check {LOCAL} --set steps=10", "steps: unknown key", "Did you mean 'run.steps'?"),
    (f"check {LOCAL} --set rollout.group_sise=4", "rollout.group_sise: unknown key", "Did you mean 'group_size'?"),
    (f"check {LOCAL} --set run=10", "run: is a section", "run.KEY=VALUE", "received 10"),
    (f"check {LOCAL} --set run.steps.x=1", "--set 'run.steps.x=1'", "steps is a value", "SECTION.steps=VALUE"),
    (f"check {LOCAL} --set run.steps=[1", "--set 'run.steps=[1': is not valid YAML", "Close brackets"),
    (f"check {LOCAL} --set run.steps=ten", "run.steps: must be a whole number, received 'ten'", "Left out, it is 60"),
    (f"check {LOCAL} --set run.seed=-1", "run.seed: must be at least 0, received -1", "Left out, it is 0"),
    (f"check {LOCAL} --set learner.learning_rate=.nan", "learner.learning_rate: must be a finite number", "nan"),
    (f"check {LOCAL} --set learner.learning_rate=0", "learner.learning_rate: must be above 0, received 0"),
    (f"check {LOCAL} --set algo.clip_low=1.5", "algo.clip_low: must be below 1, received 1.5", "it is 0.2"),
    (f"check {LOCAL} --set learner.adam_betas=[0.9]", "learner.adam_betas.1: is missing", "received [0.9]"),
    (f"check {LOCAL} --set cluster.pinned=rollout", "cluster.pinned: must be a list, such as [a, b]"),
    (f"check {LOCAL} --set cluster.pinned=[rolout]", "cluster.pinned.0", "Did you mean 'rollout'?"),
    (f"check {LOCAL} --set run.trace=maybe", "run.trace: must be true or false, received 'maybe'"),
    (f"check {LOCAL} --set policy.model=5", "policy.model: must be a text (in quotes", "received 5"),
    (f"check {LOCAL} --set algo.advantage=gpro", "algo.advantage: must be 'grpo', 'dr_grpo'", "Did you mean 'grpo'?"),
    (f"check {LOCAL} --set run.name=../../etc", "run.name: becomes a folder's name", "received '../../etc'"),
    (f"check {LOCAL} --set run.dir=~nobody-here/x", "run.dir", "names nobody's home", "Write the whole path"),
    (f"rm train {RM} --set output.name=../x", "output.name: becomes a folder's name", "received '../x'"),
    ("rm serve --port 99999", "rm serve: server.port: must be at most 65535, received 99999"),
    ("rm serve --host ''", "server.host: must have at least 1 character", "Left out, it is '127.0.0.1'"),
    ("rm serve --backend vlm", "reward_model.backend: must be", "Did you mean 'vllm'?"),
    # What does not go together.
    (f"train {LOCAL} --resume --resume-from step-000020", "--resume, --resume-from", "Give one of them"),
    (f"check {LOCAL} --set rollout.group_size=1", "rollout.group_size is 1", "Set it to 2 or more"),
    (f"check {LOCAL} --set algo.late_groups=drop", "algo.late_groups=drop needs algo.max_staleness above 0"),
    (f"check {LOCAL} --set cluster.address=auto --set sandbox.backend=process", "Set sandbox.backend=docker"),
    (f"check {LOCAL} --on-cluster", "cluster.address is 'local'", "--set cluster.address=auto"),
    (f"check {LOCAL} --set algo.reward=posterier", "algo.reward='posterier'", "Did you mean 'posterior'?"),
    (f"check {LOCAL} --set algo.reward=no_such.module:name", "No module named 'no_such'", "Put it on PYTHONPATH"),
    (f"check {LOCAL} --set data.problems=one.jsonl", "256 held-out problems asked of 1", "Lower data.heldout_problems"),
    # Models.
    (f"check {LOCAL} --set policy.model=./nomodel", "policy.model: ./nomodel", "no config.json", "Hugging Face format"),
    (
        f"check {LOCAL} --set policy.model=./notokenizer",
        "policy.model",
        "holds no tokenizer",
        "Save it beside the model",
    ),
    ("rm probe --reward-model ./nomodel", "--reward-model: ./nomodel", "no config.json"),
    ("rm serve --model ./nomodel", "reward_model.model='./nomodel'", "no config.json"),
    (f"rm train {RM} --set output.dir=o --set model.base=./nomodel", "model.base: ./nomodel", "no config.json"),
    (EVAL, "policy.model: nomodel", "no config.json"),
    # Data.
    (f"check {LOCAL} --set data.problems=missing.jsonl", "missing.jsonl: cannot be read", "path of a .jsonl"),
    (f"check {LOCAL} --set data.problems=broken.jsonl", "broken.jsonl:1: is not valid JSON", "one JSON object a line"),
    (f"check {LOCAL} --set data.problems=twice.jsonl", "twice.jsonl:2: id 'a' stands already on line 1", "its own id"),
    ("grade --problems one.jsonl --programs nocolumn.jsonl --out o", "nocolumn.jsonl:1: 'program' is missing"),
    (f"{GRADE} --format humanevil", "format 'humanevil' is not known", "Did you mean 'humaneval'?"),
    (f"{GRADE} --backend dokcer", "sandbox.backend: must be", "Did you mean 'docker'?"),
    ("grade --problems one.jsonl --programs programs.jsonl --out one.jsonl", "--out one.jsonl", "Name another file"),
    ("rm inspect folder", "folder: cannot be read (Is a directory)", "path of a .jsonl"),
    ("rm inspect binary", "binary:1: is not UTF-8 at byte 0", "save this one as UTF-8"),
    ("rm inspect bad.parquet", "bad.parquet: is a damaged Parquet file", "Copy or download it again"),
    ("rm inspect nocolumn.jsonl", "nocolumn.jsonl:1: 'better' is missing", "Add it"),
    (f"rm train {RM} --set output.dir=o --set data.pairs=empty.jsonl", "empty.jsonl: holds no records"),
    (
        "rm probe --reward-model m --reasonings one.jsonl --problems one.jsonl",
        "--reasonings and --problems",
        "one of them",
    ),
    ("rm probe --reward-model ./nomodel --seed -1", "probe.seed: must be at least 0, received -1"),
    (
        f"lcb-rb build {LCB} --set samples.files=[no/*.arrow] --set lcb_rb.dir=l",
        "no/*.arrow: names no file",
        "Give Arrow",
    ),
    ("lcb-rb score nocolumn.jsonl", "nocolumn.jsonl:1: 'chosen' is missing", "name the better text `chosen`"),
    ("lcb-rb score one.jsonl --set judge.kind=none", "--set overrides the judge's config", "Give --judge CONFIG"),
    ("lcb-rb agree missing.jsonl", "missing.jsonl: cannot be read", "path of a .jsonl"),
    ("lcb-rb review nocolumn.jsonl --sample 0", "'--sample'", "greater than or equal to 1"),
    ("rm inspect one.jsonl --out one.jsonl", "--out one.jsonl", "also read", "Name another file"),
    ("data prepare missing.jsonl --out o.jsonl --format deepcoder", "missing.jsonl: is not there", "Give the path"),
    ("data prepare one.jsonl --out o.jsonl --format depcoder", "Did you mean 'deepcoder'?"),
    ("data prepare one.jsonl --out one.jsonl --format jsonl", "--out one.jsonl", "also read", "Name another file"),
    ("data prepare one.jsonl --out o.jsonl --format jsonl --exclude one.jsonl", "write it as FILE:FORMAT"),
    (
        "data prepare one.jsonl --out o.jsonl --format jsonl --from yesterday",
        "must be a day as YYYY-MM-DD",
        "'yesterday'",
    ),
    ("data prepare one.jsonl --out o.jsonl --format jsonl --max-prompt-tokens 9", "go together", "Give both or none"),
    ("eval --model nomodel", "benchmark.data is empty", "Give --data FILE"),
    ("eval --model nomodel --benchmark humanevil --data one.jsonl", "'humanevil'", "Did you mean 'humaneval'?"),
    ("eval --model nomodel --benchmark humaneval --data one.jsonl", "one.jsonl:1", "`task_id`", "--benchmark jsonl"),
    (f"{EVAL} --k 5", "evaluation.k holds 5", "Raise --n or lower --k"),
    (f"{EVAL} --n 5", "rollout.temperature 0", "Give --temperature"),
    (f"{EVAL} --temperature nan", "rollout.temperature: must be a number"),
    (f"{EVAL} --template missing.txt", "--template missing.txt: cannot be read (No such file", "docs/evaluation.md"),
    (f"{EVAL} --solutions refrence", "evaluation.solutions", "Did you mean 'reference'?"),
    ("config locl", "there is no config 'locl'", "There are: evaluation, lcb-rb, local"),
    ("report missing", "missing: is no folder of a run", "such as runs/local"),
    ("rollouts missing", "missing: is no folder of a run", "such as runs/local"),
    ("rollouts folder --step 0", "'--step'", "greater than or equal to 1"),
    ("replay missing", "missing: is no folder of a run", "such as runs/local"),
    ("compare missing folder", "missing: has no samples.parquet", "Give a result of `pgrpo eval`"),
    ("compare folder folder --allow templat", "--allow templat", "Did you mean 'template'?"),
    # Endpoints and secrets.
    (f"{OD} --set chat.model=x", "chat.base_url", "such as http://localhost:8000/v1"),
    (f"{ENDPOINT}=http://user:pw@localhost:1/v1", "chat.base_url holds a user", "chat.api_key_env"),
    (f"{ENDPOINT}=http://h/v1 --set chat.api_key_env=sk-pasted-secret", "chat.api_key_env", "never the secret itself"),
    (f"{ENDPOINT}=http://h/v1 --set chat.api_key_env=NO_SUCH_KEY", "'NO_SUCH_KEY'", "Set that variable"),
    # What a run needs to be there.
    (f"train {LOCAL} --set run.dir=runs --resume", "no run named 'local' in", "--set run.name=NAME"),
    (f"check {LOCAL} --set checkpoint.dir=s4://x", "checkpoint.dir: s4://x", "s3://, gs://"),
]
"""A command line and what its message must say; exit status 2."""
MACHINE_FAULTS: list[tuple[str, ...]] = [
    (f"check {LOCAL} --set run.dir=/proc/nowhere", "run.dir", "--set run.dir=FOLDER"),
    (f"{GRADE} --backend docker", "sandbox.backend=docker", "--set sandbox.backend=process"),
    ("grade --problems one.jsonl --programs programs.jsonl --out folder", "--out folder", "Name a file to write"),
    ("grade --problems one.jsonl --programs programs.jsonl --out /proc/x/o", "--out /proc/x/o", "Name another file"),
    ("rm probe --reward-model ./nomodel --out folder", "--out folder", "Name a file to write"),
    ("data prepare one.jsonl --out folder --format jsonl", "--out folder", "Name a file to write"),
]
"""The same where the machine refuses; exit status 1."""
ROWS = [*((2, *row) for row in WRONG_INPUTS), *((1, *row) for row in MACHINE_FAULTS)]


@pytest.fixture(scope="module")
def wrong_files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("wrong")
    for name in ("folder", "nomodel", "notokenizer"):
        (folder / name).mkdir()
    problem = json.dumps(PROBLEM) + "\n"
    for name, text in {
        "local.yaml": "run: {}\n",
        "broken.yaml": "run:\n  steps: [1\n",
        "twice.yaml": "run: {}\nrun: {}\n",
        "list.yaml": "- a\n- b\n",
        "near.yaml": "run:\n  stepps: 3\nrollout_: {}\n",
        "empty.jsonl": "",
        "broken.jsonl": "{broken\n",
        "one.jsonl": problem,
        "twice.jsonl": 2 * problem,
        "programs.jsonl": '{"problem_id": "a", "program": "print(1)"}\n',
        "nocolumn.jsonl": '{"problem_id": "a", "prompt": "p"}\n',
        "bad.parquet": "PAR1 and nothing that follows",
        "notokenizer/config.json": "{}",
        "notokenizer/model.safetensors": "",
    }.items():
        (folder / name).write_text(text, encoding="utf-8")
    (folder / "binary").write_bytes(bytes(range(255, 155, -1)))
    return folder


@pytest.fixture
def pgrpo(monkeypatch, capsys, wrong_files):
    """Call `pgrpo` in this process, in the folder of wrong files; return (status, all that was printed)."""
    monkeypatch.chdir(wrong_files)
    monkeypatch.setattr(sys, "argv", ["pgrpo"])
    for name, value in {"COLUMNS": "200", "NO_COLOR": "1", "DOCKER_HOST": "unix:///nowhere/docker.sock"}.items():
        monkeypatch.setenv(name, value)

    def call(line):
        status = failures.status_of(app, shlex.split(line))
        printed = capsys.readouterr()
        return status, re.sub(r"\x1b\[[0-9;]*m", "", printed.out + printed.err)

    return call


def line_of(row):
    """The command of a row, without where this checkout lies."""
    return row[1].replace(str(CLUSTER), "cluster")


@pytest.mark.parametrize("row", ROWS, ids=line_of)
def test_a_wrong_input_is_explained(row, pgrpo):
    wanted, line, *words = row
    status, printed = pgrpo(line)
    for word in words:
        assert word in printed
    assert status == wanted, printed
    assert "Traceback" not in printed and "defect" not in printed
    assert "sk-pasted-secret" not in printed


def commands(group, path=()):
    """Every command that ends a path, as the words that call it."""
    for name, command in group.commands.items():
        if hasattr(command, "commands"):
            yield from commands(command, (*path, name))
        else:
            yield " ".join((*path, name))


def test_every_command_has_a_wrong_input_in_the_table():
    assert len(ROWS) >= 60
    missing = [
        name for name in commands(typer.main.get_command(app)) if not any(row[1].startswith(name) for row in ROWS)
    ]
    assert not missing, f"give a row to each of these commands: {missing}"


@pytest.mark.skipif(os.geteuid() == 0, reason="root reads everything")
def test_a_file_without_permission_is_named(pgrpo, wrong_files):
    (wrong_files / "closed.yaml").write_text("run: {}\n")
    (wrong_files / "closed.yaml").chmod(0)
    assert pgrpo("check closed.yaml") == (
        2,
        "error: closed.yaml: cannot be read (Permission denied). Give the path of a YAML config.\n",
    )


def test_an_endpoint_that_does_not_answer_is_named(pgrpo, wrong_files):
    with socket.create_server(("127.0.0.1", 0)) as server:  # a port that was free and is closed again
        url = f"http://127.0.0.1:{server.getsockname()[1]}/v1"
    status, printed = pgrpo(f"{ENDPOINT}={url} --set chat.retries=0 --set chat.timeout_s=2 --set chat.deadline_s=5")
    assert (status, url in printed) == (1, True), printed
    assert "Traceback" not in printed


@pytest.fixture
def defective():
    """A command line with a defect, a failing machine and an error of the project in it."""
    broken = typer.Typer(pretty_exceptions_enable=False)

    @broken.command()
    def index():
        completion.config_files(3)  # a slip inside of our own code

    @broken.command()
    def disk():
        raise OSError(28, "No space left on device", "/full/file")

    @broken.command()
    def package():
        import no_such_package  # noqa: F401

    @broken.command()
    def config():
        raise ConfigError("run.steps is 0. Raise it.")

    return broken


def test_a_defect_says_so_and_how_to_see_more(defective, capsys):
    assert failures.status_of(defective, ["index"]) == 1
    printed = capsys.readouterr().err
    assert "AttributeError" in printed and "pgrpo_ray/cli/completion.py:" in printed
    assert "defect of pgrpo_ray" in printed and "--debug" in printed
    assert "Traceback" not in printed and printed.count("\n") == 1


@pytest.mark.parametrize(("command", "status"), [("index", 1), ("disk", 1), ("config", 2)])
def test_debug_shows_the_traceback_wherever_it_stands(defective, capsys, command, status):
    for arguments in (["--debug", command], [command, "--debug"]):
        assert failures.status_of(defective, arguments) == status
        assert "Traceback (most recent call last)" in capsys.readouterr().err


def test_a_full_disk_is_the_machines_fault(defective, capsys):
    assert failures.status_of(defective, ["disk"]) == 1
    printed = capsys.readouterr().err
    assert "/full/file: this machine refused (No space left on device)" in printed
    assert "defect" not in printed


def test_a_missing_package_is_the_machines_fault(defective, capsys):
    assert failures.status_of(defective, ["package"]) == 1
    printed = capsys.readouterr().err
    assert "No module named 'no_such_package'" in printed and "make setup" in printed
    assert "defect" not in printed


def process(*arguments):
    code = "from pgrpo_ray.cli import main; main()"
    environment = os.environ | {"NO_COLOR": "1", "COLUMNS": "100"}
    return subprocess.run(
        [sys.executable, "-c", code, *arguments], capture_output=True, text=True, timeout=60, env=environment
    )


def test_help_fits_a_screen_and_groups_commands_by_job():
    text = process("--help").stdout
    assert len(text.splitlines()) <= 40
    panels = [text.index(f"─ {name} ─") for name in ("Train", "Look", "Reward model", "Data", "Machine")]
    assert panels == sorted(panels)
    assert "─ Commands ─" not in text  # where commands without a panel would stand


def test_the_version_is_said():
    assert process("--version").stdout == "pgrpo_ray 0.1.0\n"


def test_a_real_process_explains_and_ends_with_the_status():
    done = process("check", str(LOCAL), "--set", "run.steps=ten", "--debug")
    assert done.returncode == 2
    assert "Traceback" in done.stderr and "run.steps: must be a whole number" in done.stderr


def test_a_shell_completes_configs_runs_and_benchmarks(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "cluster").mkdir()
    for name in ("cluster/local.yaml", "cluster/notes.txt", ".hidden.yaml"):
        (tmp_path / name).touch()
    assert completion.config_files("") == ["cluster/"]
    assert completion.config_files("cluster/lo") == ["cluster/local.yaml"]
    (tmp_path / "runs" / "mine").mkdir(parents=True)
    (tmp_path / "runs" / "mine" / "metrics.jsonl").touch()
    assert completion.run_folders("") == ["runs/mine"]
    assert completion.benchmark_names("humaneval_") == ["humaneval_plus"]
