"""Reading and packing text."""

import gzip
import json
import lzma
import os
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import torch
from safetensors.torch import save_file

from ontogeny import progress
from ontogeny.config.corpus import CorpusConfig, TokenizerConfig
from ontogeny.corpus.pack import Corpus, _reading, _split, corpus_key, open_corpus, pack_documents, pack_study_corpus
from ontogeny.corpus.pydocs import pydocs
from ontogeny.corpus.readers import Document, Documents
from ontogeny.corpus.tokenizer import load_tokenizer, tokenizer_hash, train_tokenizer
from ontogeny.errors import CorpusError
from ontogeny.files import atomic_path, file_hash

WORDS = "the cat sat on the mat while a dog ran after the other cat and the bird flew away".split()  # noqa: SIM905


def document(number: int, words: int, source: str = "s") -> Document:
    rng = np.random.default_rng(number)
    return Document(f"d{number}", source, " ".join(rng.choice(WORDS, words)))


@pytest.fixture(scope="module")
def tokenizer():
    return train_tokenizer((document(i, 200).text for i in range(20)), vocab_size=300)


def packed(tmp_path: Path, tokenizer, documents: list[Document], **settings: object) -> Corpus:
    config = CorpusConfig(files="unused", **({"sequence_length": 16, "min_tokens": 4} | settings))
    pack_documents(documents, tmp_path / "train", tokenizer=tokenizer, config=config)
    tokenizer.save_pretrained(tmp_path / "tokenizer")
    return Corpus(tmp_path / "train")


def text_of(corpus: Corpus, sequence: int) -> str:
    return corpus.tokenizer.decode(corpus.tokens[sequence, 1 : corpus.lengths[sequence]])


def test_contexts_start_with_the_start_token_and_never_cross_documents(tmp_path: Path, tokenizer) -> None:
    documents = [document(i, words) for i, words in enumerate((50, 7, 120))]
    corpus = packed(tmp_path, tokenizer, documents, min_tokens=1)
    assert set(corpus.tokens[:, 0].tolist()) == {0}
    for index, original in enumerate(documents):
        pieces = [text_of(corpus, s) for s in np.flatnonzero(corpus.documents == index)]
        assert "".join(pieces) == original.text
    assert corpus.n_tokens == sum(corpus.lengths)
    assert all((corpus.tokens[s, corpus.lengths[s] :] == 0).all() for s in range(len(corpus)))


def test_contexts_that_are_too_short_are_dropped_and_counted(tmp_path: Path, tokenizer) -> None:
    documents = [document(0, 40), Document("short", "s", "cat")]
    corpus = packed(tmp_path, tokenizer, documents, min_tokens=4)
    assert 1 not in corpus.documents
    assert corpus.manifest["dropped_tokens"] >= 2
    assert (corpus.lengths >= 4).all()


def test_documents_of_one_source_share_a_context_only_when_asked(tmp_path: Path, tokenizer) -> None:
    documents = [document(i, 5, source="a" if i < 4 else "b") for i in range(8)]
    apart = packed(tmp_path / "apart", tokenizer, documents, min_tokens=1)
    together = packed(tmp_path / "together", tokenizer, documents, min_tokens=1, share_context="source")
    assert len(together) < len(apart) == 8
    for split in ("a", "b"):
        wanted = "<|endoftext|>".join(d.text for d in documents if d.source == split)
        of_source = np.flatnonzero((together.documents < 4) == (split == "a"))
        assert "".join(text_of(together, s) for s in of_source) == wanted + "<|endoftext|>"


@pytest.mark.parametrize("suffix", ["", ".gz", ".xz"])
def test_text_and_jsonl_are_read_plain_and_compressed(tmp_path: Path, suffix: str) -> None:
    opener = {"": open, ".gz": gzip.open, ".xz": lzma.open}[suffix]
    with opener(tmp_path / f"a.txt{suffix}", "wt", encoding="utf-8") as file:
        file.write("naïve text\n\nof two paragraphs")
    with opener(tmp_path / f"b.jsonl{suffix}", "wt", encoding="utf-8") as file:
        file.write('{"id": "x", "source": "books", "text": "one"}\n\n{"text": "two"}\n')
    documents = list(Documents([str(tmp_path / f"*{suffix}" if suffix else tmp_path / "*.txt"),
                                     *([] if suffix else [str(tmp_path / "*.jsonl")])]))  # fmt: skip
    assert documents == [
        Document("a", "a", "naïve text\n\nof two paragraphs"),
        Document("x", "books", "one"),
        Document("b:3", "b", "two"),
    ]


