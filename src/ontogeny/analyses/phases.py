"""Two phases: when the model passes the unigram and the bigram model of its text.

Source: Evolution of Concepts, arXiv 2509.17196 ("statistical learning", then "feature learning").
"""

import numpy as np
import polars as pl

from ontogeny.activations.key import snapshot_keys
from ontogeny.analyses.ngrams import NGrams, fit_ngrams, token_pairs
from ontogeny.config.settings import fingerprint
from ontogeny.corpus.pack import Corpus
from ontogeny.files import is_kept, keeping
from ontogeny.intervals import bootstrap_mean
from ontogeny.progress import progress_bar
from ontogeny.run import Run
from ontogeny.suites.suite import Snapshot, suite_of
from ontogeny.tables import from_rows

SEQUENCES_AT_ONCE = 16
KL_ROWS_AT_ONCE = 512
DIVERGENCES = ("kl_model_unigram", "kl_unigram_model", "kl_model_bigram", "kl_bigram_model")


def phases(run: Run) -> pl.DataFrame:
    """The table `phases`: held-out losses of every snapshot and of both n-gram models at the same positions.

    The n-gram models are fitted on the study's training corpus, which is the models' own where the study pre-trained
    them. Divergences are taken on a part of the positions and over the tokenizer's vocabulary; a model's logits for ids
    beyond it (Pythia pads its unembedding) are left out there. What a snapshot gives is kept, so that one more in a
    suite costs its own reading alone.
    """
    settings, study = run.study.analysis, run.study
    corpus, held_out = (Corpus(run.corpus_folder / split) for split in ("train", "held_out"))
    ngrams = fit_ngrams(corpus)
    sequences = _sequences(held_out, settings.phase_tokens, settings.seed)
    for_kl = sequences[: max(1, round(len(sequences) * settings.kl_tokens / settings.phase_tokens))]
    current, following = token_pairs(held_out, sequences)
    documents = held_out.documents[sequences]
    counts = held_out.lengths[sequences].astype(np.int64) - 1
    sequence = np.repeat(np.arange(len(sequences)), counts)
    bounds = {
        "unigram": np.bincount(sequence, -np.log(ngrams.unigram[following])),
        "bigram": np.bincount(sequence, -np.log(ngrams.bigram(current, following))),
    }
    drawn = {"samples": settings.bootstrap, "seed": settings.seed}
    suite, keys, rows = suite_of(run), snapshot_keys(run), []
    with progress_bar("phases", len(suite.snapshots), unit="snapshots") as bar:
        for index, snapshot in enumerate(suite.snapshots):
            folder = run.folder / "phases" / f"step{snapshot.step}"
            key = fingerprint(keys[index], held_out.fingerprint, sequences.tolist(), len(for_kl))
            if not is_kept(folder, key):
                losses, divergences = _read(snapshot, held_out, sequences, for_kl, ngrams, dtype=study.suite.dtype)
                with keeping(folder, key) as temporary:
                    np.savez(temporary / "read.npz", losses=losses, divergences=divergences)
            read = np.load(folder / "read.npz")
            losses, divergences = read["losses"], read["divergences"].tolist()
            low, high = bootstrap_mean(losses, counts, documents, **drawn)
            gaps = {name: bootstrap_mean(losses - bound, counts, documents, **drawn) for name, bound in bounds.items()}
            rows.append(
                {
                    "snapshot": index,
                    "step": snapshot.step,
                    "loss": losses.sum() / counts.sum(),
                    "loss_ci_low": low,
                    "loss_ci_high": high,
                    **{name: bound.sum() / counts.sum() for name, bound in bounds.items()},
                    **{f"above_{name}_ci_low": gap[0] for name, gap in gaps.items()},
                    **{f"above_{name}_ci_high": gap[1] for name, gap in gaps.items()},
                    **dict(zip(DIVERGENCES, divergences, strict=True)),
                    "tokens": int(counts.sum()),
                }
            )
            bar.advance(1, loss=rows[-1]["loss"])
    return from_rows("phases", rows)


def _sequences(corpus: Corpus, tokens: int, seed: int) -> np.ndarray:
    """Sequences drawn from the seed until they predict enough tokens."""
    order = np.random.default_rng([seed, 3]).permutation(len(corpus))
    enough = int(np.searchsorted((corpus.lengths[order].astype(np.int64) - 1).cumsum(), tokens)) + 1
    return order[:enough]


def _read(
    snapshot: Snapshot, corpus: Corpus, sequences: np.ndarray, for_kl: np.ndarray, ngrams: NGrams, *, dtype: str
) -> tuple[np.ndarray, np.ndarray]:
    """Summed loss of each sequence, and the mean of each of DIVERGENCES on the sequences `for_kl`."""
    import torch

    from ontogeny.loop import numerics
    from ontogeny.models.load import load_snapshot
    from ontogeny.models.pretrain import next_token_losses, padded

    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    model = load_snapshot(snapshot, dtype=dtype, device=device)
    unigram = torch.from_numpy(ngrams.unigram).float().to(device).log()
    losses = []
    sums, tokens = torch.zeros(4, dtype=torch.float64), 0
    with torch.inference_mode(), numerics():
        for first in range(0, len(sequences), SEQUENCES_AT_ONCE):
            chosen = sequences[first : first + SEQUENCES_AT_ONCE]
            batch = padded(corpus, chosen).to(device)
            logits = model(input_ids=batch.clamp_min(0)).logits
            losses.append(next_token_losses(logits, batch).sum(1).double().cpu().numpy())
            if first >= len(for_kl):
                continue
            current, _ = token_pairs(corpus, chosen)
            log_model = logits[:, :-1, : len(unigram)][batch[:, 1:] >= 0].float().log_softmax(-1)
            for row in range(0, len(current), KL_ROWS_AT_ONCE):
                p = log_model[row : row + KL_ROWS_AT_ONCE]
                bigram = torch.from_numpy(ngrams.bigram_rows(current[row : row + KL_ROWS_AT_ONCE])).to(device).log()
                for place, (a, b) in enumerate([(p, unigram), (unigram, p), (p, bigram), (bigram, p)]):
                    sums[place] += float((a.exp() * (a - b)).sum(dtype=torch.float64))
                tokens += len(p)
    return np.concatenate(losses), (sums / tokens).numpy()
