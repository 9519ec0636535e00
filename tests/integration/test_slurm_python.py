"""Python functions as jobs of a user on a cluster."""

import os
import sys

import pytest
from slurm_files import CHECKOUT

pytestmark = [pytest.mark.root, pytest.mark.lxc]
CALLS = min(500, int(os.environ.get("ENVKIT_TEST_TASKS", "12")))
SCRIPT = f"""\
import os
import envkit
futures = envkit.map(lambda x: (x * x, os.getuid()), range({CALLS}), _env="base/python")
values = futures.results(110)
print([value for value, _ in values], set(uid for _, uid in values))
try:
    envkit.call(lambda: 1 / 0, _env="base/python").result(50)
except ZeroDivisionError as error:
    print(error)
"""


def test_values_and_exceptions_come_back(slurm, cluster, python_root):
    if not os.path.exists(f"{slurm.directory}/store/format.json"):
        cluster.run("envkit", "store", "init", f"{slurm.directory}/store")
    cluster.run("envkit", "base", "import", "python", python_root)
    environment = {"PYTHONPATH": CHECKOUT, "ENVKIT_COMMAND": f"sudo -n {slurm.directory}/bin/envkit"}
    done = cluster.run(sys.executable, "-c", SCRIPT, user="alice", env=environment)
    values = [number * number for number in range(CALLS)]
    assert done.stdout == f"{values} {{54321}}\ndivision by zero\n"
