"""Every family of decoders: what a hookpoint reads is the stream, what is written there goes on to the logits."""

import json
import lzma
import re
from functools import reduce
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from ontogeny.activations.harvest import Harvester
from ontogeny.activations.stream import ActivationStream
from ontogeny.config.learner import CrosscoderConfig
from ontogeny.corpus.pack import Corpus
from ontogeny.dictionaries.train import train_crosscoder
from ontogeny.errors import HookpointError
from ontogeny.families import FAMILIES, family_of, shape_of
from ontogeny.models.hookpoints import blocks_of, logit_directions, read_hookpoint, spliced, truncate
from ontogeny.models.load import load_snapshot
from ontogeny.models.names import parse_hookpoint
from ontogeny.models.rest import Rest
from ontogeny.plan.sizes import model_sizes
from ontogeny.run import Run
from ontogeny.suites.suite import open_suite

WIDTH, LAYERS, VOCABULARY, LENGTH = 32, 3, 512, 24
USUAL: dict[str, Any] = {
    "hidden_size": WIDTH, "num_hidden_layers": LAYERS, "num_attention_heads": 4, "vocab_size": VOCABULARY,
    "intermediate_size": 48, "max_position_embeddings": 64, "bos_token_id": 0, "eos_token_id": 0, "pad_token_id": 0,
}  # fmt: skip
GPT2: dict[str, Any] = {
    "n_embd": WIDTH, "n_layer": LAYERS, "n_head": 4, "vocab_size": VOCABULARY, "n_positions": 64, "bos_token_id": 0,
    "eos_token_id": 0,
}  # fmt: skip
GROUPED, HEADS_OF_8 = {"num_key_value_heads": 2}, {"num_key_value_heads": 2, "head_dim": 8}
WINDOW = {"sliding_window": 8}
LOCAL = ["sliding_attention", "full_attention", "sliding_attention"]
TINY: dict[str, dict[str, Any]] = {
    "apertus": USUAL | GROUPED | {"rope_parameters": {"rope_type": "default", "rope_theta": 1e4}},
    "bloom": {"hidden_size": WIDTH, "n_layer": LAYERS, "n_head": 4, "vocab_size": VOCABULARY},
    "gemma": USUAL | HEADS_OF_8,
    "gemma2": USUAL | HEADS_OF_8 | WINDOW | {"layer_types": LOCAL},
    "gemma3_text": USUAL | HEADS_OF_8 | WINDOW | {"layer_types": LOCAL},
    "gpt2": GPT2,
    "gpt_neo": {
        "hidden_size": WIDTH, "num_layers": LAYERS, "num_heads": 4, "window_size": 8,
        "attention_types": [[["local"], 1], [["global"], 2]], "vocab_size": VOCABULARY, "max_position_embeddings": 64,
    },
    "gpt_neox": USUAL,
    "gptj": GPT2 | {"rotary_dim": 4},
    "llama": USUAL | GROUPED,
    "mistral": USUAL | GROUPED | WINDOW,
    "olmo": USUAL,
    "olmo2": USUAL | GROUPED,
    "olmo3": USUAL | GROUPED | WINDOW | {"layer_types": LOCAL},
    "opt": {
        "hidden_size": WIDTH, "num_hidden_layers": LAYERS, "num_attention_heads": 4, "ffn_dim": 48,
        "vocab_size": VOCABULARY, "max_position_embeddings": 64, "word_embed_proj_dim": WIDTH,
    },
    "phi": USUAL,
    "phi3": USUAL | GROUPED,
    "qwen2": USUAL | GROUPED | {"tie_word_embeddings": True},
    "qwen3": USUAL | HEADS_OF_8,
    "smollm3": USUAL | GROUPED | {"tie_word_embeddings": True},
    "stablelm": USUAL | {"num_key_value_heads": 4, "use_parallel_residual": True},
    "starcoder2": USUAL | GROUPED | WINDOW,
}  # fmt: skip
TOKENS = torch.randint(1, VOCABULARY, (3, LENGTH), generator=torch.Generator().manual_seed(0))


