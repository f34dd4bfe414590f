"""The report: one self-contained page that opens without a network.

Vega's JavaScript stands in it once; data stand in it as JSON with `<` escaped, text is escaped by the template.
"""

import json
from importlib.resources import files
from pathlib import Path
from typing import Any

import polars as pl

from ontogeny.features.labels import token_text
from ontogeny.files import write_text
from ontogeny.report import figures
from ontogeny.report.bundle import vega_bundle
from ontogeny.report.sentences import summary
from ontogeny.run import Run

MAX_CARDS_PER_BIRTH, MAX_CARDS = 4, 24
DENSITY_RANGE = (2e-4, 0.05)
PADDING = {"left": 20, "top": 5, "bottom": 5, "right": 28}
"""Of a figure in a file, in pixels: a viewer's letters may be wider than those that it was laid out with."""
TOP_EXAMPLES, OWN_EXAMPLES, LOGIT_TOKENS, SNAPSHOTS_PER_CARD, EFFECTS = 6, 3, 8, 5, 3


def write_figures(run: Run, folder: Path) -> list[Path]:
    """Write each figure of the report as `NAME.svg` into a folder and return the paths."""
    import vl_convert

    folder.mkdir(parents=True, exist_ok=True)
    drawn = {folder / f"{name}.svg": draw for name, draw in figures.drawn(run).items()}
    for path, draw in drawn.items():
        write_text(path, vl_convert.vegalite_to_svg(draw(run) | {"padding": PADDING}))
    return list(drawn)


def write_report(run: Run) -> Path:
    """Write `report.html` into the run folder and return its path."""
    from jinja2 import Environment
    from markupsafe import Markup
    from tokenizers import Tokenizer

    assets = files("ontogeny.report") / "assets"
    environment = Environment(autoescape=True)
    environment.filters["format"] = formatted
    template = environment.from_string((assets / "report.html.j2").read_text(encoding="utf-8"))
    tokenizer = Tokenizer.from_file(str(run.corpus_folder / "tokenizer" / "tokenizer.json"))
    analyses = run.study.analyses
    drawn = figures.drawn(run)
    specs = {name: draw(run) for name, draw in drawn.items()}
    cards = _cards(run, tokenizer)
    specs |= {f"feature-{card['feature']}": card.pop("spec") for card in cards}
    page = template.render(
        name=run.study.name,
        study=run.study,
        summary=summary(run),
        figures=list(drawn),
        quality=run.table("quality").to_dicts(),
        turning=run.analysis("turning_point").to_dicts() if "turning_point" in analyses else [],
        saes=run.analysis("single_saes").to_dicts() if "single_saes" in analyses else [],
        complexity=run.table("complexity_births").to_dicts() if "complexity" in analyses else [],
        agreement=run.table("complexity_agreement").to_dicts() if "complexity" in analyses else [],
        proxy=run.table("proxy").to_dicts() if "probes" in analyses else [],
        shrunken=int(run.table("proxies")["shrunken"].sum()) if "probes" in analyses else 0,
        memorised=_memorised(run) if "memorisation" in analyses else [],
        patterns=run.table("patterns").to_dicts() if "formation" in analyses else [],
        track=_track(run) if "tracking" in analyses else [],
        gate=run.table("gate").to_dicts() if "tracking" in analyses else [],
        matches=run.table("track_matches").to_dicts() if "tracking" in analyses else [],
        tasks=_tasks(run) if run.study.attribution is not None else [],
        dropped=run.table("task_dropped").to_dicts() if run.study.attribution is not None else [],
        stability=run.table("stability").to_dicts() if run.study.truth is not None else [],
        nulls=run.table("nulls").to_dicts() if run.study.truth is not None else [],
        warmup_end=run.study.suite.warmup_end,
        cards=cards,
        density_range=DENSITY_RANGE,
        manifest=run.manifest,
        provenance=run.manifest["stages"]["measure"]["provenance"],
        corpus=json.loads((run.corpus_folder / "train" / "manifest.json").read_text(encoding="utf-8")),
        config=run.study_path.read_text(encoding="utf-8"),
        css=Markup((assets / "report.css").read_text(encoding="utf-8")),
        script=Markup((assets / "report.js").read_text(encoding="utf-8")),
        vega=Markup(vega_bundle()),
        specs=Markup(embeddable(specs)),
    )
    write_text(run.report_path, page)
    return run.report_path


def formatted(form: str, value: float | None) -> str:
    """A number in a form such as `%.2f`; a dash where a table does not know it."""
    return "–" if value is None or value != value else form % value


def _memorised(run: Run) -> list[dict[str, Any]]:
    """The features with the greatest gaps at the last snapshot that are beyond chance for one feature by itself."""
    table = run.table("memorisation").drop_nulls("gap")
    first = table.filter(snapshot=0).select("feature", first="gap")
    last = table.filter(pl.col("snapshot") == len(run.steps) - 1, pl.col("gap_ci_low") > 0)
    return (
        last.join(first, on="feature", how="left").sort("gap", "feature", descending=[True, False]).head(5).to_dicts()
    )


def _track(run: Run) -> list[dict[str, Any]]:
    """The links of the series: how far activations move there, how far directions turn, the share of features that are
    nearest to themselves, and the same of its null."""
    both = run.table("track_drift").join(
        run.table("identity").select("variant", "link", "same"), on=["variant", "link"], how="left"
    )
    null = both.filter(variant="null").select("link", null_angle="angle", null_same="same")
    own = both.filter(variant=run.study.series.direction)
    gaps = run.table("gaps").select("step_a", "moved", "cka_distance", "carried")
    return own.join(null, on="link", how="left").join(gaps, on="step_a", how="left").sort("link").to_dicts()


