"""A generator of Optimised-Degraded reasoning that needs no model, for an endpoint of a test; and problems for it."""

import json
import re


def write_problems(path, count, first=0):
    """Write `count` problems, `Solve task tNN.` each."""
    with path.open("w") as file:
        for number in range(first, first + count):
            tests = {"style": "stdin", "cases": [{"input": "", "output": "1"}]}
            record = {"id": f"t{number:02d}", "prompt": f"Solve task t{number:02d}.", "tests": tests}
            file.write(json.dumps(record | {"metadata": {"difficulty": "easy"}}) + "\n")
    return path


def about(asked):
    """Return (task, stage, dimension) of a prompt."""
    task = re.search(r"Solve task (t\d+)\.", asked)[1]
    dimensions = re.findall(r"^(Factual|Logical rigour|Logical coherence)", asked, re.MULTILINE)
    stage = "optimise" if "becomes better" in asked else "degrade" if "becomes worse" in asked else "original"
    return task, stage, "all" if len(dimensions) == 3 else dimensions[0].split()[-1].lower() if dimensions else ""


def generate(body, number=0):
    """Answer as a well-behaved model would: always the same for the same prompt, different for different ones."""
    task, stage, dimension = about(body["messages"][-1]["content"])
    # All of one length, but for the degraded ones, which have a word more.
    count = 31 if stage == "degrade" else 30
    words = " ".join(f"{stage[:2]}{dimension[:2] or 'no'}{task}w{word:02d}" for word in range(count))
    return f"Here it is.\n<reasoning>\n- {words}.\n</reasoning>"
