"""Do other tools read our files, and we theirs? Every tool that installs, in an environment of its own.

Usage: python -m benchmarks.interop

Prints a row for each kind of dictionary: the greatest difference of reconstructions, as a share of the greatest one.
"""

import subprocess
import sys
import tempfile
from pathlib import Path

import torch
from benchmarks.speed.peers import environment
from safetensors.torch import load_file, save_file

from ontogeny.dictionaries.crosscoder import Crosscoder
from ontogeny.interop.about import About
from ontogeny.interop.formats import FORMATS

N, D, F, BATCH = 3, 16, 40, 256
MOST = 1e-6
ABOUT = About(model="someone/model", revisions=("step1", "step2", "step3"), hookpoint="resid_post.2", context=64)
CASES = {
    "sae_lens": ("saelens", 1, [("relu", {}), ("jumprelu", {}), ("batch_topk", {}), ("topk", {})]),
    "llamascopium": ("openmoss", N, [("relu", {}), ("jumprelu", {"gate": "per_snapshot"})]),
}
"""By tool: our format, snapshots, and dictionaries of ours to read there."""
THEIRS = {"sae_lens": ["standard", "jumprelu", "topk"], "llamascopium": ["relu", "jumprelu"]}
"""Dictionaries that they make and we read."""


def crosscoder(activation: str, *, n: int, **options: object) -> Crosscoder:
    """A dictionary of random weights."""
    draw = torch.Generator().manual_seed(0)
    given = {
        "W_enc": torch.randn(n, D, F, generator=draw),
        "W_dec": torch.randn(n, F, D, generator=draw) * torch.rand(1, F, 1, generator=draw),
        "b_enc": torch.randn(F, generator=draw),
        "b_dec": torch.randn(n, D, generator=draw),
        "norm_scale": 0.5 + torch.rand(n, generator=draw),
    }
    if activation in ("jumprelu", "batch_topk"):
        given["threshold"] = torch.rand(F, generator=draw) * 3
    k = 5 if activation in ("topk", "batch_topk") else None
    return Crosscoder(**given, activation=activation, k=k, **options).requires_grad_(False)  # type: ignore[arg-type]


def apart(one: torch.Tensor, other: torch.Tensor) -> float:
    return float((one - other).abs().max() / one.abs().max())


def told(who: str, what: str, difference: float) -> None:
    print(f"| {who} | {what} | {difference:.1e} |")
    if difference > MOST:
        raise SystemExit(f"{who} {what}: apart by more than {MOST:g}")


def check(tool: str, folder: Path) -> None:
    """Print a row for each dictionary of one tool."""
    layout, n, ours = CASES[tool]
    python = environment(tool) / "bin" / "python"
    worker, inputs, out = (
        Path(__file__).with_name(f"{tool}_.py"),
        folder / "inputs.safetensors",
        folder / "out.safetensors",
    )
    raw = torch.randn(BATCH, n, D, generator=torch.Generator().manual_seed(1)) * 2
    save_file({"x": raw}, inputs)

    def ask(task: str, where: Path) -> dict[str, torch.Tensor]:
        command = [python, worker, task, where, inputs, out]
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode:
            raise SystemExit(f"{tool} {task}: {done.stderr[-2000:]}")
        return load_file(out)

    for activation, options in ours:
        own = crosscoder(activation, n=n, **options)
        where = folder / f"ours-{activation}"
        where.mkdir()
        FORMATS[layout].write(own, where, ABOUT)
        found = ask("load", where)["x_hat"].view(BATCH, n, D)
        expected = own(raw * own.norm_scale[:, None]).x_hat / own.norm_scale[:, None]
        told(f"{tool} reads ours", activation, apart(expected, found))
    for kind in THEIRS[tool]:
        where = folder / f"theirs-{kind}"
        found = ask(kind, where)["x_hat"].view(BATCH, n, D)
        read = FORMATS[layout].read(where).requires_grad_(False)
        made = read(raw * read.norm_scale[:, None]).x_hat / read.norm_scale[:, None]
        told(f"we read {tool}'s", kind, apart(found, made))


def main() -> None:
    print("| | dictionary | difference |\n| --- | --- | --- |")
    for tool in sys.argv[1:] or CASES:
        try:
            environment(tool)
        except subprocess.CalledProcessError:
            print(f"| {tool} | does not install | |")
            continue
        with tempfile.TemporaryDirectory() as folder:
            check(tool, Path(folder))


if __name__ == "__main__":
    main()
