"""Runs PyTorch's own DistributedTest, which is in its wheel, on the backend.

usage: WORLD_SIZE=2 python run.py [arguments of unittest]

The suite skips by the names of backends that it knows. So the name "gloo" gives Ronde here, and all that runs with Gloo runs;
BACKEND=ronde runs it under its own name. INIT_METHOD=file:// has processes meet in a file. Processes are forked: PyTorch is
imported once. The folder RESULTS, if there is one, gets the names of tests that were skipped, and of those that have failed.
"""

import functools
import multiprocessing
import os
import tempfile
import unittest

FOLDER = tempfile.mkdtemp()
for name in ("barrier", "test_dir", "init_dir"):
    os.mkdir(os.path.join(FOLDER, name))
os.environ["TEMP_DIR"] = FOLDER
os.environ.setdefault("BACKEND", "gloo")
os.environ.setdefault("BACKEND_FEATURES", "ddp,subgroup,gpu,cuda")
if os.environ.get("INIT_METHOD") == "file://":
    os.environ["INIT_METHOD"] = f"file://{FOLDER}/init_dir/shared"
os.environ.setdefault("WORLD_SIZE", "2")
os.environ.setdefault("DISTRIBUTED_TESTS_DEFAULT_TIMEOUT", "60")
# PyTorch's tests take this for its own CI: for reports in XML, of a package that is not here.
os.environ.pop("CI", None)

import torch_ronde  # noqa: E402
from torch.distributed import Backend, ProcessGroup  # noqa: E402
from torch.testing._internal import common_utils  # noqa: E402

if os.environ["BACKEND"] == "gloo":
    plugins = Backend._plugins
    create = functools.partial(plugins["RONDE"].creator_fn, name="gloo")
    plugins["GLOO"] = plugins["RONDE"]._replace(creator_fn=create)
    # PyTorch takes what has the type of Gloo for its own class.
    Backend.backend_type_map["gloo"] = ProcessGroup.BackendType.CUSTOM
torch_ronde.load()

from torch.testing._internal.distributed import distributed_test  # noqa: E402


class TestRonde(distributed_test.TestDistBackend, distributed_test.DistributedTest._DistTestBase):
    def setUp(self):
        super().setUp()
        self._start_processes(multiprocessing.get_context("fork").Process)


class Recorded(unittest.TextTestResult):
    """Writes into the folder RESULTS which tests were skipped, and which have failed."""

    def stopTestRun(self):
        super().stopTestRun()
        folder = os.environ.get("RESULTS")
        for file, tests in (("skipped", self.skipped), ("failed", self.errors + self.failures)):
            names = sorted({test.id().split(".")[-1] for test, _ in tests})
            if folder:
                with open(os.path.join(folder, file), "w") as to:
                    to.writelines(name + "\n" for name in names)


unittest.TextTestRunner.resultclass = Recorded

if __name__ == "__main__":
    common_utils.run_tests()
