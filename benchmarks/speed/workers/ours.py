"""This product: its training as it is, fed with given batches."""

import math
from typing import Any

from common import batches, served, task

from ontogeny.config import CrosscoderConfig
from ontogeny.dictionaries.train import train_crosscoder
from ontogeny.progress import Events


class _Last(Events):
    """Keeps the latest figures."""

    def __init__(self) -> None:
        super().__init__()
        self.figures: dict[str, float] = {}

    def emit(self, stage: str, event: str, **fields: Any) -> None:
        self.figures |= {name: value for name, value in fields.items() if isinstance(value, float)}


def main() -> None:
    of = task()
    rows, events = batches(of), _Last()
    config = CrosscoderConfig(
        n_features=of["n_features"], steps=10**6, warmup=0.0, sparsity_warmup=0.0, norm_tokens=1, **of["settings"]
    )
    figures = lambda: {name: events.figures.get(name, math.nan) for name in ("l0", "ev")}  # noqa: E731
    train_crosscoder(served(rows, figures=figures), config, events=events)


if __name__ == "__main__":
    main()