def build(name: str, seed: int = 0) -> Any:
    """A tiny random model, its norms and biases random too."""
    from transformers import AutoConfig, AutoModelForCausalLM

    torch.manual_seed(seed)
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model(name, **TINY[name])).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.05 * torch.randn(parameter.shape))
    return model.requires_grad_(False)


@pytest.fixture(scope="module", params=FAMILIES)
def family(request: pytest.FixtureRequest) -> tuple[str, Any]:
    return request.param, build(request.param)


def read(model: Any, hookpoint: str) -> torch.Tensor:
    return read_hookpoint(model, TOKENS, parse_hookpoint(hookpoint))


def close(found: torch.Tensor, expected: torch.Tensor) -> None:
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4 * float(expected.abs().max()))


def test_there_is_a_tiny_model_of_every_family() -> None:
    assert TINY.keys() == FAMILIES.keys()
    assert len(FAMILIES) >= 12


def test_hookpoints_read_what_transformers_gives(family: tuple[str, Any]) -> None:
    name, model = family
    hidden = model(TOKENS, output_hidden_states=True).hidden_states
    for layer in range(LAYERS):
        assert torch.equal(read(model, f"resid_pre.{layer}"), hidden[layer])
        if layer < LAYERS - 1:
            assert torch.equal(read(model, f"resid_post.{layer}"), hidden[layer + 1])
    last = read(model, f"resid_post.{LAYERS - 1}")
    norm = model.get_submodule(family_of(name).final_norm)
    torch.testing.assert_close(norm(last), hidden[-1])


def test_a_block_adds_its_attention_and_its_mlp_to_the_stream(family: tuple[str, Any]) -> None:
    _, model = family
    for layer in range(LAYERS):
        before, attention, mlp, after = (
            read(model, f"{kind}.{layer}") for kind in ("resid_pre", "attn_out", "mlp_out", "resid_post")
        )
        close(before + attention + mlp, after)
        assert attention.abs().max() > 1e-3 < mlp.abs().max()


def test_what_is_written_changes_the_logits_as_by_hand(family: tuple[str, Any]) -> None:
    name, model = family
    change = torch.randn(WIDTH, generator=torch.Generator().manual_seed(1))
    norm, head = model.get_submodule(family_of(name).final_norm), model.get_output_embeddings()
    last = read(model, f"resid_post.{LAYERS - 1}")

    def logits(stream: torch.Tensor) -> torch.Tensor:
        found = head(norm(stream))
        cap = getattr(model.config, "final_logit_softcapping", None)
        return found if cap is None else cap * torch.tanh(found / cap)

    close(model(TOKENS).logits, logits(last))
    for kind in ("resid_post", "mlp_out"):
        with spliced(model, parse_hookpoint(f"{kind}.{LAYERS - 1}"), lambda x: x + change):
            close(model(TOKENS).logits, logits(last + change))
    with spliced(model, parse_hookpoint("resid_pre.0"), lambda x: x + change):
        assert not torch.allclose(model(TOKENS).logits, logits(last), atol=1e-3)
    close(model(TOKENS).logits, logits(last))


def test_logit_directions_are_the_logits_of_a_step(family: tuple[str, Any]) -> None:
    """A step across the stream, so that the norm's own scale stays as it is."""
    name, model = family
    draw = torch.Generator().manual_seed(2)
    norm = model.double().get_submodule(family_of(name).final_norm)
    stream = torch.randn(1, WIDTH, generator=draw).double()
    stream -= stream.mean()
    step = torch.randn(4, WIDTH, generator=draw).double()
    step -= step.mean(1, keepdim=True)
    step -= (step @ stream.T) / (stream @ stream.T) * stream
    head, small = model.get_output_embeddings(), 1e-4
    moved = (head(norm(stream + small * step)) - head(norm(stream - small * step))) / (2 * small)
    moved = moved * stream.square().mean().sqrt()
    expected = (moved - moved.mean(1, keepdim=True)).float()
    found = logit_directions(model.float(), step.float())
    torch.testing.assert_close(found, expected, rtol=5e-3, atol=5e-3 * float(expected.abs().max()))


