"""Effects: cases worked out on paper, the model's own forward pass as the judge, and what must change nothing."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import torch
from torch import Tensor

import ontogeny as og
from ontogeny.activations.harvest import Harvester, harvester_of
from ontogeny.causal.bands import bands
from ontogeny.causal.effects import Effects, indirect_effects
from ontogeny.causal.inputs import ItemCodes, encode_items
from ontogeny.causal.site import Site
from ontogeny.corpus.pack import Corpus
from ontogeny.dictionaries.crosscoder import Crosscoder
from ontogeny.dictionaries.dictionary import Dictionary
from ontogeny.errors import ConfigError, DictionaryError
from ontogeny.models.hookpoints import blocks_of
from ontogeny.models.load import load_snapshot
from ontogeny.models.names import parse_hookpoint
from ontogeny.models.rest import Rest
from ontogeny.run import Run
from ontogeny.suites.suite import suite_of
from ontogeny.tasks import TaskConfig, open_task
from ontogeny.tasks.task import Item, Task
from ontogeny.truth.nulls import NoChange

W_DEC = torch.tensor([[1.0, 0, 0], [0, 2, 0], [1, 1, 1]])
B_DEC = torch.tensor([0.1, -0.2, 0.3])


class ByHand(Rest):
    """In place of a model: activations at the hookpoint are given, and m is a function of their sum over positions."""

    def __init__(self, x: Tensor, m: Callable[[Tensor], Tensor]) -> None:
        self.x, self.m = x, m

    def read(self, tokens: Tensor, last: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        return self.x, self.x, self.logits(tokens, last, self.x, self.x)

    def logits(self, tokens: Tensor, last: Tensor, x: Tensor, entry: Tensor) -> Tensor:
        m = self.m(x[:, 1:].sum(1))
        return torch.stack([m, torch.zeros_like(m)], dim=1)


def _by_hand(codes: Tensor, m: Callable[[Tensor], Tensor], *, eps: float = 0.0) -> tuple[Site, ItemCodes]:
    """One item with positions 1 … n of these codes [position, feature]."""
    from scipy.sparse import csr_array

    n = len(codes)
    x = torch.zeros(1, n + 1, 3)
    x[0, 1:] = codes @ W_DEC + B_DEC + eps
    dictionary = Crosscoder(
        W_enc=W_DEC.T[None], W_dec=W_DEC[None], b_enc=torch.zeros(3), b_dec=B_DEC[None], activation="relu", folded=True
    )
    task = Task("by hand", (Item(tuple(range(n + 1)), 0, 1),))
    site = Site(ByHand(x, m), dictionary, 0, task)
    return site, ItemCodes(dictionary, [csr_array(codes.numpy())], np.asarray([0, n]))


def test_on_a_linear_model_all_methods_agree() -> None:
    codes = torch.tensor([[0.5, 0.0, 2.0], [1.0, 3.0, 0.0]])
    slope = torch.tensor([1.0, -1.0, 0.5])
    site, kept = _by_hand(codes, lambda total: total @ slope, eps=0.01)
    expected = (codes * (W_DEC @ slope)).sum(0).numpy()
    for method in ("exact", "atp", "ig"):
        found = site.effects(kept, method=method)
        assert found.features.toarray()[0] == pytest.approx(expected, abs=1e-6)
    found = site.effects(kept, method="ig", steps=1)
    assert found.error[0] == pytest.approx(2 * 0.01 * float(slope.sum()), abs=1e-6)
    assert found.clean[0] - found.end[0] == pytest.approx(expected.sum() + found.error[0], abs=1e-5)
    assert float(found.gap()[0]) < 1e-6


def test_where_the_model_saturates_the_gradient_fails_and_integrated_gradients_do_not() -> None:
    codes = torch.tensor([[3.0, 0.0, 0.0]])
    site, kept = _by_hand(codes, lambda total: (total[:, 0] - 0.1).clamp(max=1))
    at = {
        method: site.effects(kept, method=method, steps=30).features.toarray()[0, 0]
        for method in ("exact", "atp", "ig")
    }
    assert at["exact"] == pytest.approx(1, abs=1e-6)
    assert at["atp"] == 0
    assert at["ig"] == pytest.approx(1, abs=1e-5)  # slope 1 over a third of the path, times 3


def test_two_redundant_features_get_half_each_and_nothing_exactly() -> None:
    codes = torch.tensor([[1.0, 0.5, 0.0]])  # both give 1 of what one of them is enough for
    site, kept = _by_hand(codes, lambda total: (total[:, 0] + total[:, 1] + 0.1).clamp(max=1))
    exact = site.effects(kept, method="exact").features.toarray()[0]
    ig = site.effects(kept, method="ig", steps=20).features.toarray()[0]
    assert exact == pytest.approx([0, 0, 0], abs=1e-6)
    assert ig == pytest.approx([0.5, 0.5, 0], abs=1e-5)


def test_a_position_can_be_chosen() -> None:
    codes = torch.tensor([[0.5, 0.0, 2.0], [1.0, 3.0, 0.0]])
    slope = torch.tensor([1.0, -1.0, 0.5])
    site, kept = _by_hand(codes, lambda total: total @ slope)
    for position, row in ((-1, 1), (-2, 0), (1, 0)):
        expected = (codes[row] * (W_DEC @ slope)).numpy()
        for method in ("exact", "ig"):
            effects = site.effects(kept, method=method, position=position)
            assert effects.features.toarray()[0] == pytest.approx(expected, abs=1e-6)
            if method == "ig":  # what stands elsewhere counts, too
                assert effects.gap().max() < 1e-5


def test_mean_and_corrupted_replacements_on_a_linear_model() -> None:
    codes, other = torch.tensor([[0.5, 0.0, 2.0]]), torch.tensor([[0.0, 1.0, 1.0]])
    slope = torch.tensor([1.0, -1.0, 0.5])
    site, kept = _by_hand(codes, lambda total: total @ slope)
    _, corrupted = _by_hand(other, lambda total: total @ slope)
    expected = ((codes - other) * (W_DEC @ slope))[0].numpy()
    for method in ("exact", "atp", "ig"):
        for by in (corrupted, other[0]):
            found = site.effects(kept, method=method, replaced_by=by).features.toarray()[0]
            assert found == pytest.approx(expected, abs=1e-6)


# a real model


@pytest.fixture(scope="module")
def task(small_run: Run) -> Task:
    tokenizer = Corpus(small_run.corpus_folder / "train").tokenizer
    config = TaskConfig(family="agreement_relative", items=24)
    return open_task(config, tokenizer=tokenizer)


@pytest.fixture(scope="module")
def raw(small_run: Run) -> Crosscoder:
    dictionary = small_run.dictionary().fold_normalisation()
    assert isinstance(dictionary, Crosscoder)
    return dictionary


@pytest.fixture(scope="module")
def codes(small_run: Run, raw: Crosscoder, task: Task) -> ItemCodes:
    return encode_items(raw, harvester_of(small_run), task)


def _site(run: Run, raw: Dictionary, task: Task, place: int = 3, batch_size: int = 64) -> Site:
    rest = Rest(load_snapshot(suite_of(run).snapshots[place]), parse_hookpoint(run.study.hookpoint))
    return Site(rest, raw, place, task, batch_size=batch_size)


@pytest.mark.parametrize(
    "hookpoint", ["resid_pre.0", "resid_pre.1", "attn_out.1", "mlp_out.0", "resid_post.0", "resid_post.1"]
)
def test_the_rest_of_a_model_goes_on_as_the_model_does(small_run: Run, hookpoint: str) -> None:
    snapshot = suite_of(small_run).snapshots[-1]
    tokens = torch.randint(1, 500, (3, 9), generator=torch.Generator().manual_seed(0))
    last = torch.tensor([8, 4, 6])
    with torch.no_grad():
        whole = load_snapshot(snapshot)(input_ids=tokens).logits[torch.arange(3), last]
        rest = Rest(load_snapshot(snapshot), parse_hookpoint(hookpoint))
        x, entry, logits = rest.read(tokens, last)
        torch.testing.assert_close(logits, whole)
        torch.testing.assert_close(rest.logits(tokens, last, x, entry), whole)
        assert (rest.logits(tokens, last, x + torch.randn_like(x), entry) - whole).abs().max() > 1e-2
        torch.testing.assert_close(rest.read(tokens, last)[2], whole)  # nothing stays skipped


def test_codes_of_items_are_those_of_the_dictionary(
    small_run: Run, raw: Crosscoder, task: Task, codes: ItemCodes
) -> None:
    harvester = harvester_of(small_run)
    for place in (0, 7):
        tokens = torch.tensor([task.items[place].prefix])
        (x,) = harvester.read_all([tokens])
        torch.testing.assert_close(codes.at(2, np.asarray([place])), raw.encode(x[0, 1:]))
    few = codes.only(np.asarray([7, 0]))
    torch.testing.assert_close(few.at(2, np.asarray([1])), codes.at(2, np.asarray([0])))
    rows = codes.at(0, np.arange(len(task)))
    torch.testing.assert_close(codes.mean(0), rows.mean(0))


def test_codes_of_snapshots_that_have_their_own(small_run: Run, task: Task) -> None:
    """With a gate per snapshot, and of an SAE series."""
    harvester, draw = harvester_of(small_run), torch.Generator().manual_seed(0)
    shapes = {"W_enc": (4, 32, 24), "W_dec": (4, 24, 32), "b_dec": (4, 32)}
    weights = {name: torch.randn(*shape, generator=draw) / 4 for name, shape in shapes.items()}
    weights["W_dec"] *= torch.rand(4, 24, 1, generator=draw)
    options = {"norm_scale": torch.tensor([0.5, 1.0, 2.0, 3.0]), "activation": "jumprelu"}
    gated = og.Crosscoder(
        **weights, **options, b_enc=torch.zeros(24), threshold=torch.full((24,), 0.5), gate="per_snapshot"
    ).fold_normalisation()
    series = og.SAESeries(
        **weights, **options, b_enc=torch.zeros(4, 24), threshold=torch.full((4, 24), 0.1)
    ).fold_normalisation()
    (x,) = harvester.read_all([torch.tensor([task.items[3].prefix])])
    for dictionary in (gated, series):
        expected = dictionary.encode(x[0, 1:])
        assert expected.ndim == 3
        found = encode_items(dictionary, harvester, task)
        for place in range(4):
            torch.testing.assert_close(found.at(place, np.asarray([3])), expected[:, place])
        assert not torch.equal(expected[:, 0] > 0, expected[:, 3] > 0)
        site = _site(small_run, dictionary, task)
        assert np.median(site.effects(found, method="ig", steps=32).gap()) < 0.01


def test_exact_effects_are_those_of_a_forward_pass_without_the_feature(
    small_run: Run, raw: Crosscoder, task: Task, codes: ItemCodes
) -> None:
    place, block = 3, parse_hookpoint(small_run.study.hookpoint).layer
    found = _site(small_run, raw, task, place).effects(codes, method="exact").features.toarray()
    model = load_snapshot(suite_of(small_run).snapshots[place])
    strongest = np.argsort(-np.abs(found).max(0))[:3]
    for number in (0, 5, 11):
        item = task.items[number]
        tokens, f = torch.tensor([item.prefix]), codes.at(place, np.asarray([number]))
        for feature in strongest.tolist():

            def without(_module: object, _args: object, output: Tensor, at: int = feature, f: Tensor = f) -> Tensor:
                changed = output.clone()
                changed[0, 1:] -= f[:, at, None] * raw.W_dec[place, at]
                return changed

            with torch.no_grad():
                clean = model(input_ids=tokens).logits[0, -1]
                handle = blocks_of(model)[block].register_forward_hook(without)
                ablated = model(input_ids=tokens).logits[0, -1]
                handle.remove()
            m, m_without = (float(logits[item.good] - logits[item.bad]) for logits in (clean, ablated))
            assert found[number, feature] == pytest.approx(m - m_without, abs=2e-5)


def test_integrated_gradients_add_up_the_better_the_more_steps(
    small_run: Run, raw: Crosscoder, task: Task, codes: ItemCodes
) -> None:
    site = _site(small_run, raw, task)
    gaps = [np.median(site.effects(codes, method="ig", steps=steps).gap()) for steps in (1, 4, 32)]
    assert gaps[0] > gaps[1] > gaps[2]
    assert gaps[2] < 0.01
    assert np.quantile(site.effects(codes, method="ig", steps=32).gap(), 0.95) < 0.05


@pytest.mark.parametrize("method", ["exact", "atp", "ig"])
def test_neither_batches_nor_order_nor_padding_change_effects(
    small_run: Run, raw: Crosscoder, task: Task, codes: ItemCodes, method: str
) -> None:
    plain = _site(small_run, raw, task).effects(codes, method=method).features.toarray()
    bound = 1e-5 * np.abs(plain).max()
    split = _site(small_run, raw, task, batch_size=5).effects(codes, method=method).features.toarray()
    assert np.abs(split - plain).max() < bound
    order = np.random.default_rng(0).permutation(len(task))
    shuffled = _site(small_run, raw, task.only(order)).effects(codes.only(order), method=method).features.toarray()
    assert np.abs(shuffled - plain[order]).max() < bound
    padded = _site(small_run, raw, task).effects(codes, method=method, pad=7).features.toarray()
    assert np.abs(padded - plain).max() < bound


@pytest.fixture(scope="module")
def effects(small_run: Run, task: Task) -> Effects:
    return indirect_effects(
        suite_of(small_run), small_run.dictionary(), task=task, hookpoint=small_run.study.hookpoint, bootstrap=200
    )


def test_the_public_function_gives_table_and_array(small_run: Run, task: Task, effects: Effects) -> None:
    assert effects.array.shape == (4, 96)
    assert effects.steps == small_run.steps
    table = effects.table
    assert table.columns[:8] == ["task", "feature", "snapshot", "step", "method", "effect", "ci_low", "ci_high"]
    row = table.filter(snapshot=2).sort(pl.col("effect").abs(), descending=True).row(0, named=True)
    per_item = effects.snapshots[2].features[:, [row["feature"]]].toarray()[:, 0]
    assert row["effect"] == pytest.approx(per_item.mean())
    assert row["effect"] == pytest.approx(effects.array[2, row["feature"]])
    assert row["ci_low"] <= row["effect"] <= row["ci_high"]
    right = effects.snapshots[2].clean > 0
    assert row["effect_right"] == pytest.approx(per_item[right].mean()) if right.any() else row["effect_right"] is None
    assert row["items_active"] == (per_item != 0).sum()
    some = indirect_effects(
        suite_of(small_run), small_run.dictionary(), task=task, hookpoint="resid_post.0", snapshots=[25], bootstrap=10
    )
    assert some.array[0] == pytest.approx(effects.array[2], abs=1e-6)
    assert some.table["snapshot"].unique().to_list() == [2]
    complete = effects.completeness()
    assert complete["gap_median"].max() < 0.02
    assert complete["margin_clean"].to_list() == pytest.approx([float(one.clean.mean()) for one in effects.snapshots])


def test_ctt_is_gradient_times_activation_at_the_clean_point(small_run: Run, task: Task) -> None:
    suite, dictionary = suite_of(small_run), small_run.dictionary()
    options = {"task": task, "hookpoint": "resid_post.0", "snapshots": [60], "bootstrap": 10}
    published = indirect_effects(suite, dictionary, compat="ctt", **options).array[0]
    # by hand, with the published sign: gradient of logit(wrong) - logit(correct), times (0 - f)
    model, raw = load_snapshot(suite.snapshots[3]), dictionary.fold_normalisation()
    codes = encode_items(raw, Harvester(suite, "resid_post.0"), task)
    total = np.zeros(96)
    for number, item in enumerate(task.items):
        caught: list[Tensor] = []

        def keep(_module: object, _args: object, output: Tensor, to: list[Tensor] = caught) -> Tensor:
            to.append(output.requires_grad_())
            return output

        handle = blocks_of(model)[0].register_forward_hook(keep)
        logits = model(input_ids=torch.tensor([item.prefix])).logits[0, -1]
        handle.remove()
        (gradient,) = torch.autograd.grad(logits[item.bad] - logits[item.good], caught[0])
        f = codes.at(3, np.asarray([number]))
        total += ((0 - f) * (gradient[0, 1:] @ raw.W_dec[3].T)).sum(0).detach().numpy()
    assert published == pytest.approx(total / len(task), abs=1e-5)


def test_corrupted_and_mean_replacements_on_a_model(small_run: Run, task: Task) -> None:
    suite, dictionary = suite_of(small_run), small_run.dictionary()
    options = {"hookpoint": "resid_post.0", "snapshots": [60], "bootstrap": 10, "steps": 32}
    corrupted = indirect_effects(suite, dictionary, task=task, replacement="corrupted", **options)
    assert 0 < len(corrupted.task) <= len(task)
    assert corrupted.completeness()["gap_95"][0] < 0.05
    mean = indirect_effects(suite, dictionary, task=task, replacement="mean", **options)
    assert mean.completeness()["gap_95"][0] < 0.05
    # the corrupted input of the corrupted input is the clean one: the same path backwards, up to the error terms
    swapped = Task(
        "swapped",
        tuple(
            replace(item, prefix=item.corrupted, corrupted=item.prefix)
            for item in corrupted.task.items
            if item.corrupted
        ),
    )
    back = indirect_effects(suite, dictionary, task=swapped, replacement="corrupted", **options)
    assert np.corrcoef(back.array[0], -corrupted.array[0])[0, 1] > 0.9


def test_one_line_says_what_effects_cannot_be_taken(small_run: Run, task: Task) -> None:
    suite, dictionary = suite_of(small_run), small_run.dictionary()
    with pytest.raises(ConfigError, match=r"no method 'igg' \(did you mean ig\?\): there are exact, atp, ig"):
        indirect_effects(suite, dictionary, task=task, hookpoint="resid_post.0", method="igg")
    with pytest.raises(ConfigError, match="no snapshot at step 7"):
        indirect_effects(suite, dictionary, task=task, hookpoint="resid_post.0", snapshots=[7])
    with pytest.raises(ConfigError, match="position 99 lies outside"):
        indirect_effects(suite, dictionary, task=task, hookpoint="resid_post.0", position=99)
    with pytest.raises(ConfigError, match="2 snapshot at step 60"):
        indirect_effects(suite.only([0, 1, 3, 3]), dictionary, task=task, hookpoint="resid_post.0", snapshots=[60])
    none = Task("none", tuple(replace(item, corrupted=None) for item in task.items))
    with pytest.raises(ConfigError, match="no item of this task has a corrupted input"):
        indirect_effects(suite, dictionary, task=none, hookpoint="resid_post.0", replacement="corrupted")
    with pytest.raises(DictionaryError, match="4 snapshots, suite suite 2"):
        indirect_effects(suite.only([0, 1]), dictionary, task=task, hookpoint="resid_post.0")


def test_relie_of_the_vectors_with_the_published_convention() -> None:
    effects = np.asarray([[1.0, 0, 0, 3, 2], [1, 2, 0, 1, 0]])  # of relie_two_way
    assert og.relie(effects) == pytest.approx([0.5, 1, np.nan, 0.25, 0], nan_ok=True)
    assert og.relie(effects, compat="ctt") == pytest.approx([0.5, 1, 0.5, 0.25, 0])
    assert og.relie(effects, pairwise=True, compat="ctt")[0] == pytest.approx([0.5, 1, 0.5, 0.25, 0])


def test_where_nothing_changes_features_matter_equally_at_every_snapshot(small_run: Run, task: Task) -> None:
    """The no-change null: the last snapshot again and again, its activations turned and scaled before training."""
    suite = suite_of(small_run)
    last, corpus = suite.only([3]), Corpus(small_run.corpus_folder / "train")
    stream = og.stream_activations(last, corpus, hookpoint="resid_post.0", batch_size=512, seed=0)
    null = NoChange(stream, n_snapshots=2, seed=0)
    config = og.CrosscoderConfig(
        n_features=96, k=8, steps=1000, learning_rate=0.005, decoder_start="independent", dead_after_tokens=5000
    )
    trained = og.train_crosscoder(null, config)
    undone = null.undone(trained)
    batch = next(iter(stream))[:64]
    turned = null.changed(batch, np.random.default_rng(0))
    same = batch.expand(-1, 2, -1)
    assert undone.strength() == pytest.approx(trained.strength(), rel=1e-4)
    codes = trained.encode(turned * trained.norm_scale[:, None])
    agree = ((codes > 0) == (undone.encode(same) > 0)).float().mean()
    assert agree > 0.98  # up to the null's noise of 1 %
    found = indirect_effects(suite.only([3, 3]), undone, task=task, hookpoint="resid_post.0", bootstrap=10)
    size = np.abs(found.array).sum(0)
    matters = size > 0.05 * size.max()
    share = og.relie(found.array)[matters]
    assert matters.sum() >= 5
    assert 0 < np.median(np.abs(share - 0.5)) < 0.02
    assert np.abs(share - 0.5).max() < 0.1


@pytest.mark.shared
def test_relie_is_a_half_where_the_reference_suite_does_not_change(
    shared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The no-change null of a real model: RelIE within .02 of a half for every feature that matters."""
    suite = og.open_suite(shared / "suites" / "english-neox", steps=[5000])
    tokenizer = suite.tokenizer()
    monkeypatch.setenv("ONTOGENY_CACHE", str(tmp_path))
    corpus = og.open_corpus(shared / "data" / "corpus" / "valid" / "openstax.jsonl.xz", tokenizer=tokenizer)
    stream = og.stream_activations(suite, corpus, hookpoint="resid_post.2", batch_size=512, seed=0)
    null = NoChange(stream, n_snapshots=2, seed=0)
    crosscoder = og.CrosscoderConfig(n_features=512, k=8, steps=600, decoder_start="independent")
    undone = null.undone(og.train_crosscoder(null, crosscoder))
    task = open_task(TaskConfig(family="agreement_simple", items=80), tokenizer=tokenizer)
    found = indirect_effects(suite.only([0, 0]), undone, task=task, hookpoint="resid_post.2", bootstrap=10)
    size = np.abs(found.array).sum(0)
    matters = size > 0.05 * size.max()
    assert matters.sum() >= 3
    assert 0 < np.abs(og.relie(found.array)[matters] - 0.5).max() < 0.02
    by_item = bands([one.features for one in found.snapshots], [5000, 5000], np.arange(len(task.items)), samples=100)
    determined = matters & (by_item.band != "undetermined")
    assert determined.sum() >= 3
    assert set(by_item.band[determined]) == {"shared"}
