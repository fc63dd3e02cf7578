"""`make audit` finds what it is for: a loose requirement, a known advisory, a planted key."""

import io
import json
import runpy
import subprocess
import sys
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[2]
AUDIT = runpy.run_path(str(REPOSITORY / "deploy" / "audit.py"))
SCAN = REPOSITORY / "deploy" / "secret_scan.py"
LETTERS = "Zk3vQ9xT7mB2nR8wL5cY1dH6fJ4gP0sA"
"""Looks random, is none."""
PLANTED = {
    "private key": "-----BEGIN RSA " + "PRIVATE KEY-----",
    "AWS key": "AKIA" + "IOSFODNN7EXAMPLE",
    "GitHub token": "ghp_" + LETTERS + "abcd",
    "Hugging Face token": "hf_" + LETTERS,
    "OpenAI or Anthropic key": "sk-proj-" + LETTERS,
    "Google key": "AIza" + LETTERS + "abc",
    "Slack token": "xoxb-" + LETTERS,
    "password in an address": "postgres://me:" + "hunter2@db.example.org/x",
    "random text assigned": "wandb_api_key: " + LETTERS,
}


def scan(*files, folder=REPOSITORY):
    command = [sys.executable, str(SCAN), *map(str, files)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=folder)
    return done.returncode, done.stdout + done.stderr


@pytest.mark.parametrize("what", PLANTED)
def test_a_planted_secret_is_found_and_not_repeated(tmp_path, what):
    file = tmp_path / "settings.txt"
    file.write_text(f"first line\n{PLANTED[what]}\n")
    status, said = scan(file)
    assert (status, f"{file}:2: {what}" in said) == (1, True), said
    assert PLANTED[what] not in said and LETTERS not in said
    file.write_text(f"first line\n{PLANTED[what]}  # secret-scan: allow, a test's\n")
    assert scan(file)[0] == 0


def test_a_planted_secret_is_found_before_git_has_the_file_but_not_where_git_ignores_it(tmp_path):
    subprocess.run(["git", "init", "-q", tmp_path], check=True)
    (tmp_path / ".gitignore").write_text("ignored\n")
    (tmp_path / "ignored").write_text(PLANTED["AWS key"])
    assert scan(folder=tmp_path)[0] == 0
    (tmp_path / "new").write_text(PLANTED["AWS key"])
    assert "new:1: AWS key" in scan(folder=tmp_path)[1]


def test_what_only_looks_like_one_is_let_be(tmp_path):
    file = tmp_path / "honest.py"
    file.write_text(
        'token = tokenizer.convert_ids_to_tokens\nKEY_ENV = "OPENAI_API_KEY"\nkey="question_content_without_number"\n'
        "http://localhost:8000/v1\nhttps://host/v1@main\nsha256:05a2c93894093ee1\npad_token = '<|endoftext|>'\n"
    )
    assert scan(file)[0] == 0, scan(file)


@pytest.mark.parametrize(
    "line",
    [
        "numpy>=2",
        "numpy",
        "numpy==2.*",
        "numpy @ https://example.org/numpy.whl",
        "git+https://example.org/numpy",
        "-e .",
        "--index-url https://example.org/simple",
        "https://example.org/numpy.whl",
    ],
)
def test_a_requirement_that_is_not_one_version_of_the_index_is_found(tmp_path, line):
    lock = tmp_path / "cpu.lock"
    lock.write_text(f"# made by a tool\nscipy==1.18.0\n{line}\n")
    versions, findings = AUDIT["read_lock"](lock)
    assert versions == {"scipy": "1.18.0"}
    assert findings == [f"cpu.lock:3: {line!r} is no `name==version`"]


def test_a_name_that_stands_twice_is_found(tmp_path):
    (tmp_path / "cpu.lock").write_text("ruamel.yaml==1.0\nRuamel_Yaml==2.0\n")
    assert AUDIT["read_lock"](tmp_path / "cpu.lock")[1] == ["cpu.lock:2: ruamel-yaml stands twice"]


def test_a_lock_behind_pyproject_and_an_installation_behind_the_lock_are_found():
    project = {"dependencies": ["numpy>=2", "scipy==1.*"], "optional-dependencies": {"cpu": ["rich"], "dev": []}}
    found = AUDIT["check_wanted"](project, "cpu.lock", {"numpy": "1.26.0", "scipy": "1.18.0"})
    assert [finding.partition(".lock: ")[2][:12] for finding in found] == ["numpy 1.26.0", "rich is miss"]
    found = AUDIT["check_installed"]("cpu.lock", {"numpy": "0.1", "no-such-package-here": "1"})
    assert ["numpy 0.1 is" in found[0], "no-such-package-here 1 is not installed" in found[1]] == [True, True]


@pytest.fixture
def osv(monkeypatch):
    """Answers in OSV's place; returns the requests."""
    asked = []

    def answer(request, timeout):
        asked.append(json.loads(request.data)["queries"])
        vulns = {"bad": [{"id": "PYSEC-1"}, {"id": "PYSEC-2"}]}
        results = [
            {"vulns": vulns[query["package"]["name"]]} if query["package"]["name"] in vulns else {}
            for query in asked[-1]
        ]
        return io.BytesIO(json.dumps({"results": results}).encode())

    monkeypatch.setattr("urllib.request.urlopen", answer)
    return asked


def test_an_advisory_is_found_by_one_request_and_can_be_accepted(osv, monkeypatch):
    versions = {"bad": "1.0", "torch": "2.13.0+cpu"}
    assert AUDIT["advisories"](versions) == {"bad": ["PYSEC-1", "PYSEC-2"]}
    assert [query["version"] for query in osv[0]] == ["1.0", "2.13.0"]  # OSV knows no local versions
    assert len(osv) == 1
    monkeypatch.setitem(AUDIT["ACCEPTED"], "PYSEC-1", "a reason")
    assert AUDIT["advisories"](versions) == {"bad": ["PYSEC-2"]}


@pytest.fixture
def main(monkeypatch):
    """The whole audit of this checkout, but for what happens to be installed here."""
    monkeypatch.setitem(AUDIT["main"].__globals__, "check_installed", lambda lock, versions: [])
    return AUDIT["main"]


def test_an_advisory_fails_the_audit(main, osv, monkeypatch):
    main()
    monkeypatch.setitem(main.__globals__, "advisories", lambda versions: {"numpy": ["PYSEC-3"]})
    with pytest.raises(SystemExit, match=r"cpu\.lock: numpy .*PYSEC-3"):
        main()


def test_where_nobody_knows_advisories_the_audit_says_so_and_passes(main, monkeypatch, capsys):
    def nobody(request, timeout):
        raise OSError("no route")

    monkeypatch.setattr("urllib.request.urlopen", nobody)
    main()
    assert capsys.readouterr().out.count("ADVISORIES WERE NOT LOOKED UP") == 2


def test_make_test_runs_both():
    makefile = (REPOSITORY / "Makefile").read_text()
    recipe = makefile.partition("\naudit:")[2].partition("\n\n")[0]
    assert "deploy/audit.py" in recipe and "deploy/secret_scan.py" in recipe
    assert "\ntest: setup audit\n" in makefile
