from __future__ import annotations

import gzip
import lzma
from pathlib import Path

import numpy as np
import pytest

from polyrank.errors import InputError
from polyrank.evaluation import read_collection, read_qrels, read_run, write_run

from .conftest import DOCUMENTS, QRELS, QUERIES, write_collection


def test_a_beir_folder_is_read(folder: Path) -> None:
    c = read_collection(folder)
    assert c.queries == QUERIES
    assert {i: d["text"] for i, d in c.documents.items()} == DOCUMENTS
    assert c.qrels == QRELS
    assert c.notices == ()


@pytest.mark.parametrize(("packed", "opened"), [(".gz", gzip.open), (".xz", lzma.open)])
def test_packed_files_are_read_as_plain_ones(folder: Path, packed: str, opened: object) -> None:
    for path in list(folder.iterdir()):
        with opened(f"{path}{packed}", "wb") as file:  # type: ignore[operator]
            file.write(path.read_bytes())
        path.unlink()
    assert read_collection(folder).qrels == QRELS


def test_qrels_may_be_a_folder_of_splits_or_trecs_columns(folder: Path) -> None:
    lines = (folder / "qrels.tsv").read_text()
    (folder / "qrels.tsv").unlink()
    (folder / "qrels").mkdir()
    (folder / "qrels" / "dev.tsv").write_text(lines)
    assert read_collection(folder, split="dev").qrels == QRELS
    with pytest.raises(InputError, match=r"qrels/test\.tsv in .*found dev\.tsv"):
        read_collection(folder)
    trec = "".join(f"{q} 0 {d} {g}\n" for q, gs in QRELS.items() for d, g in gs.items())
    (folder / "qrels.txt").write_text(trec)
    assert read_collection(folder).qrels == QRELS


def test_the_language_comes_from_the_folder_the_query_or_its_id(tmp_path: Path) -> None:
    assert read_collection(write_collection(tmp_path / "qa-x.ja")).languages["q1"] == "ja"
    c = read_collection(write_collection(tmp_path / "mixed", ["de", "fr"]))
    assert c.languages == {"q1": "de", "q2": "fr"}
    cross = write_collection(tmp_path / "cross")
    for name in ("queries.jsonl", "qrels.tsv"):
        path = cross / name
        path.write_text(path.read_text().replace("q1", "de>ja:12"))
    assert read_collection(cross).languages == {"de>ja:12": "de>ja"}


def append(path: Path, text: str) -> None:
    path.write_text(path.read_text() + text)


@pytest.mark.parametrize(
    ("file", "line", "message"),
    [
        ("corpus.jsonl", "{broken", "no JSON .*corpus.jsonl:6"),
        ("corpus.jsonl", '["d9"]', "a list at .*corpus.jsonl:6"),
        ("corpus.jsonl", '{"_id": "d9"}', "no field `text` at .*corpus.jsonl:6"),
        ("corpus.jsonl", '{"text": "w1"}', "no id at .*corpus.jsonl:6"),
        ("corpus.jsonl", '{"_id": "d9", "text": 3}', "the text of 'd9' as int at .*corpus.jsonl:6"),
        ("corpus.jsonl", '{"_id": "d9", "text": "w1", "title": 3}', "the title of 'd9' as int at"),
        (
            "corpus.jsonl",
            r'{"_id": "d9", "text": "\ud83d"}',
            "text of 'd9' with a lone surrogate at",
        ),
        (
            "corpus.jsonl",
            r'{"_id": "\ud83d", "text": "w1"}',
            "the id with a lone surrogate at .*:6",
        ),
        pytest.param("corpus.jsonl", "[" * 100_000, "no JSON .*corpus.jsonl:6", id="deep"),
        ("corpus.jsonl", '{"_id": "d1", "text": "w1"}', "id 'd1' again, with another text"),
        ("queries.jsonl", '{"_id": "q1", "text": "w1"}', "id 'q1' again, with another text"),
        ("queries.jsonl", '{"_id": "q9", "text": " "}', "the text ' ' at .*queries.jsonl:4"),
        ("queries.jsonl", r'{"_id": "\ud83d", "text": "w1"}', "id with a lone surrogate at .*:4"),
        ("queries.jsonl", r'{"_id": "q9", "text": "\ud83d"}', "text of 'q9' with a lone surrogate"),
        ("qrels.tsv", "q1\td1", r"2 columns .*qrels.tsv:8"),
        ("qrels.tsv", "q1\td1\tgood", r"grade 'good' at .*qrels.tsv:8"),
        ("qrels.tsv", "q1\td5\t2147483648", "'2147483648', which is over 2,147,483,647, at .*:8"),
        ("qrels.tsv", "q1\td1\t0", "grades 2 and 0 for query 'q1', document 'd1' at .*:8"),
    ],
)
def test_a_malformed_line_is_an_error_with_its_number(
    folder: Path, file: str, line: str, message: str
) -> None:
    append(folder / file, line + "\n")
    with pytest.raises(InputError, match=message):
        read_collection(folder)


