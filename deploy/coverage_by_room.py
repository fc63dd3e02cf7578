"""Print a coverage measurement by room of the house: `python deploy/coverage_by_room.py`, after pytest --cov."""

import json
import tempfile
from collections import defaultdict
from pathlib import Path

from coverage import Coverage


def by_room(files: dict[str, dict]) -> dict[str, tuple[int, int]]:
    """Return statements that were reached and all there are, by room; the package's own files are one of them."""
    rooms: dict[str, tuple[int, int]] = defaultdict(lambda: (0, 0))
    for name, file in files.items():
        parts = Path(name).parts
        inside = parts[parts.index("pgrpo_ray") + 1 :]
        room = f"{inside[0]}/" if len(inside) > 1 else "(beside the rooms)"
        reached, statements = rooms[room]
        summary = file["summary"]
        rooms[room] = reached + summary["covered_lines"], statements + summary["num_statements"]
    return dict(sorted(rooms.items()))


def table(rooms: dict[str, tuple[int, int]]) -> str:
    """Return the rooms as a Markdown table, the sum last."""
    whole = tuple(map(sum, zip(*rooms.values(), strict=True)))
    lines = ["| room | statements | reached |", "|---|---|---|"]
    for room, (reached, statements) in [*rooms.items(), ("all", whole)]:
        lines.append(f"| {room} | {statements:,} | {100 * reached / statements if statements else 100:.0f} % |")
    return "\n".join(lines)


def main() -> None:
    """Read `.coverage` and print the table."""
    measured = Coverage()
    measured.load()
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "coverage.json"
        measured.json_report(outfile=str(report))
        print(table(by_room(json.loads(report.read_text(encoding="utf-8"))["files"])))


if __name__ == "__main__":
    main()