def _tasks(run: Run) -> list[dict[str, Any]]:
    """What is known of each task at the last snapshot."""
    last, keys = len(run.steps) - 1, ["task", "snapshot"]
    completeness = run.table("completeness").select(*keys, "gap_median", "error_share")
    prediction = run.table("prediction").select(*keys, "spearman", "spearman_ci_low", "spearman_ci_high", "slope")
    table = run.table("tasks").filter(snapshot=last)
    for other in (completeness, prediction):
        table = table.join(other, on=keys, how="left", maintain_order="left")
    return table.to_dicts()


def _leading_effects(run: Run, chosen: list[int]) -> dict[int, list[dict[str, Any]]]:
    """For each feature the tasks that it does most for or against, of those learned, at the last snapshot where they
    are; effects that are zero within 95 % left out."""
    if run.study.attribution is None:
        return {}
    at = run.table("tasks").filter("learned").group_by("task").agg(pl.col("snapshot").max())
    table = run.scan("effects").filter(
        pl.col("feature").is_in(chosen), (pl.col("ci_low") > 0) | (pl.col("ci_high") < 0)
    )
    table = table.join(at.lazy(), on=["task", "snapshot"]).sort(pl.col("effect").abs(), descending=True)
    return {
        int(str(feature)): rows.head(EFFECTS).to_dicts()
        for (feature,), rows in table.collect().group_by("feature", maintain_order=True)
    }


def embeddable(values: Any) -> str:
    """JSON that can stand inside a script element: `<` escaped, so that no text can end the element."""
    return json.dumps(values, ensure_ascii=False, separators=(",", ":")).replace("<", "\\u003c")


def choose_features(features: pl.DataFrame, trajectories: pl.DataFrame) -> list[int]:
    """For each birth the features strongest on the mean over snapshots, of those that are active often enough to read
    and seldom enough to mean something."""
    readable = features.filter(~pl.col("dead"), pl.col("density").is_between(*DENSITY_RANGE))
    births = max(1, readable["birth_step"].n_unique())
    count = min(MAX_CARDS_PER_BIRTH, max(1, MAX_CARDS // births))
    means = trajectories.group_by("feature").agg(pl.col("strength").mean())
    ranked = readable.join(means, on="feature").sort("strength", "feature", descending=[True, False])
    chosen = ranked.group_by("birth_step", maintain_order=True).head(count)
    return chosen.sort("birth_step", "strength", descending=[False, True])["feature"].to_list()


def _cards(run: Run, tokenizer: Any) -> list[dict[str, Any]]:
    features, trajectories = run.features, run.trajectories
    chosen = choose_features(features, trajectories)
    examples = run.examples.filter(pl.col("feature").is_in(chosen))
    logits = run.table("logit_effects").filter(pl.col("feature").is_in(chosen), pl.col("rank") < LOGIT_TOKENS)
    trusted = {} if run.study.truth is None else {row["feature"]: row for row in run.table("trust").to_dicts()}
    cards, effects = [], _leading_effects(run, chosen)
    for feature in chosen:
        row = features.row(by_predicate=pl.col("feature") == feature, named=True)
        own, of_feature = examples.filter(pl.col("feature") == feature), logits.filter(pl.col("feature") == feature)
        shown = [
            {
                "step": run.steps[index],
                "examples": _examples(
                    own.filter(pl.col("kind") == "own", pl.col("snapshot") == index), tokenizer, OWN_EXAMPLES
                ),
                "promoted": _tokens(of_feature, index, "promoted", tokenizer),
                "suppressed": _tokens(of_feature, index, "suppressed", tokenizer),
            }
            for index in _snapshots_to_show(run.steps, row["birth_step"])
        ]
        cards.append(
            {
                **row,
                "trust": trusted.get(feature),
                "effects": effects.get(feature, []),
                "top": _examples(own.filter(pl.col("kind") == "top"), tokenizer, TOP_EXAMPLES),
                "snapshots": shown,
                "spec": figures.trajectory(run, feature, trajectories),
            }
        )
    return cards


def _snapshots_to_show(steps: list[int], birth_step: int) -> list[int]:
    """The first, the one before the birth, the birth, the middle of what follows, and the last."""
    birth, last = steps.index(birth_step), len(steps) - 1
    return sorted({0, max(birth - 1, 0), birth, (birth + last) // 2, last})[:SNAPSHOTS_PER_CARD]


def _examples(rows: pl.DataFrame, tokenizer: Any, count: int) -> list[list[dict[str, Any]]]:
    """Contexts as tokens with a text, an activation and a shade from 0 to 1."""
    shown = []
    greatest = max((max(values) for values in rows["activations"]), default=0.0)
    for row in rows.sort("rank").head(count).iter_rows(named=True):
        shown.append(
            [
                {
                    "text": token_text(tokenizer, token),
                    "activation": value,
                    "shade": round(max(value, 0) / greatest, 2) if greatest > 0 else 0,
                }
                for token, value in zip(row["tokens"], row["activations"], strict=True)
            ]
        )
    return shown


def _tokens(logits: pl.DataFrame, snapshot: int, kind: str, tokenizer: Any) -> list[str]:
    rows = logits.filter(pl.col("snapshot") == snapshot, pl.col("kind") == kind).sort("rank")
    return [token_text(tokenizer, token) for token in rows["token"]]