def test_all_malformed_lines_are_counted(folder: Path) -> None:
    append(folder / "corpus.jsonl", "oops\n" * 20)
    with pytest.raises(InputError, match="and 15 more; correct or remove these 20 lines"):
        read_collection(folder)


@pytest.mark.parametrize("file", ["corpus.jsonl", "queries.jsonl", "qrels.tsv"])
def test_an_empty_file_is_an_error(folder: Path, file: str) -> None:
    (folder / file).write_text("")
    with pytest.raises(InputError, match=file):
        read_collection(folder)


def test_what_is_repeated_word_for_word_is_read_once_and_counted(folder: Path) -> None:
    for name in ("corpus.jsonl", "queries.jsonl", "qrels.tsv"):
        lines = (folder / name).read_text().splitlines()
        append(folder / name, lines[-1] + "\n")
    c = read_collection(folder)
    assert (len(c.documents), len(c.queries), c.qrels) == (5, 3, QRELS)
    assert [n.count for n in c.notices] == [1, 1, 1]
    assert all("repeated" in n.what for n in c.notices)


def test_ids_that_do_not_meet_are_counted_and_named(folder: Path) -> None:
    append(folder / "qrels.tsv", "q1\tgone\t1\nq1\tgone0\t0\nq8\td1\t1\n")
    append(folder / "corpus.jsonl", '{"_id": "blank", "text": " "}\n')
    append(folder / "queries.jsonl", '{"_id": "q4", "text": "w1"}\n')
    append(folder / "qrels.tsv", "q4\td1\t0\n")
    told = " ".join(map(str, read_collection(folder).notices))
    assert "1 relevant judgements name documents that are not in the corpus" in told
    assert "(q1 gone)" in told
    assert "1 judgements of grade 0 name documents" in told
    assert "1 judged queries have no text" in told
    assert "1 judged queries have no relevant document" in told
    assert "1 documents are blank" in told


def test_qrels_of_another_collection_are_an_error(folder: Path) -> None:
    (folder / "qrels.tsv").write_text("x\td1\t1\n")
    with pytest.raises(InputError, match="1 judged ids that are none of its 3 queries"):
        read_collection(folder)


def test_a_folder_without_a_corpus_says_what_it_holds(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("")
    with pytest.raises(InputError, match=r"expected corpus\.jsonl .*found notes\.txt"):
        read_collection(tmp_path)


def test_runs_have_six_columns_or_three(tmp_path: Path) -> None:
    (tmp_path / "six").write_text("q1 Q0 d1 1 2.5 tag\nq1 Q0 d2 2 1e-3 tag\n")
    (tmp_path / "three").write_text("q1\td1\t2.5\nq1\td2\t1e-3\n")
    expected = {"q1": {"d1": 2.5, "d2": 0.001}}
    assert read_run(tmp_path / "six") == read_run(tmp_path / "three") == (expected, [])


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("q1 d1", "2 columns"),
        ("q1\td2\tnan", "score 'nan', which is not finite, at .*:2"),
        ("q1\td2\tinf", "not finite"),
        ("q1\td2\tbest", "score 'best' at .*:2"),
        ("q1\td2\t1_0", "score '1_0' at .*:2"),
        ("q1\td1\t3", "document 'd1' a second time for query 'q1' at .*:2"),
    ],
)
def test_a_bad_line_of_a_run_is_an_error(tmp_path: Path, line: str, message: str) -> None:
    (tmp_path / "run").write_text(f"q1\td1\t1\n{line}\n")
    with pytest.raises(InputError, match=message):
        read_run(tmp_path / "run")


