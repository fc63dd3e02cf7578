"""The file that holds Ray's token, before Ray starts."""

import stat

import pytest

from pgrpo_ray.actors.cluster import keep_token_private, token_file
from pgrpo_ray.errors import EnvironmentFault


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
    for name in ("RAY_AUTH_MODE", "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    return tmp_path


def test_a_token_of_ray_s_own_is_taken_from_other_users_and_kept(home):
    token_file().parent.mkdir()
    token_file().write_text("older")
    token_file().chmod(0o644)
    keep_token_private()
    assert (token_file().read_text(), stat.S_IMODE(token_file().stat().st_mode)) == ("older", 0o600)


def test_two_homes_have_two_tokens(home, monkeypatch):
    keep_token_private()
    first = token_file().read_text()
    keep_token_private()
    assert token_file().read_text() == first
    monkeypatch.setenv("HOME", str(home / "another"))
    keep_token_private()
    assert token_file().read_text() != first


@pytest.mark.parametrize(
    ("name", "value"), [("RAY_AUTH_MODE", "disabled"), ("RAY_AUTH_TOKEN", "x" * 64), ("RAY_AUTH_TOKEN_PATH", "/a/file")]
)
def test_what_the_user_has_chosen_is_respected(home, monkeypatch, name, value):
    monkeypatch.setenv(name, value)
    keep_token_private()
    assert not token_file().exists()


def test_a_home_that_can_not_be_written_is_told(home):
    (home / ".ray").write_text("a file where a folder should be")
    with pytest.raises(EnvironmentFault, match=r"Ray's token cannot be kept in .*RAY_AUTH_TOKEN_PATH"):
        keep_token_private()
