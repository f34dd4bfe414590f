"""Pairs from the files of published suites: one reader a format."""

import csv
import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from ontogeny.corpus.readers import lines_of
from ontogeny.errors import TaskError
from ontogeny.tasks.task import Pair, head, pair_of_sentences


def sva(path: Path) -> Iterator[Pair]:
    """Subject-verb agreement: clean_prefix, patch_prefix, clean_answer, patch_answer, case.

    Source of the format: Marks et al. 2024, arXiv 2403.19647.
    """
    for row in _rows(path, "clean_prefix", "patch_prefix", "clean_answer", "patch_answer"):
        yield Pair(
            prefix=row["clean_prefix"],
            good=row["clean_answer"],
            bad=row["patch_answer"],
            corrupted=row["patch_prefix"],
            template=str(row.get("case", "")),
            lexeme=head(row["clean_prefix"]),
        )


def clams(path: Path) -> Iterator[Pair]:
    """CLAMS in English and French: clean_prefix, clean_answer, patch_answer, where a word tells good from bad.

    Source: Mueller et al. 2020, arXiv 2005.00187, as laid out by Crosscoding Through Time, arXiv 2509.05291.
    """
    for row in _rows(path, "clean_prefix", "clean_answer", "patch_answer"):
        if not row.get("skip"):
            prefix = row["clean_prefix"]
            yield Pair(prefix, row["clean_answer"], row["patch_answer"], template=path.name, lexeme=head(prefix))


def blimp(path: Path) -> Iterator[Pair]:
    """BLiMP: sentence_good, sentence_bad, UID. Source: Warstadt et al. 2020, arXiv 1912.00582."""
    for row in _rows(path, "sentence_good", "sentence_bad"):
        yield pair_of_sentences(row["sentence_good"], row["sentence_bad"], template=str(row.get("UID", path.name)))


def multiblimp(path: Path) -> Iterator[Pair]:
    """MultiBLiMP: a TSV with columns sen, wrong_sen, and phenomenon, lemma where it has them.

    Source: Jumelet et al. 2025, arXiv 2504.02768.
    """
    for number, row in enumerate(csv.DictReader(lines_of(path), delimiter="\t", quoting=csv.QUOTE_NONE), start=2):
        if not row.get("sen") or not row.get("wrong_sen"):
            found = ", ".join(str(name) for name in row)
            raise TaskError(f"{path} line {number}: expected the columns sen and wrong_sen, found {found}")
        yield pair_of_sentences(
            row["sen"], row["wrong_sen"], template=row.get("phenomenon") or path.name, lexeme=row.get("lemma")
        )


VERBS = (("is", "are"), ("was", "were"), ("has", "have"), ("does", "do"))
OTHER_NUMBER = {one: other for pair in VERBS for one, other in (pair, pair[::-1])}


def zorro(path: Path) -> Iterator[Pair]:
    """Zorro: two lines a pair, the bad one first; spaces before punctuation are taken out.

    Agreement paradigms vary the noun before the verb (`the lies on the foot is`, `the lie on the foot is`) and have the
    other verb in another pair. Where a good sentence is also there as a bad one with its last verb in the other number,
    the two are the pair.
    Source: Huebner et al. 2021.
    """
    read = lines_of(path)
    if read and read[0].lstrip().startswith("{"):
        raise TaskError(f"{path} line 1: a JSON object, not a sentence: is this file of another family?")
    lines = [tuple(re.sub(r" ([.,?!])", r"\1", line).split(" ")) for line in read]
    if len(lines) % 2:
        raise TaskError(f"{path}: an odd number of lines: expected two a pair, the bad one first")
    bad_ones = set(lines[::2])
    for own, good in zip(lines[::2], lines[1::2], strict=True):
        places = [place for place in reversed(range(1, len(good))) if good[place] in OTHER_NUMBER]
        turned = [(*good[:place], OTHER_NUMBER[good[place]], *good[place + 1 :]) for place in places]
        bad = next((one for one in turned if one in bad_ones), own)
        yield pair_of_sentences(" ".join(good), " ".join(bad), template=path.name)


COMPARED = re.compile(r"\(\s*(\d+)\s*;\s*%([\w-]+)%\s*\)\s*([<>])\s*\(\s*\1\s*;\s*%([\w-]+)%\s*\)")


def syntaxgym(path: Path) -> Iterator[Pair]:
    """Minimal pairs of a SyntaxGym suite: predictions that compare one region's surprisal in two conditions whose
    earlier regions are the same. Others, which compare prefixes or sums, are no minimal pairs and give none.

    Source: Hu et al. 2020, arXiv 2005.03692.
    """
    try:
        suite = json.loads("\n".join(lines_of(path)))
        formulas = [one["formula"] for one in suite["predictions"]]
        items = [
            {
                one["condition_name"]: {int(region["region_number"]): region["content"] for region in one["regions"]}
                for one in item["conditions"]
            }
            for item in suite["items"]
        ]
    except (ValueError, KeyError, TypeError) as error:
        raise TaskError(f"{path}: not a SyntaxGym suite: {type(error).__name__} {error}") from None
    compared = [found for formula in formulas for found in COMPARED.findall(formula)]
    for number, texts in enumerate(items):
        for region, left, sign, right in compared:
            low, high = (left, right) if sign == "<" else (right, left)
            lacking = [name for name in (low, high) if int(region) not in texts.get(name, {})]
            if lacking:
                raise TaskError(f"{path}: item {number + 1} has no region {region} in condition {lacking[0]}")
            before = [
                " ".join(text.strip() for place, text in sorted(texts[name].items()) if place < int(region) and text)
                for name in (low, high)
            ]
            if before[0] == before[1]:
                good, bad = (f" {texts[name][int(region)].strip()}" for name in (low, high))
                yield Pair(before[0], good, bad, template=f"{path.name} {low}", lexeme=str(number))


READERS: dict[str, Callable[[Path], Iterator[Pair]]] = {
    "sva": sva,
    "clams": clams,
    "blimp": blimp,
    "multiblimp": multiblimp,
    "zorro": zorro,
    "syntaxgym": syntaxgym,
}


def _rows(path: Path, *needed: str) -> Iterator[dict[str, Any]]:
    for number, line in enumerate(lines_of(path), start=1):
        try:
            row = json.loads(line)
        except ValueError:
            raise TaskError(f"{path} line {number}: not a JSON object") from None
        lacking = [name for name in needed if not isinstance(row, dict) or not isinstance(row.get(name), str)]
        if lacking:
            raise TaskError(f"{path} line {number}: no {' and no '.join(lacking)}: is this file of another family?")
        yield row