@pytest.mark.parametrize("line", ["q1\td1\tO.9", "q1\td1\t0,9", "qid Q0 d1 1 score t"])
def test_a_bad_first_line_is_no_header(tmp_path: Path, line: str) -> None:
    (tmp_path / "run").write_text(f"{line}\nq1\td2\t1\n")
    with pytest.raises(InputError, match=r"the score '.*' at .*run:1"):
        read_run(tmp_path / "run")
    (tmp_path / "qrels").write_text("q1\td1\tl\nq1\td2\t1\n")
    with pytest.raises(InputError, match=r"the grade 'l' at .*qrels:1"):
        read_qrels(tmp_path / "qrels")


@pytest.mark.parametrize("head", ["query-id\tcorpus-id\tscore", "qid\tpid\tx", "a\tb\tRelevance"])
def test_a_header_of_three_columns_is_passed_over(tmp_path: Path, head: str) -> None:
    (tmp_path / "file").write_text(f"{head}\nq1\td2\t1\n")
    assert read_run(tmp_path / "file")[0] == {"q1": {"d2": 1.0}}
    assert read_qrels(tmp_path / "file")[0] == {"q1": {"d2": 1}}


def test_grades_may_be_written_as_floats(tmp_path: Path) -> None:
    (tmp_path / "qrels").write_text("q1 0 d1 1.0\nq1 0 d2 -2\n")
    assert read_qrels(tmp_path / "qrels")[0] == {"q1": {"d1": 1, "d2": -2}}
    for grade in ("0.5", "1_0", "nan", "inf"):
        (tmp_path / "qrels").write_text(f"q1 0 d1 {grade}\n")
        with pytest.raises(InputError, match=f"the grade '{grade}'"):
            read_qrels(tmp_path / "qrels")


def test_scores_of_numpy_are_written_as_numbers(tmp_path: Path) -> None:
    write_run({"q": {"d": np.float32(0.5)}}, tmp_path / "run.trec", tag="t")
    assert (tmp_path / "run.trec").read_text() == "q\tQ0\td\t1\t0.5\tt\n"


def test_an_ending_that_is_no_language_is_none(tmp_path: Path) -> None:
    for name, language in (("faq.dev", None), ("faq.new", None), ("faq.de", "de")):
        write_collection(tmp_path / name)
        assert read_collection(tmp_path / name).language == language


def test_an_empty_run_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "run").write_text("\n")
    with pytest.raises(InputError, match="empty run"):
        read_run(tmp_path / "run")


def test_a_run_without_an_order_is_noticed(tmp_path: Path) -> None:
    (tmp_path / "run").write_text("q1\td1\t0\nq1\td2\t0\nq2\td1\t1\n")
    (notice,) = read_run(tmp_path / "run")[1]
    assert (notice.count, notice.examples) == (1, ("q1",))


@pytest.mark.parametrize("name", ["run.trec", "run.trec.gz", "run.trec.xz"])
def test_a_written_run_is_read_back(tmp_path: Path, name: str) -> None:
    run = {"q1": {"d1": 0.1, "d2": 12.5, "d 3".replace(" ", "-"): -1e-7}}
    write_run(run, tmp_path / name, tag="x")
    assert read_run(tmp_path / name) == (run, [])


def test_broken_files_are_errors_with_their_place(tmp_path: Path) -> None:
    (tmp_path / "latin").write_bytes(b"q1\td1\t1\nq\xe9\td1\t1\n")
    with pytest.raises(InputError, match=r"byte 0xe9 at .*latin:2"):
        read_run(tmp_path / "latin")
    whole = gzip.compress(b"q1\td1\t1\n" * 1000)
    (tmp_path / "cut.gz").write_bytes(whole[:-12])
    with pytest.raises(InputError, match=r"whole \.gz file"):
        read_qrels(tmp_path / "cut.gz")
    with pytest.raises(InputError, match="expected a file"):
        read_run(tmp_path / "none")
