"""What environments need besides their packages."""

from ctypes.util import find_library

import pytest

RENDERED = ("metaworld:", "robotics:", "ogbench:")


def need_environment(name, package):
    """Skips a test where an environment cannot be made: MuJoCo draws by EGL."""
    pytest.importorskip(package)
    if name.startswith(RENDERED) and find_library("EGL") is None:
        pytest.skip(f"{name} is drawn by EGL, which is not here")
