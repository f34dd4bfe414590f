"""This product's stream of one snapshot."""

from pathlib import Path

from common import serve_batches, task

from ontogeny.activations.stream import stream_activations
from ontogeny.corpus.pack import Corpus
from ontogeny.loop import numerics
from ontogeny.suites.suite import open_suite


def main() -> None:
    of = task()
    model = Path(of["model"])
    suite = open_suite(model.parent, steps=[int(model.name.removeprefix("step"))])
    stream = stream_activations(
        suite, Corpus(of["corpus"]), hookpoint=f"resid_post.{of['layer']}", batch_size=of["batch"],
        dtype=of["settings"].get("dtype", "float32"),
    )  # fmt: skip
    with numerics():
        serve_batches(stream.starting_at(0))


if __name__ == "__main__":
    main()
