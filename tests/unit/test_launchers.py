"""How Ray clusters are brought up: the cloud's file by Ray's own schema, the script for machines of one's own."""

import json
import os
import re
import shutil
import subprocess
from pathlib import Path
from typing import get_args

import pytest
import yaml
from ray.autoscaler._private.util import prepare_config, validate_config

from pgrpo_ray.actors.pools import RESOURCE
from pgrpo_ray.config import ClusterSection, load
from pgrpo_ray.config.placement import bundles, lacking

CLUSTER = Path(__file__).parents[2] / "cluster"
AWS = yaml.safe_load((CLUSTER / "ray" / "aws.yaml").read_text())
ROLES = {RESOURCE, *get_args(get_args(ClusterSection.model_fields["pinned"].annotation)[0])}
INVENTORY = "head-1 driver\ngpu-1  learner,rollout  # a comment\n\ncpu-1 sandbox\n"
SSH = """#!/usr/bin/env bash
shift 2
echo "$1: $2" >>"$TRANSCRIPT"
case $2 in *get-auth-token*) echo a-token ;; *hostname*) echo 10.0.0.1 ;; *cat*) HOME=$MACHINES/$1 bash -c "$2" ;; esac
"""


def test_rays_schema_takes_the_clouds_file():
    config = json.loads(json.dumps(AWS))
    validate_config(prepare_config(config))
    assert sum(kind.get("min_workers", 0) for kind in AWS["available_node_types"].values()) <= AWS["max_workers"]
    with pytest.raises(Exception, match="max_wrokers"):
        validate_config(prepare_config(config | {"max_wrokers": 1}))


def test_its_nodes_offer_what_roles_ask_for_and_hold_the_recipe():
    nodes = {}
    for name, kind in AWS["available_node_types"].items():
        assert set(kind["resources"]) <= ROLES | {"CPU", "GPU"}
        nodes |= {f"{name} {n}": kind["resources"] for n in range(max(1, kind.get("min_workers", 0)))}
    recipe = load(CLUSTER / "qwen2.5-coder-7b-2nodes.yaml")
    assert lacking(bundles(recipe), nodes) == []
    assert set().union(*nodes.values()) >= ROLES
    del nodes["rollout 0"]
    assert [line.split(":")[0] for line in lacking(bundles(recipe), nodes)][:2] == ["rollout", "reward"]


ORDINARY = '#!/bin/sh\necho "${0##*/} $*" >>"$TRANSCRIPT"\n'
ROOTS = '#!/bin/sh\necho "$0: only root can do that" >&2\nexit 1\n'


def test_a_node_that_judges_has_an_engine_that_its_user_may_use_before_it_is_set_up(tmp_path):
    """Its setup by somebody who is not root, command by command; sudo writes down what it was asked for."""
    commands = dict.fromkeys(["mountpoint", "docker", "make"], ORDINARY)
    commands |= dict.fromkeys(["mount", "apt-get", "systemctl", "tee", "mkdir"], ROOTS)
    commands["sudo"] = ORDINARY + 'case $1 in tee) sed "s/^/> /" >>"$TRANSCRIPT" ;; esac\n'
    for name, script in commands.items():
        (tmp_path / name).write_text(script)
        (tmp_path / name).chmod(0o755)
    (tmp_path / "pgrpo_ray").mkdir()
    transcript = tmp_path / "transcript"
    env = os.environ | {
        "PATH": f"{tmp_path}:{os.environ['PATH']}",
        "HOME": str(tmp_path),
        "TRANSCRIPT": str(transcript),
    }
    (judging,) = [kind for kind in AWS["available_node_types"].values() if RESOURCE in kind["resources"]]
    for command in judging["worker_setup_commands"]:
        done = subprocess.run(["bash", "-c", command], env=env, capture_output=True, text=True, timeout=60)
        assert done.returncode == 0, f"{command}: {done.stderr}"
    done = transcript.read_text()
    order = ["mountpoint /shared", f"> SocketGroup={AWS['auth']['ssh_user']}", "install docker.io"]
    order += ["systemctl daemon-reload", "start docker.service", "\ndocker ", "\nmake setup"]
    places = [done.index(words) for words in order]
    assert places == sorted(places), done


