"""Environments of the peers, made in the cache from the package registry; a peer that does not install is left out."""

import subprocess
import sys
import venv
from functools import cache
from importlib.metadata import version
from pathlib import Path

from ontogeny.files import default_cache

PEERS: dict[str, tuple[str, ...]] = {
    "sae_lens": ("sae-lens==6.54.12",),
    "dictionary_learning": ("dictionary-learning==0.1.0", "transformers<5"),
    "sparsify": ("eai-sparsify==1.3.3",),
    "llamascopium": ("llamascopium==2.0.0b34", "transformer-lens<4"),
}
"""What pip is asked for. With the newest transformer-lens llamascopium cannot be imported."""
UNUSED = "torchvision"
"""Comes with dictionary-learning, built for another torch than the registry's, and then nothing can be imported."""


@cache
def python_of(worker: str) -> Path:
    """The interpreter that a worker runs in: this one, or that of the peer whose name it bears."""
    peer = worker.removeprefix("harvest_").removesuffix("_")
    return environment(peer) / "bin" / "python" if peer in PEERS else Path(sys.executable)


def environment(peer: str) -> Path:
    """A peer's environment, with this one's torch.

    Raises:
        CalledProcessError: it does not install.
    """
    folder = default_cache() / "benchmarks" / "peers" / PEERS[peer][0]
    if not (folder / "ready").is_file():
        venv.create(folder, with_pip=True, clear=True)
        pip = [folder / "bin" / "pip", "--disable-pip-version-check"]
        torch = f"torch=={version('torch').split('+')[0]}"
        subprocess.run([*pip, "install", "--quiet", torch, *PEERS[peer]], check=True)
        subprocess.run([*pip, "uninstall", "--quiet", "--yes", UNUSED], check=True)
        (folder / "ready").touch()
    return folder
