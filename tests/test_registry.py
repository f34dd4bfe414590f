"""Names of published snapshots, and selections of steps."""

from pathlib import Path

import numpy as np
import pytest

from ontogeny.config.schedules import SCHEDULES, check_selection
from ontogeny.errors import ConfigError, SuiteError
from ontogeny.suites.registry import SUITES, Revision, find_suite, parse_all
from ontogeny.suites.selection import select

LISTS = {
    "checkpoints_EleutherAI_pythia-1b.txt": ("EleutherAI/pythia-1b", 154),
    "checkpoints_EleutherAI_pythia-6.9b.txt": ("EleutherAI/pythia-6.9b", 154),
    "checkpoints_allenai_OLMo-1B-0724-hf.txt": ("allenai/OLMo-1B-0724-hf", None),
    "checkpoints_allenai_OLMo-1B-hf.txt": ("allenai/OLMo-1B-hf", None),
    "checkpoints_allenai_OLMo-7B-0724-hf.txt": ("allenai/OLMo-7B-0724-hf", None),
    "checkpoints_allenai_OLMo-2-1124-7B.txt": ("allenai/OLMo-2-1124-7B", None),
    "checkpoints_olmo2_1B_april.txt": ("allenai/OLMo-2-0425-1B", None),
    "checkpoints_bloom_1b1.txt": ("bigscience/bloom-1b1-intermediate", 8),
}


@pytest.mark.parametrize("name", LISTS)
def test_every_published_revision_is_understood(shared: Path, name: str) -> None:
    repo, count = LISTS[name]
    found, suite = find_suite(repo)
    assert found == repo
    lines = (shared / "data" / "facts" / "checkpoint_lists" / name).read_text().split()
    parsed = parse_all(lines, suite)
    assert set(lines) - parsed.keys() <= {"main"}
    assert count in (None, len(parsed))
    for revision, one in parsed.items():
        assert f"step{one.step}" in revision
        if "tokens" in revision:
            assert one.tokens == int(revision.split("tokens")[1].rstrip("B")) * 10**9
        assert one.stage == (revision.split("-step")[0] if revision.startswith("stage") else None)
    if "pythia" in repo:
        assert [one.step for one in parsed.values()] == SCHEDULES["pythia"]
        assert parsed["step1000"].tokens == 2_097_152_000


NAMES = [
    ("EleutherAI/pythia-160m-deduped", "step512", Revision(None, 512, 512 * 2_097_152)),
    ("EleutherAI/pythia-70m-seed3", "step143000", Revision(None, 143_000, 143_000 * 2_097_152)),
    ("allenai/OLMo-1B-0724-hf", "step1000-tokens2B", Revision(None, 1000, 2 * 10**9)),
    ("allenai/OLMo-2-1124-7B", "stage1-step928646-tokens3896B", Revision("stage1", 928_646, 3_896 * 10**9)),
    ("allenai/OLMo-2-1124-7B", "stage2-ingredient1-step11931-tokens100B",
     Revision("stage2-ingredient1", 11_931, 10**11)),
    ("allenai/OLMo-2-1124-13B", "step5000-tokens42B", Revision(None, 5000, 42 * 10**9)),
    ("allenai/Olmo-3-1025-7B", "stage1-step1413814", Revision("stage1", 1_413_814, None)),
    ("stanford-crfm/alias-gpt2-small-x21", "checkpoint-400000", Revision(None, 400_000, None)),
    ("bigscience/bloom-560m-intermediate", "global_step1000", Revision(None, 1000, None)),
    ("LLM360/Amber", "ckpt_042", Revision(None, 42, None)),
    ("LLM360/CrystalCoder", "CrystalCoder_phase1_checkpoint_055500", Revision("phase1", 55_500, None)),
    ("HuggingFaceTB/SmolLM2-135M-intermediate-checkpoints", "step-240000", Revision(None, 240_000, None)),
    ("HuggingFaceTB/SmolLM3-3B-checkpoints", "stage1-step-3440000", Revision("stage1", 3_440_000, None)),
    ("swiss-ai/Apertus-8B-2509", "step1750000-tokens7652B", Revision(None, 1_750_000, 7_652 * 10**9)),
    ("google/multiberts-seed_2-step_20k", "google/multiberts-seed_2-step_20k", Revision(None, 20_000, None)),
    ("HuggingFaceFW/ablation-model-fineweb-edu", "step-001000-2BT", Revision(None, 1000, 2 * 10**9)),
    ("BabyLM-community/babylm-baseline-10m-gpt2", "chck_1M", Revision(None, 1_000_000, None)),
    ("someone/their-own", "checkpoint-77", Revision(None, 77, None)),
]  # fmt: skip


