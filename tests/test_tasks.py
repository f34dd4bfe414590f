"""Tasks: where items are cut, what is dropped, what readers read."""

import gzip
import json
import re
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from transformers import PreTrainedTokenizerFast

import ontogeny as og
from ontogeny.corpus.pack import Corpus
from ontogeny.errors import TaskError
from ontogeny.run import Run
from ontogeny.tasks import FAMILIES, TaskConfig, open_task
from ontogeny.tasks.task import (
    ALIKE,
    EMPTY,
    LONG,
    REPEATED,
    UNALIGNED,
    UNKNOWN,
    Item,
    Pair,
    Task,
    head,
    pair_of_sentences,
    prepare,
)
from ontogeny.tasks.words import count_words


@pytest.fixture(scope="module")
def tokenizer(small_run: Run) -> PreTrainedTokenizerFast:
    return Corpus(small_run.corpus_folder / "train").tokenizer


def test_items_are_cut_at_the_first_token_that_differs(tokenizer: PreTrainedTokenizerFast) -> None:
    pair = Pair("Return the", " value of it", " values of it", corrupted="Return all the")
    (item,) = prepare("one", [pair], tokenizer, items=5).items
    good, bad = (tokenizer.encode(pair.prefix + text, add_special_tokens=False) for text in (pair.good, pair.bad))
    shared = next(i for i, (a, b) in enumerate(zip(good, bad, strict=False)) if a != b)
    assert item.prefix == (tokenizer.bos_token_id, *good[:shared])
    assert (item.good, item.bad) == (good[shared], bad[shared])
    assert item.corrupted is None  # a word more


def test_corrupted_inputs_are_as_long_as_clean_ones(tokenizer: PreTrainedTokenizerFast) -> None:
    pairs = [Pair("the a", " is", " are", corrupted="the b"), Pair("the b", " is", " are", corrupted="the b b")]
    task = prepare("two", pairs, tokenizer, items=5)
    assert task.items[0].corrupted is not None
    assert len(task.items[0].corrupted) == len(task.items[0].prefix)
    aligned = task.aligned()
    assert len(aligned) == 1
    assert aligned.dropped == {UNALIGNED: 1}


def test_what_cannot_be_used_is_counted_with_its_reason(tokenizer: PreTrainedTokenizerFast) -> None:
    words = Counter({"the": 5, "file": 5, "is": 5, "are": 5, "gnu": 1})
    pairs = [
        Pair("the gnu", " is", " are"),
        Pair("the file", " is", " is"),
        Pair("", "the", "file"),
        Pair("the file", " is", " are"),
        Pair("the file", " is", " are"),
        Pair("the file " * 40, " is", " are"),
        Pair("the", " is", " are"),
    ]
    task = prepare("some", pairs, tokenizer, items=9, context=32, words=words, least_count=2)
    assert task.dropped == {UNKNOWN: 1, ALIKE: 1, EMPTY: 1, REPEATED: 1, LONG: 1}
    assert len(task) == 2
    assert len(prepare("some", pairs, tokenizer, items=1)) == 1


def test_halves_share_no_cluster_and_are_as_even_as_clusters_allow() -> None:
    items = [Item((0, 1, n), 2, 3, None, "t", str(n % 10)) for n in range(100)]
    task = Task("t", tuple(items))
    first, second = task.halves(seed=3)
    assert sorted([*first, *second]) == list(range(100))
    assert len(first) == len(second) == 50
    assert not set(task.clusters[first]) & set(task.clusters[second])
    few = Task("few", tuple(items[n] for n in (0, 10, 20, 1)))
    assert [len(half) for half in few.halves(seed=0)] == [2, 2]


def test_sentences_part_before_the_first_word_that_differs() -> None:
    pair = pair_of_sentences("The dogs near it are old", "The dogs near it is old", template="t")
    assert (pair.prefix, pair.good, pair.bad) == ("The dogs near it", " are old", " is old")
    assert pair.lexeme == head("the dog") == "dog"


