"""Fuzz one target guided by coverage: what reaches new lines is kept and changed further. No part of pytest.

    pip install atheris            # 3.0.0, for Linux; into an environment of its own
    python tests/fuzz/coverage_guided.py config --seconds 300

Runs `read` of `test_fuzz_<target>.py` over changes of its `SEEDS`; an undeclared error ends it with the traceback, and
the input is in `crash-...` in the present folder. Only Python code guides it: what C does (YAML's or JSON's scanner,
Arrow) is run, not seen.
"""

import argparse
import importlib
import sys
import tempfile
from pathlib import Path

HERE = Path(__file__).parent


def main() -> None:
    """Run a target for some seconds."""
    targets = sorted(file.stem.removeprefix("test_fuzz_") for file in HERE.glob("test_fuzz_*.py"))
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("target", choices=targets)
    parser.add_argument("--seconds", type=int, default=60)
    parser.add_argument("--corpus", type=Path, help="folder that keeps what reached new lines, to go on from")
    chosen = parser.parse_args()

    import atheris

    sys.path[:0] = [str(HERE), str(HERE.parents[1])]
    with atheris.instrument_imports(include=["pgrpo_ray", "yaml"]):
        target = importlib.import_module(f"test_fuzz_{chosen.target}")
    corpus = chosen.corpus or Path(tempfile.mkdtemp(prefix="pgrpo-corpus-"))
    corpus.mkdir(parents=True, exist_ok=True)
    for number, seed in enumerate(target.SEEDS):
        (corpus / f"seed-{number}").write_bytes(seed)
    flags = [f"-max_total_time={chosen.seconds}", "-max_len=20000", "-timeout=20", "-rss_limit_mb=4096"]
    atheris.Setup([sys.argv[0], *flags, str(corpus)], target.read)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
