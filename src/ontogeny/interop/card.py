"""The card that stands beside files on a hub: what they are, how they were made, how far to trust them."""

from importlib.metadata import version

from ontogeny.dictionaries.crosscoder import Crosscoder
from ontogeny.interop.about import About
from ontogeny.run import Run

HEAD = """---
tags: [interpretability, sparse-autoencoder, crosscoder, pre-training]
library_name: ontogeny
---
"""


def model_card(run: Run, about: About, *, layout: str = "", written: Crosscoder | None = None) -> str:
    """A model card in Markdown, from the run's own tables.

    Args:
        layout: whose files it stands beside.
        written: the dictionary in them, where that is not the run's own.
    """
    study, dictionary = run.study, run.study.dictionary
    kind = "SAE series" if dictionary.kind == "sae_series" else "crosscoder"
    activation, k = dictionary.activation, dictionary.used_k
    if written is not None:
        activation, k = written.activation_name, written.k
        kind = "SAE" if written.n_snapshots == 1 else kind
    is_whole = written is None or written.n_snapshots == len(run.steps)
    rows = {
        "models": f"{about.model}, {len(about.revisions)} of its snapshots: {', '.join(about.revisions)}",
        "hookpoint": f"`{study.hookpoint}`",
        "dictionary": f"{kind}, {dictionary.n_features:,} features, {activation}" + (f", k = {k}" if k else ""),
        "trained on": f"{study.train.tokens:,} tokens, sequences of {study.corpus.sequence_length}",
        "made with": f"ontogeny {version('ontogeny')}",
    }
    if layout:
        rows["files for"] = layout
    if about.note:
        rows["note"] = about.note
    lines = [
        HEAD,
        f"# {study.name}",
        "",
        "| | |",
        "| --- | --- |",
        *(f"| {name} | {said} |" for name, said in rows.items()),
    ]
    return "\n".join([*lines, "", *(_quality(run) if is_whole else []), ""])


def _quality(run: Run) -> list[str]:
    if "measure" not in run.manifest["stages"]:
        return []
    table = run.table("quality").sort("snapshot")
    names = ["step", "explained_variance", "l0", "delta_ce", "loss_recovered"]
    held = [name for name in names if name in table.columns]
    shown = ["" if name == "step" else name.replace("_", " ") for name in held]
    shown[0] = "step"
    lines = ["## Reconstruction of held-out tokens", "", "| " + " | ".join(shown) + " |", "| --- " * len(held) + "|"]
    for row in table.select(held).iter_rows():
        cells = [f"{value:,}" if isinstance(value, int) else "–" if value is None else f"{value:.4g}" for value in row]
        lines.append("| " + " | ".join(cells) + " |")
    return lines