def test_generated_agreement_is_right_and_balanced(tokenizer: PreTrainedTokenizerFast) -> None:
    from ontogeny.tasks.agreement import CONSTRUCTIONS, NOUNS, agreement

    plural = {many for _, many in NOUNS}
    for construction in CONSTRUCTIONS:
        pairs = list(agreement(construction, seed=0))
        assert len(set(pairs)) == len(pairs)
        many = [pair.prefix.split()[1] in plural for pair in pairs]
        assert sum(many) * 2 == len(pairs)
        for pair, is_plural in zip(pairs, many, strict=True):
            assert (pair.good.strip() in ("are", "were", "have", "do")) == is_plural
            assert pair.corrupted is not None
            assert (pair.corrupted.split()[1] in plural) != is_plural
            assert pair.corrupted.split()[2:] == pair.prefix.split()[2:]
    nearer = [pair.prefix.split()[-1].endswith("s") for pair in agreement("distractor", seed=0)]
    heads = [pair.prefix.split()[1] in plural for pair in agreement("distractor", seed=0)]
    assert all(a != b for a, b in zip(nearer, heads, strict=True))


def test_induction_repeats_what_came_before(tokenizer: PreTrainedTokenizerFast) -> None:
    task = open_task(TaskConfig(family="induction", items=50), tokenizer=tokenizer)
    for item in task.items:
        length = int(item.template)
        first, again = item.prefix[1 : 1 + length], item.prefix[1 + length :]
        assert again == first[: len(again)]
        assert first[len(again)] == item.good
        assert item.bad in first
        assert item.bad not in again
        assert item.corrupted is not None
        assert item.corrupted[1 : 1 + length][len(again)] == item.bad
        assert sorted(item.corrupted) == sorted(item.prefix)


def test_the_answer_of_ioi_is_the_name_said_once(tokenizer: PreTrainedTokenizerFast) -> None:
    from ontogeny.tasks.ioi import ioi

    for pair in ioi(50, tokenizer, seed=1):
        assert pair.prefix.count(pair.bad.strip()) == 2
        assert pair.prefix.count(pair.good.strip()) == 1
        assert pair.corrupted is not None
        assert pair.corrupted.count(pair.good.strip()) == 2


def _written(folder: Path, name: str, text: str) -> Path:
    path = folder / name
    if path.suffix == ".gz":
        path.write_bytes(gzip.compress(text.encode()))
    else:
        path.write_text(text, encoding="utf-8")
    return path


def test_readers_of_every_format(tokenizer: PreTrainedTokenizerFast, tmp_path: Path) -> None:
    from ontogeny.tasks.files import READERS

    sva = {"clean_prefix": "The friends", "patch_prefix": "The friend", "clean_answer": " have", "patch_answer": " has"}
    clams = {"clean_prefix": "The authors", "clean_answer": " are", "patch_answer": " is", "skip": False}
    blimp = {"sentence_good": "A niece has hats.", "sentence_bad": "A niece have hats.", "UID": "agreement"}
    regions = [{"region_number": 1, "content": "The boy"}, {"region_number": 2, "content": "is"}]
    other = [regions[0], {"region_number": 2, "content": "are"}]
    away = [{"region_number": 1, "content": "The boys"}, regions[1]]
    suite = {
        "predictions": [{"formula": "[(2;%good%) < (2;%bad%)] & [(2;%away%) > (2;%good%)]"}],
        "items": [
            {
                "conditions": [
                    {"condition_name": name, "regions": of}
                    for name, of in (("good", regions), ("bad", other), ("away", away))
                ]
            }
        ],
    }
    zorro = ("lies on it is", "lie on it is", "lie on it are", "lies on it are", "boys on it was", "boy on it was")
    files = {
        "sva": ("a.jsonl.gz", json.dumps(sva)),
        "clams": ("b.jsonl", json.dumps(clams) + "\n" + json.dumps(clams | {"skip": True})),
        "blimp": ("c.jsonl", json.dumps(blimp)),
        "multiblimp": ("d.tsv", "sen\twrong_sen\tphenomenon\tlemma\nDer Mann ist alt\tDer Mann sind alt\tSV-#\tsein\n"),
        "zorro": ("e.txt", "\n".join(f"the {words} flat ." for words in zorro)),
        "syntaxgym": ("f.json", json.dumps(suite)),
    }  # fmt: skip
    expected = {
        "sva": [("The friends", " have", " has")],
        "clams": [("The authors", " are", " is")],
        "blimp": [("A niece", " has hats.", " have hats.")],
        "multiblimp": [("Der Mann", " ist alt", " sind alt")],
        "zorro": [
            ("the lie on it", " is flat.", " are flat."),
            ("the lies on it", " are flat.", " is flat."),
            ("the", " boy on it was flat.", " boys on it was flat."),  # no `the boy on it were` in the file
        ],
        "syntaxgym": [("The boy", " is", " are")],
    }
    for family, (name, text) in files.items():
        pairs = list(READERS[family](_written(tmp_path, name, text)))
        assert [(pair.prefix, pair.good, pair.bad) for pair in pairs] == expected[family]
    assert next(iter(READERS["sva"](tmp_path / "a.jsonl.gz"))).corrupted == "The friend"


