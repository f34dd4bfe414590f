"""The report: what it embeds, and what a real browser draws of it."""

import json
import re
import shutil
import subprocess
from pathlib import Path
from xml.etree import ElementTree

import polars as pl
import pytest

from conftest import Command
from ontogeny import tables
from ontogeny.errors import RunError
from ontogeny.report.figures import axes
from ontogeny.report.page import choose_features, embeddable, formatted, write_report
from ontogeny.report.sentences import summary
from ontogeny.report.sentences.models import _passing
from ontogeny.run import Run, open_run

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")

FIGURES = (
    "loss", "divergences", "quality", "splices", "births", "thresholds", "kin", "strengths", "drift", "cosines"
)  # fmt: skip


def specs_of(page: str) -> dict[str, dict[str, object]]:
    found = re.search(r'<script id="specs" type="application/json">(.*?)</script>', page, re.DOTALL)
    assert found is not None
    return json.loads(found[1])


def test_text_from_the_data_cannot_end_a_script_or_become_markup() -> None:
    assert "</script" not in embeddable({"text": "</script><b>"})
    assert json.loads(embeddable({"text": "</script><b>"})) == {"text": "</script><b>"}


def test_the_report_is_one_file_that_asks_no_other_host(small_run: Run) -> None:
    page = small_run.report_path.read_text(encoding="utf-8")
    markup = re.sub(r"<script.*?</script>", "", page, flags=re.DOTALL)
    assert "<figure" in markup
    assert not re.findall(r'<(?:link|img|iframe)|(?:src|href)="(?!#)', markup)
    assert not re.findall(r"<script[^>]*src", page)
    assert page.count("window.vegaEmbed=") == 1
    assert len(page) < 3_000_000


def test_figures_are_written_for_papers(small_run: Run, command: Command, tmp_path: Path) -> None:
    specs = specs_of(small_run.report_path.read_text(encoding="utf-8"))
    names = sorted(name for name in specs if not name.startswith("feature-"))
    assert command("report", small_run.folder, "--figures", tmp_path)[0] == 0
    assert sorted(path.stem for path in tmp_path.iterdir()) == names
    for path in tmp_path.iterdir():
        words = " ".join(ElementTree.parse(path).getroot().itertext())
        assert "step" in words
        assert len(words) > 40


def test_every_figure_has_a_title_and_titled_axes(small_run: Run) -> None:
    specs = specs_of(small_run.report_path.read_text(encoding="utf-8"))
    assert specs.keys() >= set(FIGURES)

    def axes(spec: dict[str, object]) -> list[dict[str, object]]:
        layers = spec.get("layer", [spec])
        assert isinstance(layers, list)
        return [layer["encoding"][a] for layer in layers for a in ("x", "y") if "field" in layer["encoding"].get(a, {})]

    for name, spec in specs.items():
        assert spec["title"], name
        assert any(axis.get("title") for axis in axes(spec)), name


def test_features_on_cards_are_readable_ones_of_each_birth(small_run: Run) -> None:
    features = small_run.features
    chosen = features.filter(pl.col("feature").is_in(choose_features(features, small_run.trajectories)))
    assert not chosen["dead"].any()
    assert len(chosen) <= max(24, chosen["birth_step"].n_unique())
    assert chosen.group_by("birth_step").len()["len"].max() <= 4
    wanted = features.filter(~pl.col("dead"), pl.col("density").is_between(2e-4, 0.05))["birth_step"].unique()
    assert set(chosen["birth_step"]) == set(wanted)


def test_the_summary_says_what_the_tables_hold(small_run: Run) -> None:
    sentences = summary(small_run)
    tables_named = {table for sentence in sentences for table in sentence.tables}
    born = small_run.analysis("births").filter(pl.col("birth_step").is_null(), pl.col("origin") == "emergent")
    of_emergent = {name for name, rows in (("births", born), ("lineage", small_run.analysis("lineage"))) if len(rows)}
    assert tables_named == {"phases", "quality", "features", "single_saes", "turning_point"} | of_emergent
    text = " ".join(sentence.text for sentence in sentences)
    phases, living = small_run.analysis("phases"), small_run.features.filter(~pl.col("dead"))
    emergent = living.filter(pl.col("origin") == "emergent")
    quality, saes = small_run.table("quality").sort("step"), small_run.analysis("single_saes")
    last, sae = quality.row(-1, named=True), saes.row(-1, named=True)
    at = small_run.analysis("births").filter(pl.col("birth_step").is_null(), pl.col("origin") == "emergent")
    for said in (
        f"from {phases['loss'][0]:.2f} to {phases['loss'][-1]:.2f} nat",
        f"{len(small_run.features)} features, {last['l0']:.1f} active",
        f"{quality['explained_variance'].min():.1%} to {quality['explained_variance'].max():.1%}",
        f"loses {last['delta_ce']:.3f} nat",
        f"keeps {last['loss_recovered']:.1%}",
        f"{len(small_run.features) - len(living)} of the features are dead",
        f"{sae['sae_explained_variance'] - sae['explained_variance']:+.3f} at step 60",
        f"Of {len(living)} living features {len(living) - len(emergent)} are there at step 0",
        f"{len(emergent)} emerge{'s' if len(emergent) == 1 else ''} later",
        f"{(living['birth_step'] != living['birth_step_rescaled']).sum()} of the {len(living)} would be born elsewhere",
        *(
            f"{at.filter(pl.col('alive_threshold') == threshold)['features'].sum()} at {threshold}"
            for threshold in at["alive_threshold"].unique()
        ),
        "too few snapshots to test for a turning point",
    ):
        assert said in text, said