@pytest.mark.parametrize(
    ("options", "asked"),
    [
        (["--address", "http://head:8265"], "http://head:8265"),
        (["--no-wait", "--address=http://head:8265"], "http://head:8265"),
        (["--no-wait"], ""),
    ],
)
def test_a_jobs_status_is_asked_of_the_cluster_that_it_was_submitted_to(tmp_path, options, asked):
    (tmp_path / "cluster").mkdir()
    for name in ("submit.sh", "local.yaml"):
        shutil.copy(CLUSTER / name, tmp_path / "cluster")
    for name, script in {"ray": "exit 1", "python": 'cat >/dev/null; echo "asked <$3>"; exit 3'}.items():
        (tmp_path / name).write_text(f"#!/usr/bin/env bash\n{script}\n")
        (tmp_path / name).chmod(0o755)
    env = os.environ | {"PATH": f"{tmp_path}:{os.environ['PATH']}", "HOME": str(tmp_path)}
    command = ["bash", tmp_path / "cluster" / "submit.sh", "cluster/local.yaml", *options, "--", "--resume-if-any"]
    done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=60)
    assert done.returncode == 3, done.stderr
    assert f"asked <{asked}>" in done.stdout


def on_premise(tmp_path, action, inventory=INVENTORY):
    """Run the script with an ssh that writes down what it is asked for."""
    (tmp_path / "ssh").write_text(SSH)
    (tmp_path / "ssh").chmod(0o755)
    (tmp_path / "inventory").write_text(inventory)
    transcript = tmp_path / "transcript"
    transcript.touch()
    env = os.environ | {
        "PATH": f"{tmp_path}:{os.environ['PATH']}",
        "TRANSCRIPT": str(transcript),
        "MACHINES": str(tmp_path / "machines"),
        "PGRPO_HOME": "/opt/p",
    }
    command = ["bash", CLUSTER / "ray" / "on-premise.sh", tmp_path / "inventory", action]
    done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=60)
    return done, transcript.read_text()


def test_machines_are_started_with_the_roles_that_the_inventory_gives(tmp_path):
    made_by_ray = tmp_path / "machines" / "head-1" / ".ray" / "auth_token"
    made_by_ray.parent.mkdir(parents=True)
    made_by_ray.write_text("a-token")
    made_by_ray.chmod(0o644)
    done, said = on_premise(tmp_path, "up")
    assert done.returncode == 0, done.stderr
    starts = re.findall(
        r"(\S+): cd /opt/p && export RAY_AUTH_MODE=token && .venv/bin/ray start (.*) --disable-usage", said
    )
    assert starts == [
        ("head-1", "--head --port=6379 --node-ip-address=10.0.0.1 --resources='{}' --num-cpus=0"),
        ("gpu-1", """--address=10.0.0.1:6379 --resources='{"learner":1,"rollout":1}'"""),
        ("cpu-1", """--address=10.0.0.1:6379 --resources='{"sandbox":1}'"""),
    ]
    tokens = sorted(tmp_path.glob("machines/*/.ray/auth_token"))
    assert [(path.read_text(), path.stat().st_mode & 0o777) for path in tokens] == [("a-token\n", 0o600)] * 3
    assert "umask 077 && .venv/bin/ray get-auth-token" in said
    assert "a-token" not in said  # in no command's arguments


def test_they_are_ended(tmp_path):
    done, said = on_premise(tmp_path, "down")
    assert done.returncode == 0
    assert re.findall(r"(\S+): .*ray stop", said) == ["head-1", "gpu-1", "cpu-1"]


@pytest.mark.parametrize(
    ("inventory", "action", "words"), [("a rolout", "up", "unknown role 'rolout'"), ("a driver", "go", "not 'go'")]
)
def test_wrong_words_are_refused_before_anything_is_started(tmp_path, inventory, action, words):
    done, said = on_premise(tmp_path, action, inventory)
    assert done.returncode == 2
    assert words in done.stderr
    assert said == ""