def test_the_rest_of_a_model_goes_on_from_any_hookpoint(family: tuple[str, Any]) -> None:
    name, model = family
    last = torch.tensor([LENGTH - 1, 7, LENGTH - 1])
    expected = model(TOKENS).logits[torch.arange(3), last]
    for kind in ("resid_pre", "resid_post", "attn_out", "mlp_out"):
        rest = Rest(build(name), parse_hookpoint(f"{kind}.1"))
        x, entry, logits = rest.read(TOKENS, last)
        close(logits, expected)
        close(rest.logits(TOKENS, last, x, entry), expected)
        assert not torch.allclose(rest.logits(TOKENS, last, 2 * x, entry), expected, atol=1e-4)


def test_an_early_exit_reads_the_same_and_a_crosscoder_trains_on_it(
    family: tuple[str, Any], small_run: Run, tmp_path: Path
) -> None:
    name, model = family
    hookpoint = parse_hookpoint("resid_post.1")
    whole = read_hookpoint(model, TOKENS, hookpoint)
    for step in (0, 1):
        build(name, seed=step).save_pretrained(tmp_path / f"step{step}")
    suite = open_suite(tmp_path)
    assert suite.width() == WIDTH
    shape = shape_of(suite.model_config())
    assert (shape.layers, shape.vocabulary) == (LAYERS, VOCABULARY)
    assert shape.context in (64, None)
    assert shape.inner == {"bloom": 128, "gpt2": 128, "gptj": 128, "gpt_neo": 128}.get(name, 48)
    cut = load_snapshot(suite.snapshots[0], up_to=hookpoint)
    assert len(blocks_of(cut)) == 2
    assert torch.equal(read_hookpoint(cut, TOKENS, hookpoint), whole)
    planned = model_sizes(suite.model_config(), str(hookpoint))
    parameters = sum(parameter.numel() for parameter in model.parameters())
    tied = VOCABULARY * WIDTH if model.config.tie_word_embeddings else 0
    assert planned.parameters - tied == pytest.approx(parameters, rel=0.15)
    harvester, corpus = Harvester(suite, str(hookpoint)), Corpus(small_run.corpus_folder / "train")
    options = {"batch_size": 64, "window_tokens": 512, "model_batch_size": 8, "seed": 0}
    stream = ActivationStream(harvester, corpus, **options)
    config = CrosscoderConfig(n_features=48, k=6, steps=12, norm_tokens=128)
    crosscoder = train_crosscoder(stream, config)
    x = next(iter(stream)) * crosscoder.norm_scale[:, None]
    rebuilt = crosscoder.decode(crosscoder.encode(x))
    assert (x - rebuilt).square().sum() < (x - x.mean(0)).square().sum()


def test_truncated_models_are_smaller(family: tuple[str, Any]) -> None:
    name, _ = family
    model = build(name)
    before = sum(parameter.numel() for parameter in model.parameters())
    truncate(model, parse_hookpoint("resid_post.0"))
    assert sum(parameter.numel() for parameter in model.parameters()) < before


def test_an_unknown_family_is_told_which_row_to_add() -> None:
    with pytest.raises(HookpointError, match=r"'mamba' are unknown here.*add a row 'mamba' to FAMILIES in ontogeny/"):
        family_of("mamba")
    with pytest.raises(HookpointError, match="did you mean qwen3"):
        family_of("qwen33")
    with pytest.raises(HookpointError, match="has no 'n_embd'"):
        shape_of({"model_type": "gpt2", "n_layer": 3, "vocab_size": 9})


