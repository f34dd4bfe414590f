"""The stage `attribute`: what features do for a study's tasks, snapshot by snapshot, and the tables made of it.

Models are loaded one at a time and twice each: first for the effects of all features, then, once these say which
features lead, for ablations and exact effects. What is finished is kept in `attribution/kept/`.
"""

import shutil
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from ontogeny.activations.harvest import harvester_of
from ontogeny.causal.ablation import ablate, ablate_elsewhere, features_for_half, rank
from ontogeny.causal.effects import Effects, effects_table
from ontogeny.causal.inputs import ItemCodes, encode_items
from ontogeny.causal.site import Site, SnapshotEffects
from ontogeny.causal.tables import (
    Chosen,
    Tables,
    choose_snapshots,
    derived_tables,
    is_learned,
    relie_beside,
    settings_of,
)
from ontogeny.config.settings import fingerprint
from ontogeny.corpus.pack import Corpus
from ontogeny.corpus.readers import expand
from ontogeny.dictionaries.dictionary import Dictionary
from ontogeny.dictionaries.variants import seed_variant
from ontogeny.families import shape_of
from ontogeny.features.codes import stored_codes
from ontogeny.features.matching import match_features
from ontogeny.files import content_state, is_kept, keeping
from ontogeny.models.load import load_snapshot
from ontogeny.models.names import parse_hookpoint
from ontogeny.models.rest import Rest
from ontogeny.progress import progress_bar
from ontogeny.run import Run
from ontogeny.suites.suite import Suite, suite_of
from ontogeny.tables import TABLES, from_rows
from ontogeny.tasks import open_task
from ontogeny.tasks.task import Task
from ontogeny.tasks.words import count_words


def tasks_of(run: Run) -> list[Task]:
    """The study's tasks, with the suite's tokenizer, filtered by the words of its training text.

    Raises:
        TaskError: a family or file is not what it should be, or a task has no item left.
    """
    settings, suite = settings_of(run), suite_of(run)
    rare = any(task.least_count for task in settings.tasks)
    words = count_words(Corpus(run.corpus_folder / "train")) if rare else None
    context = shape_of(suite.model_config()).context
    tokenizer = suite.tokenizer()
    aligned = settings.replacement == "corrupted"
    return [
        open_task(task, tokenizer=tokenizer, context=context, words=words, aligned=aligned) for task in settings.tasks
    ]


def attribute(run: Run) -> Tables:
    """All tables of the stage. What was kept of earlier calls, and still holds, is not made again.

    Raises:
        ConfigError: snapshots are to be compared that the run does not have.
    """
    settings_of(run).require_steps(run.steps)
    tasks, places = tasks_of(run), list(range(len(run.steps)))
    work = _Work(run, tasks, run.dictionary)
    work.effects(places)
    found = [work.read_effects(number) for number in range(len(tasks))]
    work.trials(found)
    trials = {name: work.read_trials(name) for name in TRIALS}
    chosen = choose_snapshots(run, found)
    tables = derived_tables(run, found, trials, chosen)
    of_seeds = {
        seed: _Work(run, tasks, partial(seed_variant, run, seed), name=f"seed-{seed}")
        for seed in settings_of(run).seeds
    }
    tables["relie_seeds"] = _relie_seeds(run, found, chosen, of_seeds)
    _forget_others(run, [work, *of_seeds.values()])
    return tables


def _forget_others(run: Run, works: list["_Work"]) -> None:
    """Remove what was kept for tasks and settings that the study no longer has."""
    used = {folder.name for work in works for folder in work.folders()}
    for folder in (run.folder / "attribution" / "kept").iterdir():
        if folder.name not in used:
            shutil.rmtree(folder)