def test_bad_files_are_named_in_one_line(tmp_path: Path) -> None:
    with pytest.raises(CorpusError, match=r"no file matches '.*nothing\*\.txt'"):
        list(Documents([str(tmp_path / "nothing*.txt")]))
    (tmp_path / "a.jsonl").write_text('{"text": "fine"}\n{"txt": 1}\n')
    with pytest.raises(CorpusError, match=r"a\.jsonl line 2: expected a JSON object with a `text`"):
        list(Documents([str(tmp_path / "a.jsonl")]))
    (tmp_path / "b.txt.gz").write_bytes(b"not gzip")
    with pytest.raises(CorpusError, match=r"b\.txt\.gz: cannot be read"):
        list(Documents([str(tmp_path / "b.txt.gz")]))
    (tmp_path / "c.pdf").write_bytes(b"%PDF")
    with pytest.raises(CorpusError, match=r"cannot read '\.pdf'; readable are"):
        list(Documents([str(tmp_path / "c.pdf")]))


def test_held_out_documents_are_split_off_by_the_hash_of_their_id(tmp_path: Path) -> None:
    lines = [json.dumps({"id": d.id, "text": d.text}) for d in (document(i, 60) for i in range(200))]
    (tmp_path / "text.jsonl").write_text("\n".join(lines))
    config = CorpusConfig(
        files=str(tmp_path / "text.jsonl"),
        sequence_length=32,
        held_out_share=0.1,
        tokenizer=TokenizerConfig(vocab_size=300),
    )
    train, held_out = pack_study_corpus(config, tmp_path / "corpus", tokenizer=None)
    assert 8 <= held_out.manifest["documents"] <= 35
    assert train.manifest["documents"] + held_out.manifest["documents"] == 200
    # the split of a document does not depend on the others
    (tmp_path / "text.jsonl").write_text("\n".join(lines[:100]))
    with pytest.raises(CorpusError, match="asks to train a tokenizer, but the suite has its own"):
        pack_study_corpus(config, tmp_path / "again", tokenizer=train.tokenizer)
    config = config.model_copy(update={"tokenizer": None})
    again, _ = pack_study_corpus(config, tmp_path / "again", tokenizer=train.tokenizer)
    ids = [set(__import__("polars").read_parquet(c.folder / "documents.parquet")["id"]) for c in (train, again)]
    assert ids[1] == ids[0] & {f"d{i}" for i in range(100)}


def test_packing_is_the_same_every_time(tmp_path: Path, text_file: Path) -> None:
    config = CorpusConfig(files=str(text_file), sequence_length=64, tokenizer=TokenizerConfig(vocab_size=400))
    hashes = []
    for name in ("one", "two"):
        train, _ = pack_study_corpus(config, tmp_path / name, tokenizer=None)
        hashes.append((file_hash(train.folder / "tokens.bin"), tokenizer_hash(train.tokenizer), train.fingerprint))
    assert hashes[0] == hashes[1]


def test_an_empty_corpus_is_an_error_and_leaves_nothing(tmp_path: Path, tokenizer) -> None:
    (tmp_path / "empty.txt").write_text("\n \n")
    with pytest.raises(CorpusError, match="the corpus is empty"):
        pack_study_corpus(CorpusConfig(files=str(tmp_path / "empty.txt")), tmp_path / "corpus", tokenizer=tokenizer)
    assert not (tmp_path / "corpus" / "train").exists()


def test_one_document_cannot_be_split(tmp_path: Path, tokenizer) -> None:
    (tmp_path / "one.txt").write_text(document(0, 100).text)
    with pytest.raises(CorpusError, match="one document, so none can be held out"):
        pack_study_corpus(CorpusConfig(files=str(tmp_path / "one.txt")), tmp_path / "corpus", tokenizer=tokenizer)


