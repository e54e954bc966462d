"""An adapter whose library is missing names the extra that brings it."""

import json
import subprocess
import sys

HOSTS = {
    "gymnasium": "gymnasium",
    "sb3": "stable_baselines3",
    "d3rlpy": "d3rlpy",
    "torchrl": "torchrl",
    "lerobot": "lerobot",
}

IMPORTED_WITHOUT = """
import importlib, json, sys
from vie import VieError
found = {}
for adapter, host in json.loads(sys.argv[1]).items():
    for name in [name for name in sys.modules if name.partition(".")[0] == host]:
        del sys.modules[name]
    sys.modules[host] = None
    try:
        importlib.import_module(f"rl_encoders.adapters.{adapter}")
    except VieError as error:
        found[adapter] = str(error)
print(json.dumps(found))
"""


def test_a_missing_library_is_told_with_its_extra():
    # In a process of its own: other tests have imported the libraries.
    ran = subprocess.run(
        [sys.executable, "-c", IMPORTED_WITHOUT, json.dumps(HOSTS)], capture_output=True, text=True, check=True
    )
    told = json.loads(ran.stdout.splitlines()[-1])
    assert set(told) == set(HOSTS)
    for adapter, message in told.items():
        assert message.endswith(f"pip install 'vie[{adapter}]'"), message