def test_a_bound_counts_as_passed_from_where_the_loss_stays_below_it_beyond_doubt() -> None:
    for gaps, said in (
        ([(1, 2), (-0.1, 0.1), (1, 2), (-0.1, 0.1), (-2, -1)], "between steps 2 and 4"),
        ([(1, 2), (-2, -1), (-0.1, 0.1), (-2, -1), (-2, -1)], "between steps 0 and 3"),
        ([(1, 2), (1, 2), (1, 2), (1, 2), (-1, 1)], "does not pass"),
        ([(-2, -1)] * 5, "is never above"),
    ):
        table = {"step": range(5), "unigram": [5.0] * 5}
        table |= {"above_unigram_ci_low": [float(low) for low, _ in gaps]}
        table |= {"above_unigram_ci_high": [float(high) for _, high in gaps]}
        assert said in _passing(pl.DataFrame(table), "unigram")


def test_steps_to_label_are_spread_over_the_log_axis() -> None:
    assert axes.spread_out([0, 1, 2], 5) == [0, 1, 2]
    chosen = axes.spread_out([0, 1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1000], 4)
    assert chosen[0] == 0
    assert chosen[-1] == 1000
    assert len(chosen) == 4


def test_what_a_run_lacks_is_said(small_run: Run, tmp_path: Path) -> None:
    with pytest.raises(RunError, match=r"no table 'feature' \(did you mean features\?\)"):
        small_run.table("feature")
    with pytest.raises(RunError, match="is not a run"):
        open_run(tmp_path)
    with pytest.raises(RunError, match="has no table 'phases' yet"):
        Run(tmp_path).table("phases")


def test_what_a_table_does_not_know_is_a_dash_in_the_report(small_run: Run, tmp_path: Path) -> None:
    assert [formatted("%.2f", value) for value in (1.0, None, float("nan"))] == ["1.00", "–", "–"]
    shutil.copytree(small_run.folder, tmp_path / "run")
    run = Run(tmp_path / "run")
    # eight intervals, as the demo has: too few to hold a break against quartic drift
    row = {"variant": "all", "intervals": 8, "features": 9, "step": 25, "step_after": 10, "step_before": 60,
           "step_ci_low": 10, "step_ci_high": 60, "p_value": 0.327, "p_value_quadratic": 0.082, "explained": 0.99,
           "autocorrelation": 0.5}  # fmt: skip
    run.write_table("turning_point", tables.from_rows("turning_point", [row]))
    page = write_report(run).read_text(encoding="utf-8")
    assert "<td>0.327</td><td>0.082 / –</td><td>0.99</td><td>0.50</td>" in page


@pytest.mark.slow
@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on this machine")
def test_a_browser_draws_every_figure_near_the_screen(small_run: Run, tmp_path: Path) -> None:
    assert CHROMIUM is not None
    command = [CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
               "--disable-background-networking", "--disable-component-update", "--disable-sync",
               f"--user-data-dir={tmp_path}", "--window-size=1200,9000", "--virtual-time-budget=20000", "--dump-dom",
               small_run.report_path.as_uri()]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    drawn = re.findall(r'<figure class="chart[^"]*" data-spec="([^"]+)"[^>]*>.*?</figure>', done.stdout, re.DOTALL)
    for name in FIGURES:
        figure = re.search(rf'data-spec="{name}".*?</figure>', done.stdout, re.DOTALL)
        assert figure is not None, name
        assert "<svg" in figure[0], f"{name} is not drawn: {figure[0][:300]}"
    assert len(drawn) >= len(FIGURES)
