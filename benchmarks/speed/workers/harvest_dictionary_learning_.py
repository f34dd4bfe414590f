"""dictionary_learning's buffer over an nnsight model that stops after the hookpoint's block."""

from itertools import cycle

import torch
from common import serve_batches, task, tokens
from dictionary_learning.buffer import ActivationBuffer
from nnsight import LanguageModel
from transformers import AutoModelForCausalLM, PreTrainedTokenizerFast


def main() -> None:
    of = task()
    ends = {"eos_token": "<|endoftext|>", "bos_token": "<|endoftext|>", "pad_token": "<|endoftext|>"}
    tokenizer = PreTrainedTokenizerFast(tokenizer_file=f"{of['model']}/tokenizer.json", **ends)
    model = LanguageModel(
        AutoModelForCausalLM.from_pretrained(of["model"], torch_dtype=torch.float32), tokenizer=tokenizer
    )
    texts = tokenizer.batch_decode(tokens(of))
    buffer = ActivationBuffer(
        cycle(texts), model, model.gpt_neox.layers[of["layer"]], d_submodule=model.config.hidden_size, n_ctxs=128,
        ctx_len=of["sequence_length"], refresh_batch_size=16, out_batch_size=of["batch"],
    )  # fmt: skip
    serve_batches(buffer)


if __name__ == "__main__":
    main()
