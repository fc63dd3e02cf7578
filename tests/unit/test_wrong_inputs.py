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
import typing
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

ROWS: list[tuple[typing.Any, ...]] = [
    # The command line itself.
    ("--nonsense", 2, "No such option: --nonsense", "pgrpo --help"),
    ("trian", 2, "No such command 'trian'", "Did you mean 'train'?"),
    ("rm pears", 2, "No such command 'pears'", "Did you mean 'pairs'?", "pgrpo rm --help"),
    ("lcb-rb biuld", 2, "Did you mean 'build'?"),
    ("data prepair", 2, "Did you mean 'prepare'?"),
    ("train", 2, "Missing argument 'CONFIG'", "pgrpo train --help"),
    (f"train {LOCAL} --resum", 2, "No such option: --resum", "--resume-from"),
    (f"check {LOCAL} extra", 2, "unexpected extra argument", "extra", "pgrpo check --help"),
    (f"check {LOCAL} --gpu-gib 0", 2, "'--gpu-gib'", "greater than or equal to 1"),
    (f"check {LOCAL} --gpu-gib much", 2, "'--gpu-gib'", "valid number"),
    ("doctor --jsn", 2, "No such option: --jsn", "--json"),
    ("grade --problems one.jsonl --programs programs.jsonl", 2, "Missing option '--out'", "pgrpo grade --help"),
    ("compare only-one", 2, "Missing argument 'B'"),
    ("compare folder folder --seed -1", 2, "'--seed'", "greater than or equal to 0"),
    # Files that hold no config.
    ("train missing.yaml", 2, "missing.yaml: cannot be read (No such file or directory)", "path of a YAML config"),
    ("train loca.yaml", 2, "loca.yaml", "Did you mean local.yaml?"),
    ("train folder", 2, "folder: cannot be read (Is a directory)", "path of a YAML config"),
    ("train one.jsonl/x", 2, "one.jsonl/x: cannot be read (Not a directory)"),
    ("train binary", 2, "binary: is not valid YAML", "UTF-8", "at byte 0", "path of a YAML config"),
    ("check broken.yaml", 2, "broken.yaml:3:1: is not valid YAML", "Close brackets"),
    ("check twice.yaml", 2, "twice.yaml:1:1", "key 'run' stands twice"),
    ("check list.yaml", 2, "list.yaml: must be a mapping of sections", "not a list"),
    ("check near.yaml", 2, "near.yaml: run.stepps: unknown key", "Did you mean 'steps'?", "Did you mean 'rollout'?"),
    (f"train {PAIRS}", 2, "unknown keys", "looks like a config of `pgrpo rm pairs`", "Known keys: algo"),
    (f"rm pairs {LOCAL}", 2, "looks like a config of `pgrpo train`", "Known keys: chat"),
    ("rm train missing.yaml", 2, "missing.yaml: cannot be read"),
    ("rm serve missing.yaml", 2, "missing.yaml: cannot be read"),
    ("lcb-rb build missing.yaml", 2, "missing.yaml: cannot be read"),
    (f"{EVAL} --config missing.yaml", 2, "missing.yaml: cannot be read"),
    # Keys and values.
    (f"check {LOCAL} --set run.steps", 2, "--set 'run.steps'", "section.key=value", "run.steps=10"),
    (f"check {LOCAL} --set steps=10", 2, "steps: unknown key", "Did you mean 'run.steps'?"),
    (f"check {LOCAL} --set rollout.group_sise=4", 2, "rollout.group_sise: unknown key", "Did you mean 'group_size'?"),
    (f"check {LOCAL} --set run=10", 2, "run: is a section", "run.KEY=VALUE", "received 10"),
    (f"check {LOCAL} --set run.steps.x=1", 2, "--set 'run.steps.x=1'", "steps is a value", "SECTION.steps=VALUE"),
    (f"check {LOCAL} --set run.steps=[1", 2, "--set 'run.steps=[1': is not valid YAML", "Close brackets"),
    (
        f"check {LOCAL} --set run.steps=ten",
        2,
        "run.steps: must be a whole number, received 'ten'",
        "Left out, it is 60",
    ),
    (f"check {LOCAL} --set run.seed=-1", 2, "run.seed: must be at least 0, received -1", "Left out, it is 0"),
    (f"check {LOCAL} --set learner.learning_rate=.nan", 2, "learner.learning_rate: must be a finite number", "nan"),
    (f"check {LOCAL} --set learner.learning_rate=0", 2, "learner.learning_rate: must be above 0, received 0"),
    (f"check {LOCAL} --set algo.clip_low=1.5", 2, "algo.clip_low: must be below 1, received 1.5", "it is 0.2"),
    (f"check {LOCAL} --set learner.adam_betas=[0.9]", 2, "learner.adam_betas.1: is missing", "received [0.9]"),
    (f"check {LOCAL} --set cluster.pinned=rollout", 2, "cluster.pinned: must be a list, such as [a, b]"),
    (f"check {LOCAL} --set cluster.pinned=[rolout]", 2, "cluster.pinned.0", "Did you mean 'rollout'?"),
    (f"check {LOCAL} --set run.trace=maybe", 2, "run.trace: must be true or false, received 'maybe'"),
    (f"check {LOCAL} --set policy.model=5", 2, "policy.model: must be a text (in quotes", "received 5"),
    (
        f"check {LOCAL} --set algo.advantage=gpro",
        2,
        "algo.advantage: must be 'grpo', 'dr_grpo'",
        "Did you mean 'grpo'?",
    ),
    (f"check {LOCAL} --set data.format=humanevil", 2, "data.format: must be", "Did you mean 'humaneval'?"),
    (f"check {LOCAL} --set run.name=../../etc", 2, "run.name: becomes a folder's name", "received '../../etc'"),
    (f"check {LOCAL} --set run.dir=~nobody-here/x", 2, "run.dir", "names nobody's home", "Write the whole path"),
    (f"rm train {RM} --set output.name=../x", 2, "output.name: becomes a folder's name", "received '../x'"),
    (f"rm train {RM} --set schedule.epochs=0", 2, "schedule.epochs: must be above 0, received 0"),
    (f"lcb-rb build {LCB} --set judge.kind=non", 2, "judge.kind: must be", "Did you mean 'none'?"),
    ("rm serve --port 99999", 2, "rm serve: server.port: must be at most 65535, received 99999"),
    ("rm serve --host ''", 2, "server.host: must have at least 1 character", "Left out, it is '127.0.0.1'"),
    ("rm serve --backend vlm", 2, "reward_model.backend: must be", "Did you mean 'vllm'?"),
    # What does not go together.
    (f"train {LOCAL} --resume --resume-from step-000020", 2, "--resume, --resume-from", "Give one of them"),
    (f"check {LOCAL} --set rollout.group_size=1", 2, "rollout.group_size is 1", "Set it to 2 or more"),
    (f"check {LOCAL} --set algo.late_groups=drop", 2, "algo.late_groups=drop needs algo.max_staleness above 0"),
    (f"check {LOCAL} --set cluster.address=auto --set sandbox.backend=process", 2, "Set sandbox.backend=docker"),
    (f"check {LOCAL} --on-cluster", 2, "cluster.address is 'local'", "--set cluster.address=auto"),
    (f"check {LOCAL} --set algo.reward=posterier", 2, "algo.reward='posterier'", "Did you mean 'posterior'?"),
    (f"check {LOCAL} --set algo.reward=no_such.module:name", 2, "No module named 'no_such'", "Put it on PYTHONPATH"),
    (
        f"check {LOCAL} --set data.problems=one.jsonl",
        2,
        "256 held-out problems asked of 1",
        "Lower data.heldout_problems",
    ),
    # Models.
    (
        f"check {LOCAL} --set policy.model=./nomodel",
        2,
        "policy.model: ./nomodel",
        "no config.json",
        "Hugging Face format",
    ),
    (
        f"check {LOCAL} --set policy.model=./notokenizer",
        2,
        "policy.model",
        "holds no tokenizer",
        "Save it beside the model",
    ),
    ("rm probe --reward-model ./nomodel", 2, "--reward-model: ./nomodel", "no config.json"),
    ("rm serve --model ./nomodel", 2, "reward_model.model='./nomodel'", "no config.json"),
    (f"rm train {RM} --set output.dir=o --set model.base=./nomodel", 2, "model.base: ./nomodel", "no config.json"),
    (EVAL, 2, "policy.model: nomodel", "no config.json"),
    # Data.
    (f"check {LOCAL} --set data.problems=missing.jsonl", 2, "missing.jsonl: cannot be read", "path of a .jsonl"),
    (
        f"check {LOCAL} --set data.problems=broken.jsonl",
        2,
        "broken.jsonl:1: is not valid JSON",
        "one JSON object a line",
    ),
    (
        f"check {LOCAL} --set data.problems=twice.jsonl",
        2,
        "twice.jsonl:2: id 'a' stands already on line 1",
        "its own id",
    ),
    ("grade --problems one.jsonl --programs nocolumn.jsonl --out o", 2, "nocolumn.jsonl:1: 'program' is missing"),
    (f"{GRADE} --format humanevil", 2, "format 'humanevil' is not known", "Did you mean 'humaneval'?"),
    (f"{GRADE} --backend dokcer", 2, "sandbox.backend: must be", "Did you mean 'docker'?"),
    ("grade --problems one.jsonl --programs programs.jsonl --out one.jsonl", 2, "--out one.jsonl", "Name another file"),
    ("rm inspect folder", 2, "folder: cannot be read (Is a directory)", "path of a .jsonl"),
    ("rm inspect empty.jsonl", 2, "empty.jsonl: holds no records", "Check the path"),
    ("rm inspect binary", 2, "binary:1: is not UTF-8 at byte 0", "save this one as UTF-8"),
    ("rm inspect bad.parquet", 2, "bad.parquet: is a damaged Parquet file", "Copy or download it again"),
    ("rm inspect nocolumn.jsonl", 2, "nocolumn.jsonl:1: 'better' is missing", "Add it"),
    (f"rm train {RM} --set output.dir=o --set data.pairs=empty.jsonl", 2, "empty.jsonl: holds no records"),
    (
        "rm probe --reward-model m --reasonings one.jsonl --problems one.jsonl",
        2,
        "--reasonings and --problems",
        "one of them",
    ),
    ("rm probe --reward-model ./nomodel --seed -1", 2, "probe.seed: must be at least 0, received -1"),
    (
        f"lcb-rb build {LCB} --set samples.files=[no/*.arrow] --set lcb_rb.dir=l",
        2,
        "no/*.arrow: names no file",
        "Give Arrow",
    ),
    ("lcb-rb score nocolumn.jsonl", 2, "nocolumn.jsonl:1: 'chosen' is missing", "name the better text `chosen`"),
    ("lcb-rb score one.jsonl --set judge.kind=none", 2, "--set overrides the judge's config", "Give --judge CONFIG"),
    ("lcb-rb agree missing.jsonl", 2, "missing.jsonl: cannot be read", "path of a .jsonl"),
    ("lcb-rb review nocolumn.jsonl --sample 0", 2, "'--sample'", "greater than or equal to 1"),
    ("rm inspect one.jsonl --out one.jsonl", 2, "--out one.jsonl", "also read", "Name another file"),
    ("data prepare missing.jsonl --out o.jsonl --format deepcoder", 2, "missing.jsonl: is not there", "Give the path"),
    ("data prepare one.jsonl --out o.jsonl --format depcoder", 2, "Did you mean 'deepcoder'?"),
    ("data prepare one.jsonl --out one.jsonl --format jsonl", 2, "--out one.jsonl", "also read", "Name another file"),
    ("data prepare one.jsonl --out o.jsonl --format jsonl --exclude one.jsonl", 2, "write it as FILE:FORMAT"),
    (
        "data prepare one.jsonl --out o.jsonl --format jsonl --from yesterday",
        2,
        "must be a day as YYYY-MM-DD",
        "'yesterday'",
    ),
    (
        "data prepare one.jsonl --out o.jsonl --format jsonl --max-prompt-tokens 9",
        2,
        "go together",
        "Give both or none",
    ),
    ("eval --model nomodel", 2, "benchmark.data is empty", "Give --data FILE"),
    ("eval --model nomodel --benchmark humanevil --data one.jsonl", 2, "'humanevil'", "Did you mean 'humaneval'?"),
    ("eval --model nomodel --benchmark humaneval --data one.jsonl", 2, "one.jsonl:1", "`task_id`", "--benchmark jsonl"),
    (f"{EVAL} --k 5", 2, "evaluation.k holds 5", "Raise --n or lower --k"),
    (f"{EVAL} --n 5", 2, "rollout.temperature 0", "Give --temperature"),
    (f"{EVAL} --temperature nan", 2, "rollout.temperature: must be a number"),
    (f"{EVAL} --template missing.txt", 2, "--template missing.txt: cannot be read (No such file", "docs/evaluation.md"),
    (f"{EVAL} --solutions refrence", 2, "evaluation.solutions", "Did you mean 'reference'?"),
    ("config locl", 2, "there is no config 'locl'", "There are: evaluation, lcb-rb, local"),
    ("report missing", 2, "missing: is no folder of a run", "such as runs/local"),
    ("report", 2, "Missing argument 'RUN...'", "pgrpo report --help"),
    ("rollouts missing", 2, "missing: is no folder of a run", "such as runs/local"),
    ("rollouts folder --step 0", 2, "'--step'", "greater than or equal to 1"),
    ("replay missing", 2, "missing: is no folder of a run", "such as runs/local"),
    ("replay folder --steps 1", 2, "No such option: --steps", "--step"),
    ("compare missing folder", 2, "missing: has no samples.parquet", "Give a result of `pgrpo eval`"),
    ("compare folder folder --allow templat", 2, "--allow templat", "Did you mean 'template'?"),
    # Endpoints and secrets.
    (f"{OD} --set chat.model=x", 2, "chat.base_url", "such as http://localhost:8000/v1"),
    (f"{ENDPOINT}=http://user:pw@localhost:1/v1", 2, "chat.base_url holds a user", "chat.api_key_env"),
    (
        f"{ENDPOINT}=http://h/v1 --set chat.api_key_env=sk-pasted-secret",
        2,
        "chat.api_key_env",
        "never the secret itself",
    ),
    (f"{ENDPOINT}=http://h/v1 --set chat.api_key_env=NO_SUCH_KEY", 2, "'NO_SUCH_KEY'", "Set that variable"),
    # Machines that fail.
    (f"train {LOCAL} --set run.dir=runs --resume", 2, "no run named 'local' in", "--set run.name=NAME"),
    (f"check {LOCAL} --set run.dir=/proc/nowhere", 1, "run.dir", "--set run.dir=FOLDER"),
    (f"check {LOCAL} --set checkpoint.dir=s4://x", 2, "checkpoint.dir: s4://x", "s3://, gs://"),
    (f"{GRADE} --backend docker", 1, "sandbox.backend=docker", "--set sandbox.backend=process"),
    ("grade --problems one.jsonl --programs programs.jsonl --out folder", 1, "--out folder", "Name a file to write"),
    ("grade --problems one.jsonl --programs programs.jsonl --out /proc/x/o", 1, "--out /proc/x/o", "Name another file"),
    ("rm probe --reward-model ./nomodel --out folder", 1, "--out folder", "Name a file to write"),
    ("data prepare one.jsonl --out folder --format jsonl", 1, "--out folder", "Name a file to write"),
]


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
    return row[0].replace(str(CLUSTER), "cluster")


@pytest.mark.parametrize("row", ROWS, ids=line_of)
def test_a_wrong_input_is_explained(row, pgrpo):
    line, wanted, *words = row
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
        name for name in commands(typer.main.get_command(app)) if not any(row[0].startswith(name) for row in ROWS)
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