@pytest.mark.parametrize(("repo", "revision", "expected"), NAMES)
def test_each_suites_grammar(repo: str, revision: str, expected: Revision) -> None:
    _, suite = find_suite(repo)
    assert suite.parse(revision) == expected
    for wrong in ("main", "final", revision + "x", "x" + revision, "step", "step-", "stepNaN"):
        assert suite.parse(wrong) is None, wrong


def test_every_suite_of_the_registry_has_a_grammar_that_was_tried() -> None:
    tried = {
        mark.args[1][place][0] for mark in test_each_suites_grammar.pytestmark for place in range(len(mark.args[1]))
    }
    suites = {find_suite(repo)[1].name for repo in tried}
    assert suites >= SUITES.keys()


def test_suites_are_found_by_the_last_part_of_their_name() -> None:
    assert find_suite("pythia-160m")[0] == "EleutherAI/pythia-160m"
    assert find_suite("olmo-2-0425-1b")[0] == "allenai/OLMo-2-0425-1B"
    with pytest.raises(SuiteError, match=r"no suite 'pythia-161m' \(did you mean pythia-16"):
        find_suite("pythia-161m")


def test_selections_take_what_there_is() -> None:
    steps = SCHEDULES["pythia"]
    assert select(steps, "all", of="x") == steps
    assert select(steps, "every=50", of="x") == [0, 40_000, 90_000, 140_000, 143_000]
    assert select(steps, "log", of="x")[:12] == [0, 1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1000]
    chosen = select(steps, "n=32", of="x")
    assert (len(chosen), chosen[0], chosen[-1]) == (32, 0, 143_000)
    assert set(chosen) <= set(steps)
    gaps = np.diff(np.log2(1 + np.asarray(chosen, dtype=float)))
    assert gaps.max() <= 1.6
    assert select(steps, "n=500", of="x") == steps
    assert len(select([0, 1, 2, 3, 900, 1000], "n=4", of="x")) == 4
    assert select(steps, "evolution-pythia", of="x") == SCHEDULES["evolution-pythia"]
    assert select([0, 512], "pythia", missing="skip", of="x") == [0, 512]
    with pytest.raises(
        SuiteError, match=r"no snapshot at step 1500: nearest are 1000 and 2000 \(ontogeny suites show x\)"
    ):
        select(steps, [0, 1500], of="x")
    with pytest.raises(SuiteError, match="none of the steps asked for"):
        select([3, 4], [1], missing="skip", of="x")
    for wrong in ("every=0", "n=", "half", "pithia"):
        with pytest.raises(ConfigError, match=f"no schedule '{wrong}'"):
            check_selection(wrong)


def test_the_first_stage_is_that_of_the_lowest_number() -> None:
    from ontogeny.suites.suite import _of_stage

    _, suite = find_suite("HuggingFaceTB/SmolLM3-3B-checkpoints")
    names = ["stage2-step-10", "stage10-step-20", "stage1-step-40000", "it-SFT-step-100", "lc-4k-to-32k-step-4000"]
    parsed = parse_all(names, suite)
    assert parsed.keys() == set(names)
    assert list(_of_stage(parsed, None, "x")) == ["stage1-step-40000"]
    assert list(_of_stage(parsed, "it-SFT", "x")) == ["it-SFT-step-100"]
    with pytest.raises(SuiteError, match="no stage 'stage3': there are stage1, stage2, stage10, it-SFT"):
        _of_stage(parsed, "stage3", "x")
