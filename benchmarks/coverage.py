"""Which share of each room's statements the unit and fuzz tests run: `make coverage`.

    python benchmarks/coverage.py .coverage.json

Writes `results/coverage.txt`. What runs inside actors, containers and ranks is tested for real in tests/actors and
tests/integration, whose processes are not measured: `actors`, `learner`, `rollout` and `sandbox/inside` are tested by
more than stands here.
"""

import json
import platform
import sys
from collections import Counter
from datetime import date
from pathlib import Path

RESULTS = Path(__file__).parent / "results" / "coverage.txt"


def table(report: dict) -> str:
    """Return the table of a coverage report."""
    run, total = Counter(), Counter()
    for name, file in report["files"].items():
        parts = Path(name).parts[1:]
        room = parts[0] if len(parts) > 1 else "(front)"
        run[room] += file["summary"]["covered_lines"]
        total[room] += file["summary"]["num_statements"]
    lines = [f"{'room':<14}{'statements':>11}{'run':>8}"]
    lines += [f"{room:<14}{total[room]:>11,}{run[room] / total[room]:>8.0%}" for room in sorted(total) if total[room]]
    lines += [f"{'all':<14}{total.total():>11,}{run.total() / total.total():>8.0%}"]
    return "\n".join(lines)


if __name__ == "__main__":
    text = table(json.loads(Path(sys.argv[1]).read_text(encoding="utf-8")))
    RESULTS.write_text(
        f"make coverage, {date.today()}, Python {platform.python_version()}\n\n{text}\n", encoding="utf-8"
    )
    print(text)