def _relie_seeds(run: Run, found: list[Effects], chosen: Chosen, of_seeds: dict[int, "_Work"]) -> pl.DataFrame:
    """The table `relie_seeds`: RelIE of the same features in dictionaries of other seeds."""
    rows, own = [], run.dictionary()
    places = sorted({place for of_task in chosen.of_task.values() for one in of_task for place in one})
    living = np.flatnonzero(~run.features.sort("feature")["dead"].to_numpy())
    for seed, work in of_seeds.items():
        work.effects(places)
        fires = np.flatnonzero(work.active())
        match = match_features(own, seed_variant(run, seed), living=living, living_other=fires)
        for number, effects in enumerate(found):
            for one in chosen.of_task[effects.task.name]:
                of_seed = {place: work.read_snapshot(number, place).features for place in one}
                rows.append({"seed": seed} | relie_beside(effects, of_seed, match, settings_of(run)))
    return from_rows("relie_seeds", rows)


TRIALS = ("ablation", "half_margin", "exact")


class _Work:
    """What runs models: effects, then trials.

    Args:
        dictionary: gives the one to splice in.
        name: tells what is kept apart from that of the run's own dictionary.
    """

    def __init__(self, run: Run, tasks: list[Task], dictionary: Callable[[], Dictionary], *, name: str = "") -> None:
        self.run, self.settings, self.tasks = run, settings_of(run), tasks
        self.suite: Suite = suite_of(run)
        self.hookpoint = parse_hookpoint(run.study.hookpoint)
        self._open, self._name = dictionary, name
        self._codes: list[ItemCodes] | None = None
        self._corrupted: list[ItemCodes] = []
        self._dictionary: Dictionary | None = None
        self._keys = self._keys_of_tasks()

    # what is kept

    def _keys_of_tasks(self) -> list[str]:
        """What the effects on each task depend on."""
        stages, settings = self.run.manifest["stages"], self.settings
        means = stages["measure"]["key"] if settings.replacement == "mean" else None
        shared = (stages["train"]["key"], self._name, settings.method, settings.steps, settings.replacement, means)
        return [
            fingerprint(*shared, config, [content_state(path) for path in expand(config.patterns)])
            for config in settings.tasks
        ]

    def _folder(self, kind: str, task: int, place: int) -> Path:
        name = f"{kind}-{self._keys[task]}-step{self.suite.steps[place]}"
        return self.run.folder / "attribution" / "kept" / name

    def folders(self) -> Iterator[Path]:
        """Where what this work may keep lies."""
        for kind in ("effects", "trials", "elsewhere"):
            for task in range(len(self.tasks)):
                for place in range(len(self.suite.steps)):
                    yield self._folder(kind, task, place)

    def _key(self, kind: str, task: int, place: int) -> str:
        settings = self.settings
        shared = settings.learned_accuracy, settings.bootstrap, settings.seed
        more = {
            "effects": (),
            "trials": (settings.leading, settings.control_draws, settings.exact_features, *shared),
            "elsewhere": (self._keys, *shared),
        }
        return fingerprint(kind, self._keys[task], place, *more[kind])

    def _is_kept(self, kind: str, task: int, place: int) -> bool:
        return is_kept(self._folder(kind, task, place), self._key(kind, task, place))

    def _models(self, kinds: Sequence[str], places: Sequence[int]) -> Iterator[tuple[int, list[tuple[str, int]], Rest]]:
        """Snapshots at which something is still to be done, which kinds for which tasks, and the model."""
        with progress_bar(f"{kinds[0]} {self._name}".strip(), len(places), unit="snapshots") as bar:
            for place in places:
                missing = [
                    (kind, number)
                    for number in range(len(self.tasks))
                    for kind in kinds
                    if not self._is_kept(kind, number, place)
                ]
                if missing:
                    device = self._prepared()
                    snapshot = self.suite.snapshots[place]
                    model = load_snapshot(snapshot, device=device)
                    yield place, missing, Rest(model, self.hookpoint)
                bar.advance(1)

    def _prepared(self) -> Any:
        """Read all items with all snapshots, once; the device."""
        if self._codes is None:
            harvester = harvester_of(self.run)
            raw = self._open().fold_normalisation().requires_grad_(False).to(harvester.device)
            size = self.settings.model_batch_size
            self._codes = [encode_items(raw, harvester, task, batch_size=size) for task in self.tasks]
            if self.settings.replacement == "corrupted":
                self._corrupted = [
                    encode_items(raw, harvester, task, batch_size=size, corrupted=True) for task in self.tasks
                ]
            self._dictionary, self._device = raw, harvester.device
        return self._device

    def _site(self, rest: Rest, place: int, task: Task) -> Site:
        assert self._dictionary is not None
        return Site(rest, self._dictionary, place, task, batch_size=self.settings.model_batch_size)

    def _replaced_by(self, number: int, place: int) -> Any:
        if self.settings.replacement == "mean":
            stored = stored_codes(self.run, snapshot=place)
            assert self._dictionary is not None
            codes = self._dictionary.kept_at(stored.codes.to(self._device), place)
            return codes.sum(1).to_dense() / stored.tokens
        return self._corrupted[number] if self._corrupted else None

    # effects of all features

    def effects(self, places: Sequence[int]) -> None:
        """Effects at some snapshots, kept."""
        for place, missing, rest in self._models(["effects"], places):
            assert self._codes is not None
            for _, number in missing:
                found = self._site(rest, place, self.tasks[number]).effects(
                    self._codes[number],
                    method=self.settings.method,
                    steps=self.settings.steps,
                    replaced_by=self._replaced_by(number, place),
                )
                with keeping(self._folder("effects", number, place), self._key("effects", number, place)) as folder:
                    found.save(folder / "effects.npz")

    def active(self) -> np.ndarray:
        """Whether each feature is active on any item of any task, at any snapshot [feature]."""
        self._prepared()
        assert self._codes is not None
        return np.sum([one.counts(place) for one in self._codes for place in range(len(self.suite.snapshots))], 0) > 0

    def read_snapshot(self, number: int, place: int) -> SnapshotEffects:
        """A task's effects at a snapshot."""
        return SnapshotEffects.load(self._folder("effects", number, place) / "effects.npz")

    def read_effects(self, number: int) -> Effects:
        """A task's effects at all snapshots."""
        task, steps, settings = self.tasks[number], self.suite.steps, self.settings
        found = [self.read_snapshot(number, place) for place in range(len(steps))]
        places = list(range(len(steps)))
        table = effects_table(
            task, places, steps, found, method=settings.method, samples=settings.bootstrap, seed=settings.seed
        )
        return Effects(task, places, steps, settings.method, found, table)

    # ablations and exact effects

    def trials(self, found: list[Effects]) -> None:
        """Ablations at the snapshots where a task is learned; exact effects of some features at all."""
        settings, seed = self.settings, self.settings.seed
        above, places = settings.learned_accuracy, len(self.suite.snapshots)
        learned = [
            [is_learned(one.clean, task.clusters, above=above, snapshots=places) for one in effects.snapshots]
            for task, effects in zip(self.tasks, found, strict=True)
        ]
        sample = [spread_features(effects.array, settings.exact_features) for effects in found]
        halves = [task.halves(seed=seed) for task in self.tasks]
        for place, missing, rest in self._models(["trials", "elsewhere"], range(places)):
            ranked = {
                number: rank(
                    np.asarray(found[number].snapshots[place].features[halves[number][0]].mean(axis=0)).ravel()
                )
                for number in range(len(self.tasks))
                if learned[number][place]
            }
            for kind, number in missing:
                half = halves[number][1]
                if kind == "trials":
                    trial = self._trial(rest, place, number, found[number], sample[number], half, ranked.get(number))
                else:
                    trial = {"ablation": self._elsewhere(rest, place, number, half, ranked)}
                with keeping(self._folder(kind, number, place), self._key(kind, number, place)) as folder:
                    for name, rows in trial.items():
                        from_rows(name, rows).write_parquet(folder / f"{name}.parquet")

    def _where(self, number: int, place: int) -> dict[str, Any]:
        return {"task": self.tasks[number].name, "snapshot": place, "step": self.suite.steps[place]}

    def _elsewhere(
        self, rest: Rest, place: int, number: int, half: np.ndarray, ranked: dict[int, np.ndarray]
    ) -> list[dict[str, Any]]:
        """Rows of `ablation` on the leading features of the other tasks that are learned at the snapshot."""
        others = {self.tasks[other].name: of_other for other, of_other in ranked.items() if other != number}
        if number not in ranked or not others:
            return []
        assert self._codes is not None
        site, codes = self._site(rest, place, self.tasks[number].only(half)), self._codes[number].only(half)
        rows = ablate_elsewhere(site, codes, others, samples=self.settings.bootstrap, seed=self.settings.seed)
        return [self._where(number, place) | row for row in rows]

    def _trial(
        self,
        rest: Rest,
        place: int,
        number: int,
        effects: Effects,
        sample: np.ndarray,
        half: np.ndarray,
        ranked: np.ndarray | None,
    ) -> dict[str, list[dict[str, Any]]]:
        """What is tried at one snapshot on one task, as rows of the tables TRIALS.

        Args:
            half: items to try on, of which none were ranked by.
            ranked: features, those that help most first; None where the task is not learned.
        """
        assert self._codes is not None
        settings, task, where = self.settings, self.tasks[number], self._where(number, place)
        of = effects.snapshots[place].features
        trial: dict[str, list[dict[str, Any]]] = {name: [] for name in TRIALS}
        if ranked is not None:
            site = self._site(rest, place, task.only(half))
            codes = self._codes[number].only(half)
            rows = ablate(
                site, codes, ranked, leading=settings.leading, draws=settings.control_draws,
                samples=settings.bootstrap, seed=settings.seed,
            )  # fmt: skip
            trial["ablation"].extend(where | row for row in rows)
            clean = trial["ablation"][0]["margin"]
            if clean > 0:
                few = features_for_half(site, codes, ranked, clean)
                trial["half_margin"].append(where | {"features": few, "active": int((codes.counts(place) > 0).sum())})
        if len(sample):
            exact = self._site(rest, place, task).effects(
                self._codes[number], method="exact", features=sample.tolist(),
                replaced_by=self._replaced_by(number, place),
            )  # fmt: skip
            means = [np.asarray(one.mean(axis=0)).ravel()[sample] for one in (of, exact.features)]
            trial["exact"].extend(
                where | {"feature": feature, "predicted": predicted, "exact": value}
                for feature, predicted, value in zip(sample.tolist(), *means, strict=True)
            )
        return trial

    def read_trials(self, name: str) -> pl.DataFrame:
        """Rows of a table from all tasks and snapshots."""
        folders = [
            self._folder(kind, number, place)
            for number in range(len(self.tasks))
            for place in range(len(self.suite.snapshots))
            for kind in ("trials", "elsewhere")
        ]
        found = [folder / f"{name}.parquet" for folder in folders]
        table = pl.concat([pl.read_parquet(path) for path in found if path.is_file()], how="diagonal")
        return table.select(list(TABLES[name]))


def spread_features(array: np.ndarray, count: int) -> np.ndarray:
    """Features of all sizes of effect, from the greatest |mean effect| at any snapshot down, ever further apart."""
    size = np.abs(array).max(0)
    order = np.argsort(-size, kind="stable")
    order = order[size[order] > 0]
    if count == 0 or len(order) == 0:
        return order[:0]
    places = np.unique(np.geomspace(1, len(order), 4 * count).round().astype(int) - 1)
    chosen = places[np.unique(np.linspace(0, len(places) - 1, count).round().astype(int))]
    return order[chosen]