def test_a_tokenizer_that_is_not_the_suites_is_an_error(tmp_path: Path, tokenizer) -> None:
    other = train_tokenizer([document(0, 100).text], vocab_size=270)
    other.save_pretrained(tmp_path / "other")
    (tmp_path / "a.jsonl").write_text(json.dumps({"text": document(1, 100).text}))
    config = CorpusConfig(files=str(tmp_path / "a.jsonl"), tokenizer=tmp_path / "other")
    with pytest.raises(CorpusError, match=r"270 tokens\) is not the suite's \(300 tokens\)"):
        pack_study_corpus(config, tmp_path / "corpus", tokenizer=tokenizer)


def test_a_trained_tokenizer_comes_back_from_disk_the_same(tmp_path: Path, tokenizer) -> None:
    tokenizer.save_pretrained(tmp_path)
    loaded = load_tokenizer(tmp_path)
    assert tokenizer_hash(loaded) == tokenizer_hash(tokenizer)
    text = "the cat\n\nünïcode ☃"
    assert loaded.decode(loaded.encode(text)) == text


def test_a_tokenizer_saved_with_truncation_cuts_nothing_and_special_tokens_in_text_stay_text(
    tmp_path: Path, tokenizer
) -> None:
    tokenizer.save_pretrained(tmp_path / "cut")
    cut = load_tokenizer(tmp_path / "cut")
    cut.backend_tokenizer.enable_truncation(20)
    text = document(0, 300).text + " <|endoftext|> " + document(1, 50).text
    corpus = packed(tmp_path, cut, [Document("a", "s", text)], min_tokens=1)
    assert "".join(text_of(corpus, s) for s in range(len(corpus))) == text
    assert not (corpus.tokens[:, 1:] == 0)[np.arange(1, 16) < corpus.lengths[:, None]].any()