def test_one_line_says_what_is_wrong_with_a_task(tokenizer: PreTrainedTokenizerFast, tmp_path: Path) -> None:
    path = _written(tmp_path, "a.jsonl", '{"sentence_good": "a"}\n')
    for config, said in (
        (TaskConfig(family="agrement_simple"), "did you mean agreement_simple"),
        (TaskConfig(family="blimp"), "give `files`"),
        (TaskConfig(family="blimp", files=str(path)), "line 1: no sentence_bad"),
        (TaskConfig(family="ioi", least_count=3), "count_words"),
    ):
        with pytest.raises(TaskError, match=said):
            open_task(config, tokenizer=tokenizer)
    empty = _written(tmp_path, "b.jsonl", '{"sentence_good": "a b", "sentence_bad": "a b"}\n')
    with pytest.raises(TaskError, match=f"no item is left.*{ALIKE}"):
        open_task(TaskConfig(family="blimp", files=str(empty)), tokenizer=tokenizer)


def test_words_of_a_corpus_are_counted_case_folded(small_run: Run) -> None:
    corpus = Corpus(small_run.corpus_folder / "held_out")
    words = count_words(corpus)
    expected: Counter[str] = Counter()
    for tokens, length in zip(corpus.tokens, corpus.lengths, strict=True):
        text = corpus.tokenizer.decode(tokens[1:length])
        expected.update(re.findall(r"[^\W\d_]+(?:['’-][^\W\d_]+)*", text.casefold()))
    assert words == expected
    assert words["the"] > 50


@pytest.mark.shared
def test_the_reference_tasks_are_read(shared: Path) -> None:
    tokenizer = og.open_suite(shared / "suites" / "english-neox").tokenizer()
    folder = shared / "data" / "tasks"
    for family, pattern in (
        ("sva", "sva/simple.jsonl.gz"),
        ("clams", "clams/fr_prep_anim.jsonl.gz"),
        ("blimp", "blimp/regular_plural_subject_verb_agreement_1.jsonl.gz"),
        ("zorro", "zorro/agreement_subject_verb-across_prepositional_phrase.txt.gz"),
        ("syntaxgym", "syntaxgym/*.json.gz"),
    ):
        task = open_task(TaskConfig(family=family, files=str(folder / pattern), items=100), tokenizer=tokenizer)
        assert len(task) == 100, task
        assert all(item.good != item.bad for item in task.items)
    # 386 rows, of which 150 differ (SOURCES.md)
    simple = open_task(
        TaskConfig(family="sva", files=str(folder / "sva/simple.jsonl.gz"), items=1000), tokenizer=tokenizer
    )
    assert len(simple) + simple.dropped[REPEATED] == 386


def test_every_family_that_needs_no_file_gives_items(tokenizer: PreTrainedTokenizerFast) -> None:
    from ontogeny.tasks.files import READERS

    for family in FAMILIES.keys() - READERS.keys():
        task = open_task(TaskConfig(family=family, items=40), tokenizer=tokenizer)
        assert len(task) == 40
        assert len(set(np.asarray(task.clusters))) > 4
