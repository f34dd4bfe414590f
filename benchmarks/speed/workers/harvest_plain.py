"""transformers as anyone would write it: the whole model with `output_hidden_states`."""

from collections.abc import Iterator

import torch
from common import serve_batches, task, tokens
from torch import Tensor
from transformers import AutoModelForCausalLM


def main() -> None:
    of = task()
    model = AutoModelForCausalLM.from_pretrained(of["model"])

    @torch.no_grad()
    def batches() -> Iterator[Tensor]:
        sequences, at_once = tokens(of), of["batch"] // of["sequence_length"]
        while True:
            for first in range(0, len(sequences) - at_once, at_once):
                states = model(sequences[first : first + at_once], output_hidden_states=True).hidden_states
                yield states[of["layer"] + 1].flatten(0, 1)

    serve_batches(batches())


if __name__ == "__main__":
    main()
