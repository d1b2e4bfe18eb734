"""`polyrank rank`: what is read, what is printed, and what is told beside it."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

from polyrank import Reranker

from .conftest import Ran

Run = Callable[..., Ran]
DOCUMENTS = "w3 w4\nw1 w2 w9\nw7\n"


def test_lines_of_standard_input_are_ranked(polyrank: Run, model: str, reranker: Reranker) -> None:
    expected = reranker.rank("w1 w2", DOCUMENTS.splitlines())

    ran = polyrank("rank", "w1 w2", "--model", model, stdin=DOCUMENTS)

    assert (ran.code, ran.err) == (0, "")
    rows = [line.split("\t") for line in ran.lines]
    assert [rank for rank, *_ in rows] == ["1", "2", "3"]
    assert [int(number) - 1 for _, _, number, _ in rows] == [r.index for r in expected]
    assert [text for *_, text in rows] == [r.text for r in expected]
    assert [score for _, score, *_ in rows] == [f"{r.score:.12f}" for r in expected]


def test_a_dash_and_no_file_are_standard_input(polyrank: Run, model: str) -> None:
    runs = [polyrank("rank", "w1", *f, "-m", model, stdin=DOCUMENTS) for f in ([], ["-"])]
    assert runs[0] == runs[1]
    assert len(runs[0].lines) == 3


def test_blank_lines_are_skipped_but_counted(polyrank: Run, model: str) -> None:
    ran = polyrank("rank", "w1", "-m", model, stdin="w3\n\n   \nw4\n")
    assert {line.split("\t")[2] for line in ran.lines} == {"1", "4"}
    assert ran.err == "2 blank lines were skipped\n"


def test_ids_name_the_file_where_there_are_several(
    polyrank: Run, model: str, tmp_path: Path
) -> None:
    one, two = tmp_path / "one.txt", tmp_path / "zwei ü.txt"
    one.write_bytes(b"\xef\xbb\xbfw1\r\nw2\r\n")  # as some editors save it
    two.write_text("w3", encoding="utf-8")
    ran = polyrank("rank", "w1", "-m", model, "--json", one, two)
    rows = [json.loads(line) for line in ran.lines]
    assert {row["id"]: row["text"] for row in rows} == {
        f"{one}:1": "w1",
        f"{one}:2": "w2",
        f"{two}:1": "w3",
    }


def test_whole_files_are_documents(polyrank: Run, model: str, tmp_path: Path) -> None:
    long, short = tmp_path / "long.md", tmp_path / "short.md"
    long.write_text("w1 w2\n" * 100)
    short.write_text("w3\tw4\n")
    ran = polyrank("rank", "w1", "-m", model, "--whole", long, short)
    texts = {line.split("\t")[2]: line.split("\t")[3] for line in ran.lines}
    assert texts == {str(long): ("w1 w2 " * 100)[:200], str(short): "w3 w4 "}


def test_json_rows_carry_the_fields_of_the_document(polyrank: Run, model: str) -> None:
    given: list[dict[str, object]] = [
        {"id": "b", "title": "w1", "text": "w2", "year": 1999, "tags": ["é"]},
        {"text": "w3", "id": None},
    ]
    stdin = "".join(json.dumps(g) + "\n" for g in given)
    ran = polyrank("rank", "w1", "-m", model, "--jsonl", "--json", stdin=stdin)
    rows = sorted((json.loads(line) for line in ran.lines), key=lambda row: row["index"])
    assert given[0].items() <= rows[0].items()
    assert rows[1]["id"] == 2  # its line
    assert {"rank", "index", "score", "logit", "tokens", "tokens_given", "truncated"} <= set(
        rows[0]
    )
    assert "é" in ran.out  # as UTF-8, not as an escape


def test_top_n_and_threshold_cut_the_output_only(
    polyrank: Run, model: str, reranker: Reranker
) -> None:
    scores = [r.score for r in reranker.rank("w1 w2", DOCUMENTS.splitlines())]
    best = polyrank("rank", "w1 w2", "-m", model, "--top-n", 1, stdin=DOCUMENTS)
    middle = (scores[1] + scores[2]) / 2
    above = polyrank("rank", "w1 w2", "-m", model, "--threshold", middle, stdin=DOCUMENTS)
    assert len(best.lines) == 1
    assert len(above.lines) == 2
    assert above.lines[0] == best.lines[0]


def test_what_was_cut_is_told_of_all_documents(polyrank: Run, model: str) -> None:
    stdin = "w1\n" + "w2 w3 w4 w5 w6 w7 w8\n" * 2
    ran = polyrank("rank", "w1", "-m", model, "--max-length", 8, "-n", 1, stdin=stdin)
    assert len(ran.lines) == 1
    assert ran.err == "2 of 3 documents were cut to 8 tokens\n"


def test_nothing_to_rank_is_no_error(polyrank: Run, model: str) -> None:
    assert polyrank("rank", "w1", "-m", model) == Ran(0, "", "nothing to rank\n")
    ran = polyrank("rank", "w1", "-m", model, "--threshold", 1, stdin="w2\nw3\n")
    assert ran == Ran(0, "", "no document of 2 has a score from 1.0 up\n")
    assert polyrank("rank", "w1", "-m", model, "--threshold", "nan").code == 2


def test_a_query_that_is_cut_is_said_to_be(polyrank: Run, model: str) -> None:
    query = " ".join(f"w{n}" for n in range(10, 40))
    ran = polyrank("rank", query, "-m", model, "--max-length", 16, "--json", stdin="w1\nw2 w3\n")
    assert ran.err == "2 of 2 documents were cut to 16 tokens, and the query by up to 20\n"
    assert sorted(json.loads(line)["query_cut"] for line in ran.lines) == [19, 20]


def test_fields_of_our_names_are_kept_aside(polyrank: Run, model: str) -> None:
    document = {"text": "w2", "id": "a", "score": 17.3, "rank": 9, "given": 1, "more": None}
    ran = polyrank("rank", "w1", "-m", model, "--jsonl", "--json", stdin=json.dumps(document))
    row = json.loads(ran.out)
    assert (row["rank"], row["id"], row["more"], row["text"]) == (1, "a", None, "w2")
    assert row["given"] == {"score": 17.3, "rank": 9, "given": 1}
    assert 0 < row["score"] < 1


def test_wrong_usage_ends_with_2(polyrank: Run, model: str) -> None:
    for args in (
        ["rank"],
        ["rank", "  "],
        ["rank", "w1", "--jsonl", "--whole"],
        ["rank", "w1", "--top-n", "0"],
        ["rank", "w1", "--threshold", "2"],
        ["rank", "w1", "--no-such-option"],
        ["no-such-command"],
    ):
        ran = polyrank(*args)
        assert ran.code == 2, args
        assert ran.out == ""
        assert "Traceback" not in ran.err


def test_bad_input_is_an_error_that_names_the_line(polyrank: Run, tmp_path: Path) -> None:
    file = tmp_path / "in"
    for content, options, words in (
        (b"w1\nw\xff2\n", [], ["UTF-8", "0xff", "byte 2 of", ":2"]),
        (b"w1\n\nw\xff2\n", ["--whole"], ["UTF-8", "0xff", "line 3"]),
        ("w1\nw2\n".encode("utf-16-le"), [], ["UTF-8", "NUL", ":1", "UTF-16?"]),
        (b'{"text": "w1"}\n{"txt": "w1"}\n', ["--jsonl"], ["`text`", ":2", "txt"]),
        (b'{"text": 5}\n', ["--jsonl"], ["string", "int", ":1"]),
        (b'{"text": "w1"\n', ["--jsonl"], ["JSON object", ":1"]),
        (b'["w1"]\n', ["--jsonl"], ["JSON object", "list", ":1"]),
        (b'{"text": "w1", "n": NaN}\n', ["--jsonl"], ["NaN", ":1"]),
        (b'{"text": "w1", "n": 1e999}\n', ["--jsonl"], ["1e999", ":1"]),
        (b'{"text": "\\ud800"}\n', ["--jsonl"], ["surrogate", ":1"]),
        (b"[" * 100_000 + b"\n", ["--jsonl"], ["JSON object", ":1"]),
    ):
        file.write_bytes(content)
        ran = polyrank("rank", "w1", *options, file)
        assert ran.code == 1
        assert ran.out == ""
        assert ran.err.startswith("error: expected ")
        assert ran.err.count("\n") == 1
        for word in words:
            assert word in ran.err


def test_a_missing_file_and_a_missing_model_are_errors(polyrank: Run, tmp_path: Path) -> None:
    absent = polyrank("rank", "w1", tmp_path / "none.txt")
    folder = polyrank("rank", "w1", tmp_path)
    no_model = polyrank("rank", "w1", "-m", tmp_path / "none", stdin="w1\n")
    for ran in (absent, folder, no_model):
        assert (ran.code, ran.out) == (1, "")
        assert str(tmp_path) in ran.err


def test_debug_shows_the_traceback_wherever_it_stands(polyrank: Run, tmp_path: Path) -> None:
    args = ["rank", "w1", tmp_path / "none.txt"]
    for with_debug in (["--debug", *args], [*args, "--debug"]):
        ran = polyrank(*with_debug)
        assert ran.code == 1
        assert "Traceback" in ran.err
        assert "InputError" in ran.err
    assert "Traceback" not in polyrank(*args).err


def test_long_documents_in_windows_are_read_whole(polyrank: Run, model: str) -> None:
    stdin = "w20 " * 60 + "w10 w11\nw30\n"
    flags = ("-m", model, "--max-length", 20, "--json")
    cut = polyrank("rank", "w10 w11", *flags, stdin=stdin)
    assert "1 of 2 documents was cut to 20 tokens" in cut.err
    whole = polyrank("rank", "w10 w11", *flags, "--on-overflow", "windows", stdin=stdin)
    assert (whole.code, whole.err) == (0, "")
    assert all(not json.loads(line)["truncated"] for line in whole.lines)
    wrong = polyrank("rank", "w10 w11", *flags, "--on-overflow", "window", stdin=stdin)
    assert wrong.code == 2
    assert "'window'" in wrong.err
