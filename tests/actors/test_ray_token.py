"""Who has no token does not get into a Ray that is started here. In processes with a home and a Ray of their own."""

import os
import stat
import subprocess
import sys

import pytest

pytestmark = [pytest.mark.ray]

HEAD = """
import ray, sys
from pgrpo_ray.actors.cluster import start_ray
start_ray("local", 1)
print(ray.get_runtime_context().gcs_address, flush=True)
sys.stdin.read()
ray.shutdown()
"""
JOIN = """
import ray, sys
from pgrpo_ray.actors.cluster import start_ray
from pgrpo_ray.errors import EnvironmentFault
try:
    start_ray(sys.argv[1], 1)
    print("let in:", ray.get(ray.remote(lambda: 7).remote(), timeout=60))
except EnvironmentFault as error:
    print("refused:", error)
"""


def environment(home, **changes):
    plain = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    return plain | {"HOME": str(home), "RAY_NUM_REDIS_GET_RETRIES": "2"} | changes


@pytest.fixture(scope="module")
def head(tmp_path_factory):
    """Address and home of a Ray that `start_ray` has started where nobody had a token yet."""
    home = tmp_path_factory.mktemp("home")
    command = [sys.executable, "-c", f"import os; os.umask(0o022)\n{HEAD}"]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment(home)
    ) as process:
        yield process.stdout.readline().strip(), home
        process.stdin.close()
        process.wait(60)


def join(address, home, **changes):
    command = [sys.executable, "-c", JOIN, address]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, env=environment(home, **changes))
    return done.stdout


def test_the_token_is_for_its_owner_alone(head):
    token = head[1] / ".ray" / "auth_token"
    assert stat.S_IMODE(token.stat().st_mode) == 0o600
    assert len(token.read_text()) >= 32
    assert list(token.parent.iterdir()) == [token]


def test_the_token_opens_the_cluster(head):
    address, home = head
    assert join(address, home, RAY_AUTH_MODE="token") == "let in: 7\n"


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"RAY_AUTH_MODE": "token"}, "no authentication token was found"),
        ({"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": "0" * 64}, "a token RAY_AUTH_TOKEN"),
        ({}, "RAY_AUTH_MODE is not set here, a token nowhere"),
    ],
    ids=["no token", "another token", "mode not set"],
)
def test_without_the_token_nobody_gets_in_and_is_told_why(head, tmp_path, changes, said):
    answer = join(head[0], tmp_path, **changes)
    assert answer.startswith("refused: Ray at cluster.address=")
    assert said in answer
    assert f"put the cluster's own into {tmp_path}/.ray/auth_token" in answer
    assert "0" * 64 not in answer
