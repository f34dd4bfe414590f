"""Environments of the peers, made in the cache from the package registry; a peer that does not install is left out."""

import subprocess
import sys
import venv
from functools import cache
from importlib.metadata import version
from pathlib import Path

from ontogeny.run import default_cache

PEERS = {
    "sae_lens_": "sae-lens==6.54.12",
    "dictionary_learning_": "dictionary-learning==0.1.0",
    "sparsify_": "eai-sparsify==1.3.3",
    "llamascopium_": "llamascopium==2.0.0b34",
}


@cache
def python_of(worker: str) -> Path:
    """The interpreter that a worker runs in: this one, or that of the peer's environment."""
    return Path(sys.executable) if worker not in PEERS else environment(worker) / "bin" / "python"


def environment(worker: str) -> Path:
    """A peer's environment, with this one's torch."""
    folder = default_cache() / "benchmarks" / "peers" / PEERS[worker]
    if not (folder / "ready").is_file():
        venv.create(folder, with_pip=True, clear=True)
        torch = f"torch=={version('torch').split('+')[0]}"
        subprocess.run([folder / "bin" / "pip", "install", "--quiet", torch, PEERS[worker]], check=True)
        (folder / "ready").touch()
    return folder


def installs(worker: str) -> bool:
    """Whether a worker's environment is there or can be made."""
    try:
        python_of(worker)
    except subprocess.CalledProcessError:
        return False
    return True
