"""dictionary_learning's buffer over an nnsight model that stops after the hookpoint's block."""

from itertools import cycle

from common import serve_batches, task, tokens
from dictionary_learning.buffer import ActivationBuffer
from nnsight import LanguageModel
from transformers import AutoModelForCausalLM, AutoTokenizer


def main() -> None:
    of = task()
    tokenizer = AutoTokenizer.from_pretrained(of["model"])
    tokenizer.pad_token = tokenizer.eos_token
    model = LanguageModel(AutoModelForCausalLM.from_pretrained(of["model"]), tokenizer=tokenizer)
    texts = tokenizer.batch_decode(tokens(of))
    buffer = ActivationBuffer(
        cycle(texts), model, model.gpt_neox.layers[of["layer"]], d_submodule=model.config.hidden_size, n_ctxs=128,
        ctx_len=of["sequence_length"], refresh_batch_size=16, out_batch_size=of["batch"],
    )  # fmt: skip
    serve_batches(buffer)


if __name__ == "__main__":
    main()
