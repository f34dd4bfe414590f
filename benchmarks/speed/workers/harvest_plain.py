"""transformers as anyone would write it: the whole model with `output_hidden_states`, or its first blocks."""

from collections.abc import Iterator

import torch
from common import serve_batches, task, tokens
from torch import Tensor
from transformers import AutoModelForCausalLM


def main() -> None:
    of = task()
    model = AutoModelForCausalLM.from_pretrained(of["model"], dtype=torch.float32)
    truncated = of["settings"].get("truncated")
    if truncated:
        model = model.gpt_neox
        model.layers = model.layers[: of["layer"] + 1]
        model.final_layer_norm = torch.nn.Identity()

    @torch.no_grad()
    def batches() -> Iterator[Tensor]:
        sequences, at_once = tokens(of), 16
        while True:
            for first in range(0, len(sequences) - at_once + 1, at_once):
                read = sequences[first : first + at_once]
                if truncated:
                    rows = model(read).last_hidden_state
                else:
                    rows = model(read, output_hidden_states=True).hidden_states[of["layer"] + 1]
                yield from rows.flatten(0, 1).split(of["batch"])

    serve_batches(batches())


if __name__ == "__main__":
    main()