def test_a_real_small_model_has_its_stated_cross_entropy(shared: Path, tmp_path: Path) -> None:
    """stories260K (A. Karpathy, MIT), whose rotary pairs are interleaved: transformers wants halves."""
    from transformers import LlamaConfig, LlamaForCausalLM

    folder = shared / "data" / "models" / "stories260K"
    own = json.loads((folder / "config.json").read_text())
    config = LlamaConfig(
        hidden_size=own["dim"], intermediate_size=own["hidden_dim"], num_hidden_layers=own["n_layers"],
        num_attention_heads=own["n_heads"], num_key_value_heads=own["n_kv_heads"], vocab_size=own["vocab_size"],
        max_position_embeddings=own["max_seq_len"], rms_norm_eps=own["norm_eps"], tie_word_embeddings=True,
    )  # fmt: skip
    weights, size = load_file(folder / "model.safetensors"), own["dim"] // own["n_heads"]

    def halves(weight: torch.Tensor) -> torch.Tensor:
        return weight.view(-1, size // 2, 2, own["dim"]).transpose(1, 2).reshape(-1, own["dim"])

    model = LlamaForCausalLM(config)
    names = {
        "tok_embeddings": "embed_tokens", "attention_norm": "input_layernorm", "ffn_norm": "post_attention_layernorm",
        "attention.w": "self_attn.", "feed_forward.w1": "mlp.gate_proj", "feed_forward.w2": "mlp.down_proj",
        "feed_forward.w3": "mlp.up_proj",
    }  # fmt: skip
    state = {}
    for name, weight in weights.items():
        key = "model." + reduce(lambda text, pair: text.replace(*pair), names.items(), name)
        key = re.sub(r"self_attn\.(.)\.", r"self_attn.\1_proj.", key)
        state[key] = halves(weight) if "q_proj" in key or "k_proj" in key else weight
    missing, unexpected = model.load_state_dict(state, strict=False)
    assert (missing, unexpected) == (["lm_head.weight"], [])
    model.save_pretrained(tmp_path / "step0")
    loaded = load_snapshot(open_suite(tmp_path).snapshots[0])
    pieces = json.loads((folder / "tokenizer_pieces.json").read_text())
    documents: dict[str, str] = {}
    for path in (shared / "data" / "corpus").glob("*/tinystories.jsonl.xz"):
        with lzma.open(path, "rt") as file:
            documents |= {document["id"]: document["text"] for document in map(json.loads, file)}
    stories = [documents[name] for name in sorted(documents)[:20]]
    losses = []
    for story in stories:
        tokens = torch.tensor([[own["bos_id"], *greedy(story, pieces)][: own["max_seq_len"]]])
        logits = loaded(tokens).logits[0, :-1]
        losses.append(torch.nn.functional.cross_entropy(logits, tokens[0, 1:], reduction="none"))
    assert float(torch.cat(losses).mean()) == pytest.approx(own["check_mean_ce_nats_first20"], abs=0.005)


def greedy(text: str, pieces: Any) -> list[int]:
    """Merges of the pair with the best score, as SentencePiece's BPE; bytes for what there is no piece for."""
    scores = {piece["piece"]: piece["score"] for piece in pieces[259:]}
    ids = {piece["piece"]: piece["id"] for piece in pieces}
    parts = list(f" {text}")
    while True:
        pairs = [(scores[a + b], -at) for at, (a, b) in enumerate(pairwise(parts)) if a + b in scores]
        if not pairs:
            break
        at = -max(pairs)[1]
        parts[at : at + 2] = [parts[at] + parts[at + 1]]
    return [one for part in parts for one in ([ids[part]] if part in ids else [3 + byte for byte in part.encode()])]


def test_sizes_under_names_that_older_configurations_use() -> None:
    old = {"model_type": "bloom", "n_embed": 1536, "num_hidden_layers": 24, "num_attention_heads": 16, "vocab_size": 9}
    assert shape_of(old)[:3] == (1536, 24, 4 * 1536)
