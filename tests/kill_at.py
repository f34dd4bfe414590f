"""Run the command line and kill it, as `kill -9` would, when a function is called for the n-th time.

python kill_at.py MODULE FUNCTION N ARGUMENTS-OF-ONTOGENY…
"""

import importlib
import os
import signal
import sys
from typing import Any

import ontogeny.loop
from ontogeny.cli import main

module_name, function_name, count, *arguments = sys.argv[1:]
module = importlib.import_module(module_name)
original = getattr(module, function_name)
calls = 0


def counted(*args: Any, **kwargs: Any) -> Any:
    global calls
    calls += 1
    if calls == int(count):
        os.kill(os.getpid(), signal.SIGKILL)
    return original(*args, **kwargs)


setattr(module, function_name, counted)
ontogeny.loop.CHECKPOINT_SECONDS = 0.1
sys.argv = ["ontogeny", *arguments]
main()
