"""This product: its training as it is, fed with given batches."""

from typing import Any

from common import batches, served, task

import ontogeny.loop
from ontogeny.config.learner import CrosscoderConfig
from ontogeny.dictionaries.train import train_crosscoder
from ontogeny.progress import Events


class _Latest(Events):
    """Keeps what the loop tells of its latest step."""

    def __init__(self) -> None:
        super().__init__()
        self.l0 = float("nan")

    def emit(self, stage: str, event: str, **fields: Any) -> None:
        self.l0 = fields.get("l0", self.l0)


def main() -> None:
    of, latest = task(), _Latest()
    ontogeny.loop.LOG_EVERY_STEPS = 1
    config = CrosscoderConfig(
        n_features=of["n_features"], steps=10**6, warmup=0.0, sparsity_warmup=0.0, norm_tokens=1,
        dead_after_tokens=10**9, **of["settings"],
    )  # fmt: skip
    train_crosscoder(served(batches(of), figures=lambda: {"l0": latest.l0}), config, events=latest)


if __name__ == "__main__":
    main()
