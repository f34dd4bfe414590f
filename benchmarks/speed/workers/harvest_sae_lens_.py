"""SAELens' activations store over a TransformerLens model that stops at the hookpoint."""

import logging

import torch
from common import serve_batches, task, tokens
from datasets import Dataset
from sae_lens import ActivationsStore
from transformer_lens import HookedTransformer, HookedTransformerConfig
from transformer_lens.pretrained.weight_conversions import convert_neox_weights
from transformers import AutoModelForCausalLM


def main() -> None:
    of = task()
    logging.disable()
    theirs = AutoModelForCausalLM.from_pretrained(of["model"], dtype=torch.float32)
    known = theirs.config
    d_head = known.hidden_size // known.num_attention_heads
    config = HookedTransformerConfig(
        n_layers=known.num_hidden_layers, d_model=known.hidden_size, n_ctx=known.max_position_embeddings, d_head=d_head,
        n_heads=known.num_attention_heads, d_mlp=known.intermediate_size, d_vocab=known.vocab_size,
        eps=known.layer_norm_eps, act_fn="gelu", positional_embedding_type="rotary", rotary_adjacent_pairs=False,
        rotary_dim=d_head // 4, normalization_type="LN", parallel_attn_mlp=True, device="cpu",
        default_prepend_bos=False,
    )  # fmt: skip
    model = HookedTransformer(config)
    model.load_state_dict(convert_neox_weights(theirs, config), strict=False)
    hook, text = f"blocks.{of['layer']}.hook_resid_post", tokens(of)
    with torch.no_grad():
        expected = theirs(text[:2], output_hidden_states=True).hidden_states[of["layer"] + 1]
        found = model.run_with_cache(text[:2], names_filter=hook, stop_at_layer=of["layer"] + 1)[1][hook]
    if not torch.allclose(found, expected, atol=1e-3):
        raise SystemExit(f"the models differ by {float((found - expected).abs().max())}")
    store = ActivationsStore(
        model=model, dataset=Dataset.from_dict({"input_ids": text.tolist()}), streaming=False, hook_name=hook,
        hook_head_index=None, context_size=of["sequence_length"], d_in=known.hidden_size, n_batches_in_buffer=8,
        total_training_tokens=10**9, store_batch_size_prompts=16, train_batch_size_tokens=of["batch"],
        prepend_bos=False, normalize_activations="none", device=torch.device("cpu"), dtype="float32",
        disable_concat_sequences=False, sequence_separator_token=None,
    )  # fmt: skip
    serve_batches(store)


if __name__ == "__main__":
    main()