def test_open_corpus_packs_into_the_cache_once(
    tmp_path: Path,
    tokenizer,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("ONTOGENY_CACHE", str(tmp_path / "cache"))
    (tmp_path / "a.txt").write_text(document(0, 300).text)
    first = open_corpus(tmp_path / "a.txt", tokenizer=tokenizer, sequence_length=32)
    written = (first.folder / "tokens.bin").stat().st_mtime_ns
    again = open_corpus(str(tmp_path / "a.txt"), tokenizer=tokenizer, sequence_length=32)
    assert again.folder == first.folder
    assert (again.folder / "tokens.bin").stat().st_mtime_ns == written
    assert open_corpus(first.folder).fingerprint == first.fingerprint
    with pytest.raises(CorpusError, match="needs a tokenizer"):
        open_corpus(tmp_path / "a.txt")


def test_a_corpus_cut_short_is_an_error(tmp_path: Path, tokenizer) -> None:
    corpus = packed(tmp_path, tokenizer, [document(0, 100)])
    file = corpus.folder / "tokens.bin"
    file.write_bytes(file.read_bytes()[:-2])
    with pytest.raises(CorpusError, match="cut short"):
        Corpus(corpus.folder)


def test_pydocs_are_prose_with_each_paragraph_once_and_capped() -> None:
    documents = list(pydocs(packages=["stdlib"], max_bytes_per_package=200_000))
    assert 180_000 < sum(len(text.encode()) for _, _, text in documents) < 320_000
    paragraphs = [paragraph for _, _, text in documents for paragraph in text.split("\n\n")]
    assert len(paragraphs) == len({" ".join(p.lower().split()) for p in paragraphs})
    assert not any(">>>" in paragraph for paragraph in paragraphs)
    assert len({name for name, _, _ in documents}) == len(documents)


def test_reading_says_how_much_is_left(
    text_file: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(progress, "QUIET_SECONDS", 0.0)
    monkeypatch.setattr(progress, "LINE_EVERY_SECONDS", 0.0)
    documents = Documents([str(text_file)])
    with _reading("pack", documents) as reading:
        assert len(list(reading)) > 10
    lines = capsys.readouterr().err.splitlines()
    assert "left" in lines[0]
    assert documents.bytes_read == documents.bytes_total == text_file.stat().st_size
    assert "100%" in lines[-1]


def test_a_corpus_that_moved_or_was_copied_keeps_its_key_and_one_that_changed_does_not(tmp_path: Path) -> None:
    for folder, text in (("a", "one text"), ("b", "one text"), ("c", "one test")):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "text.txt").write_text(text)
    keys = [corpus_key(CorpusConfig(files=str(tmp_path / f / "*.txt")), tokenizer=None) for f in "abc"]
    assert keys[0] == keys[1] != keys[2]


def test_zstandard_and_parquet_are_read_like_json_lines(tmp_path: Path) -> None:
    import zstandard

    rows = [{"id": f"d{n}", "source": "s", "text": f"text {n} é"} for n in range(25_000)]
    lines = "".join(json.dumps(row) + "\n" for row in rows).encode()
    (tmp_path / "a.jsonl").write_bytes(lines)
    half = len(lines) // 2
    frames = [zstandard.ZstdCompressor().compress(part) for part in (lines[:half], lines[half:])]
    (tmp_path / "a.jsonl.zst").write_bytes(b"".join(frames))
    pl.DataFrame(rows).write_parquet(tmp_path / "a.parquet")
    plain = list(Documents([str(tmp_path / "a.jsonl")]))
    assert len(plain) == 25_000
    for name in ("a.jsonl.zst", "a.parquet"):
        documents = Documents([str(tmp_path / name)])
        assert list(documents) == plain
        assert documents.bytes_read == documents.bytes_total
    pl.DataFrame({"words": ["a"]}).write_parquet(tmp_path / "b.parquet")
    with pytest.raises(CorpusError, match="expected a column `text` of strings, found words"):
        list(Documents([str(tmp_path / "b.parquet")]))
    (tmp_path / "c.jsonl.zst").write_bytes(frames[0][:-20])
    (tmp_path / "d.parquet").write_bytes(b"no")
    (tmp_path / "e.jsonl.zst").write_bytes(b"no zstandard")
    for name, message in (("d.parquet", "cannot be read as Parquet"), ("e.jsonl.zst", "cannot be read as UTF-8")):
        with pytest.raises(CorpusError, match=message):
            list(Documents([str(tmp_path / name)]))
    with pytest.raises(CorpusError):
        list(Documents([str(tmp_path / "c.jsonl.zst")]))


def test_what_is_wrong_with_text_is_named(tmp_path: Path) -> None:
    (tmp_path / "bom.jsonl").write_text('{"text": "marked at the start"}\n', encoding="utf-8-sig")
    assert [document.text for document in Documents([str(tmp_path / "bom.jsonl")])] == ["marked at the start"]
    (tmp_path / "half.jsonl").write_text('{"text": "fine"}\n{"text": "half \\ud800 pair"}\n')
    with pytest.raises(CorpusError, match=r"half.jsonl line 2: `text` holds what is no character"):
        list(Documents([str(tmp_path / "half.jsonl")]))
    with pytest.raises(CorpusError, match=r"is a folder: name the files in it, such as"):
        Documents([str(tmp_path)])


def test_documents_of_one_id_cannot_be_held_out(tmp_path: Path) -> None:
    lines = [json.dumps({"id": "same", "text": f"document {number}"}) for number in range(30)]
    (tmp_path / "same.jsonl").write_text("\n".join(lines))
    with pytest.raises(CorpusError, match="all 30 documents have the id 'same', so none can be held out"):
        _split(CorpusConfig(files=str(tmp_path / "same.jsonl")))


def test_files_are_as_open_to_others_as_the_umask_says(tmp_path: Path) -> None:
    with atomic_path(tmp_path / "folder") as folder:
        folder.mkdir()
        save_file({"x": torch.zeros(2)}, folder / "weights.safetensors")
    os.umask(mask := os.umask(0))
    assert (tmp_path / "folder" / "weights.safetensors").stat().st_mode & 0o777 == 0o666 & ~mask


def test_text_that_is_trained_on_is_not_held_out(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / f"{name}.jsonl").write_text('{"text": "some text"}\n')
    with pytest.raises(CorpusError, match=r"b.jsonl is held out and trained on: name other files"):
        _split(CorpusConfig(files=str(tmp_path / "*.jsonl"), held_out=str(tmp_path / "b.jsonl")))
    _split(CorpusConfig(files=str(tmp_path / "a.jsonl"), held_out=str(tmp_path / "b.jsonl")))
