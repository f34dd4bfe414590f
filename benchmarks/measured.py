"""What was measured, kept beside the code that measured it: benchmarks/measured/NAME.jsonl, a result a line."""

import json
import platform
from pathlib import Path
from typing import Any

import torch

from ontogeny.files import atomic_path

FOLDER = Path(__file__).with_name("measured")


def machine() -> str:
    """The processor, the number of cores, and torch."""
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.is_file() else []
    names = [line.split(":")[1].strip() for line in lines if line.startswith("model name")]
    name = names[0] if names else platform.processor()
    return f"{len(names) or 'unknown'} cores of {name}, torch {torch.__version__.split('+')[0]}"


class Measured:
    """Results by a key that names their settings; each is on disk as soon as it is added."""

    def __init__(self, name: str) -> None:
        self.path = FOLDER / f"{name}.jsonl"
        lines = self.path.read_text(encoding="utf-8").splitlines() if self.path.is_file() else []
        self._results: dict[str, Any] = {row["key"]: row["result"] for row in map(json.loads, lines)}

    def __contains__(self, key: str) -> bool:
        return key in self._results

    def __getitem__(self, key: str) -> Any:
        return self._results[key]

    def add(self, key: str, result: Any) -> None:
        """Keep one more result."""
        self._results[key] = result
        self._write()

    def keep_only(self, keys: set[str]) -> None:
        """Forget results of settings that are no longer asked for."""
        self._results = {key: self._results[key] for key in self._results if key in keys}
        self._write()

    def _write(self) -> None:
        self.path.parent.mkdir(exist_ok=True)
        lines = [json.dumps({"key": key, "result": result}) for key, result in self._results.items()]
        with atomic_path(self.path) as path:
            path.write_text("\n".join(lines) + "\n", encoding="utf-8")
