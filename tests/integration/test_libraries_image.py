"""The image with libraries on a real engine: BigCodeBench's kind of problem, judged by the execution pool.

Not made here, since that takes minutes and 3 GB: `python -m pgrpo_ray.sandbox.image --with libraries` does.
"""

import pytest

from pgrpo_ray.config import SandboxSection
from pgrpo_ray.evaluation.bigcodebench import bigcodebench_item
from pgrpo_ray.evaluation.items import Choice
from pgrpo_ray.jobs.evaluation_sandbox import missing_libraries
from pgrpo_ray.sandbox.additions import LIBRARIES
from pgrpo_ray.sandbox.docker_runner import DockerRunner, image_exists
from pgrpo_ray.sandbox.image import image_tag
from pgrpo_ray.sandbox.pool import ExecutionPool

pytestmark = [pytest.mark.docker, pytest.mark.usefixtures("docker_engine")]

RECORD = {
    "task_id": "Frames/0",
    "instruct_prompt": "Fit a line to the rows of a CSV text, plot it, and return (slope, axes).",
    "code_prompt": "import io\nimport pandas as pd\nimport matplotlib.pyplot as plt\n"
    "from sklearn.linear_model import LinearRegression\ndef task_func(text):\n",
    "canonical_solution": "    frame = pd.read_csv(io.StringIO(text))\n"
    "    model = LinearRegression().fit(frame[['x']], frame['y'])\n"
    "    axes = frame.plot('x', 'y', title='line')\n"
    "    return float(model.coef_[0]), axes\n",
    "test": "import unittest\nclass TestCases(unittest.TestCase):\n"
    "    def test_slope(self):\n"
    "        slope, axes = task_func('x,y\\n0,1\\n1,3\\n2,5\\n')\n"
    "        self.assertAlmostEqual(slope, 2.0)\n"
    "        self.assertEqual(axes.get_title(), 'line')\n"
    "        self.assertEqual(list(axes.lines[0].get_ydata()), [1, 3, 5])\n",
    "entry_point": "task_func",
    "libs": "['pandas', 'matplotlib', 'sklearn', 'io']",
}


@pytest.fixture(scope="module")
def image():
    tag = image_tag([LIBRARIES.name])
    if not image_exists(tag):
        pytest.skip(f"{tag} is not made: python -m pgrpo_ray.sandbox.image --with libraries (minutes, 3 GB)")
    return tag


def test_what_problems_name_is_found_and_what_is_not_there_is_told(image):
    names = ["pandas", "cv2", "Crypto", "bs4", "no_such_library"]
    assert missing_libraries(names, "docker", SandboxSection(image=image)) == ["no_such_library"]


def test_a_problem_on_data_frames_and_figures_is_judged(image):
    item = bigcodebench_item(RECORD, Choice())
    wrong = item.solution.replace("'x', 'y'", "'y', 'x'")
    pool = ExecutionPool(
        lambda: DockerRunner(image, memory_mib=item.problem.limits.memory_mib + 64), slots=1, retries=1
    )
    try:
        right, other = pool.judge_many([(item.problem, text + item.harness) for text in (item.solution, wrong)])
    finally:
        pool.close()
    assert (right.verdict, other.verdict) == ("passed", "wrong_answer"), (right, other)
