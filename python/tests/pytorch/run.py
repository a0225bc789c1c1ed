"""Runs PyTorch's own DistributedTest, which is in its wheel, on the backend.

usage: WORLD_SIZE=2 python run.py [arguments of unittest]

The suite skips by the names of backends that it knows. So the name "gloo" gives Ronde here, and all that runs with Gloo runs.
Processes are forked: PyTorch is imported once.
"""

import functools
import multiprocessing
import os
import tempfile

FOLDER = tempfile.mkdtemp()
for name in ("barrier", "test_dir", "init_dir"):
    os.mkdir(os.path.join(FOLDER, name))
os.environ.update(BACKEND="gloo", TEMP_DIR=FOLDER)
os.environ.setdefault("WORLD_SIZE", "2")
os.environ.setdefault("DISTRIBUTED_TESTS_DEFAULT_TIMEOUT", "60")

import torch_ronde  # noqa: E402
from torch.distributed import Backend, ProcessGroup  # noqa: E402
from torch.testing._internal import common_utils  # noqa: E402

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


if __name__ == "__main__":
    common_utils.run_tests()
