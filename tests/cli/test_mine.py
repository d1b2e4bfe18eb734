"""`polyrank mine`: hard negatives for every pair, the same file however often it was stopped."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from polyrank import Reranker
from polyrank.cli.runs import alone
from polyrank.training.readers import read_groups

from .conftest import Ran
from .test_process import on_a_terminal, posix

Run = Callable[..., Ran]
WITHOUT_TORCH = [
    sys.executable,
    "-c",
    "import sys; sys.modules['torch'] = None; from polyrank.__main__ import main; main()",
]


@pytest.fixture
def pairs(tmp_path: Path) -> Path:
    """Twelve pairs; each shares the word w7 with all others, and a rare word with the next."""
    rows = [
        {"query": f"w{100 + i} w7", "positive": f"w{100 + i} w{101 + i} w7 w{200 + i}"}
        for i in range(12)
    ]
    path = tmp_path / "pairs.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def files_of(folder: Path) -> list[str]:
    """Names of all that is in a folder."""
    return sorted(str(p.relative_to(folder)) for p in folder.rglob("*"))


def test_every_pair_gets_negatives_that_share_its_words(
    polyrank: Run, pairs: Path, tmp_path: Path
) -> None:
    out = tmp_path / "groups.jsonl"
    ran = polyrank("mine", pairs, "--out", out, "--hard", 3, "--easy", 2)
    assert (ran.code, ran.out, ran.err) == (0, "", f"wrote 12 groups to {out}\n")
    groups = list(read_groups(out))
    assert [g.query for g in groups] == [f"w{100 + i} w7" for i in range(12)]
    for i, group in enumerate(groups):
        assert group.texts[0].startswith(f"w{100 + i} ")
        assert len(set(group.texts)) == 6
    # The text that has the rare word too comes before all that share only w7.
    assert groups[5].texts[1].startswith("w104 w105 ")


def test_a_dry_run_shows_what_the_run_writes_and_writes_nothing(
    polyrank: Run, pairs: Path, tmp_path: Path
) -> None:
    before = files_of(tmp_path)
    shown = polyrank("mine", pairs, "--dry-run", "--out", tmp_path / "not-made" / "g.jsonl")
    assert shown.code == 0
    assert files_of(tmp_path) == before
    assert polyrank("mine", pairs, "--out", tmp_path / "g.jsonl").code == 0
    first = next(read_groups(tmp_path / "g.jsonl"))
    assert shown.lines[:3] == [
        f"query: {first.query}",
        f"  positive: {first.texts[0]}",
        f"  found negative: {first.texts[1]}",
    ]
    assert shown.lines[-1].startswith("the run: 12 groups from 12 texts, about ")


def test_bad_lines_of_both_files_are_left_out_counted_and_named(
    polyrank: Run, pairs: Path, tmp_path: Path
) -> None:
    with pairs.open("ab") as file:
        file.write(b'nonsense\n{"query": "w9"}\n{"query": "w9", "positive": "w\xff"}\n')
    texts = tmp_path / "texts.jsonl"
    texts.write_text('{"text": "w7 w300"}\n{"text": 3}\n')
    out = tmp_path / "groups.jsonl"
    ran = polyrank("mine", pairs, "--texts", texts, "--out", out)
    assert ran.code == 0
    lines = ran.err.splitlines()
    assert lines[0] == f"{pairs}: left out 3 bad lines"
    assert f"expected JSON at {pairs}:13" in lines[1]
    assert f"'positive' at {pairs}:14" in lines[2]
    assert f"the byte 0xff at {pairs}:15" in lines[3]
    assert lines[4] == f"{texts}: left out 1 bad line"
    assert f"'text' at {texts}:2" in lines[5]
    assert lines[6] == f"wrote 12 groups to {out}"


def test_half_characters_and_bottomless_json_are_bad_lines_too(
    polyrank: Run, pairs: Path, tmp_path: Path
) -> None:
    with pairs.open("a") as file:
        file.write('{"query": "w9", "positive": "w1 \\ud83d"}\n' + "[" * 100_000 + "\n")
    out = tmp_path / "groups.jsonl"
    ran = polyrank("mine", pairs, "--out", out)
    assert ran.code == 0
    lines = ran.err.splitlines()
    assert lines[0] == f"{pairs}: left out 2 bad lines"
    assert f"expected valid Unicode at {pairs}:13, got a lone surrogate" in lines[1]
    assert f"expected JSON at {pairs}:14" in lines[2]
    assert len(list(read_groups(out))) == 12


def test_negatives_come_from_the_texts_that_are_named(
    polyrank: Run, pairs: Path, tmp_path: Path
) -> None:
    (tmp_path / "texts.jsonl").write_text('{"title": "w8", "text": "w7 w300"}\n{"text": "w301"}\n')
    (tmp_path / "texts.txt").write_text("w8 w7 w300\nw301\n\n")
    written = []
    for name in ("texts.jsonl", "texts.txt"):
        out = tmp_path / f"{name}.groups"
        ran = polyrank("mine", pairs, "--texts", tmp_path / name, "--out", out, "--easy", 1)
        assert ran.code == 0
        written.append(out.read_bytes())
    assert written[0] == written[1]
    for group in read_groups(out):
        assert group.texts[1] == "w8 w7 w300"  # found by w7; the other can only be drawn
        assert group.texts[2:] in ((), ("w301",))


def test_a_killed_run_goes_on_to_the_same_bytes(polyrank: Run, pairs: Path, tmp_path: Path) -> None:
    out = tmp_path / "groups.jsonl"
    assert polyrank("mine", pairs, "--out", out).code == 0
    whole = out.read_bytes()
    out.write_bytes(whole[: len(whole) // 2])  # amid a line
    assert polyrank("mine", pairs, "--out", out).code == 0
    assert out.read_bytes() == whole


def test_ctrl_c_says_how_to_go_on(
    polyrank: Run, pairs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*args: object, **options: object) -> int:
        raise KeyboardInterrupt

    monkeypatch.setattr("polyrank.training.mining.mine", interrupted)
    out = tmp_path / "groups.jsonl"
    ran = polyrank("mine", pairs, "--out", out)
    assert (ran.code, ran.err) == (130, f"stopped; the same command goes on with {out}\n")


def test_what_was_begun_otherwise_is_not_gone_on_with(
    polyrank: Run, pairs: Path, tmp_path: Path, model: str
) -> None:
    out = tmp_path / "groups.jsonl"
    assert polyrank("mine", pairs, "--out", out).code == 0
    other = polyrank("mine", pairs, "--out", out, "--judge", f"e5:{model}")
    assert other.code == 1
    assert "judge None then and e5:" in other.err
    pairs.write_text(pairs.read_text().replace("w200", "w300"))
    changed = polyrank("mine", pairs, "--out", out)
    assert changed.code == 1
    assert "pairs_hash" in changed.err


def test_vectors_of_texts_are_made_once(
    polyrank: Run, pairs: Path, tmp_path: Path, model: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "groups.jsonl"
    command = ["mine", pairs, "--search", f"e5:{model}", "--search", "bm25", "--out", out]
    assert polyrank(*command).code == 0
    first = out.read_bytes()
    out.unlink()

    def passages(*args: object) -> None:
        raise AssertionError("these vectors are on disk")

    monkeypatch.setattr("polyrank.training.vectors.BiEncoder.passages", passages)
    assert polyrank(*command).code == 0
    assert out.read_bytes() == first


@pytest.mark.parametrize("kind", ["reranker", "bi-encoder"])
def test_what_the_judge_puts_above_the_positive_is_left_out(
    polyrank: Run, pairs: Path, tmp_path: Path, model: str, reranker: Reranker, kind: str
) -> None:
    from polyrank.training.vectors import BiEncoder

    if kind == "reranker":
        name, judge = model, reranker.logits
    else:
        name, judge = f"e5:{model}", BiEncoder(model, device="cpu").judge
    mined = []
    for options in ([], ["--judge", name]):
        out = tmp_path / f"{len(options)}.jsonl"
        ran = polyrank("mine", pairs, "--out", out, "--hard", 11, "--easy", 0, *options)
        assert ran.code == 0
        mined.append(list(read_groups(out)))
    left_out = 0
    for found, kept in zip(*mined, strict=True):
        positive, *scores = np.asarray(judge([(found.query, t) for t in found.texts]))
        good = [t for t, s in zip(found.texts[1:], scores, strict=True) if s < positive]
        assert list(kept.texts[1:]) == good
        left_out += len(found.texts) - len(kept.texts)
    assert left_out > 0


def test_groups_triples_and_beir_folders_are_read_too(polyrank: Run, tmp_path: Path) -> None:
    (tmp_path / "g.jsonl").write_text('{"query": "w1", "texts": ["w2 w1", "w9"]}\n')
    (tmp_path / "t.tsv").write_text("w1\tw2 w1\tw9\n")
    beir = tmp_path / "beir"
    (beir / "qrels").mkdir(parents=True)
    corpus = [{"_id": "a", "text": "w2 w1"}, {"_id": "b", "text": "w9"}]
    (beir / "corpus.jsonl").write_text("".join(json.dumps(row) + "\n" for row in corpus))
    (beir / "queries.jsonl").write_text('{"_id": "q", "text": "w1"}\n')
    (beir / "qrels" / "dev.tsv").write_text("q\ta\t1\nq\tb\t0\n")
    texts = tmp_path / "texts.txt"
    texts.write_text("w1 w8\n")
    for name in ("g.jsonl", "t.tsv", "beir"):
        out = tmp_path / f"{name}.out"
        source = tmp_path / name
        ran = polyrank("mine", source, "--texts", texts, "--split", "dev", "--out", out)
        assert (ran.code, ran.err) == (0, f"wrote 1 group to {out}\n")
        assert next(read_groups(out)).texts == ("w2 w1", "w9", "w1 w8")


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ([], "--out GROUPS, or --dry-run"),
        (["--out", "g.jsonl", "--search", "google"], "--search bm25 or e5:FOLDER"),
        (["--out", "g.jsonl", "--search", "e5:"], "--search bm25 or e5:FOLDER"),
        (["--out", "g.jsonl", "--seed", "-1"], "'--seed'"),
        (["--out", "g.jsonl", "--margin", "0.1"], "expected --judge MODEL with --margin"),
        (["--out", "g.jsonl", "--relative"], "expected --judge MODEL with --margin"),
    ],
)
def test_wrong_usage_says_what_was_expected(
    polyrank: Run, pairs: Path, options: list[str], words: str
) -> None:
    ran = polyrank("mine", pairs, *options)
    assert ran.code == 2
    assert words in " ".join(ran.err.replace("│", " ").split())


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (
            ["--out", "pairs.jsonl"],
            "expected an --out other than the input, got pairs.jsonl for both",
        ),
        (["--out", "texts.txt", "--texts", "texts.txt"], "expected an --out other than the input"),
        (["--out", "."], "expected --out with a file of groups, got the folder ."),
        (["--out", "g.jsonl.gz"], "expected a plain .jsonl file of groups"),
        (
            ["--out", "g.jsonl", "--judge", "m", "--margin", "nan"],
            "expected a finite margin, got nan",
        ),
    ],
)
def test_an_output_or_margin_that_cannot_be_is_refused(
    polyrank: Run,
    pairs: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    options: list[str],
    words: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "texts.txt").write_text("w1\n")
    before = files_of(tmp_path), pairs.read_bytes()
    ran = polyrank("mine", "pairs.jsonl", *options)
    assert ran.code == 1
    assert words in ran.err
    assert (files_of(tmp_path), pairs.read_bytes()) == before


def test_a_second_run_into_one_output_is_refused(
    polyrank: Run, pairs: Path, tmp_path: Path
) -> None:
    out = tmp_path / "groups.jsonl"
    with alone(out):
        ran = polyrank("mine", pairs, "--out", out)
    assert ran.code == 1
    assert f"expected to be the only run that writes {out}, found another one" in ran.err
    assert not out.exists()
    assert polyrank("mine", pairs, "--out", out).code == 0


@pytest.mark.parametrize(
    ("content", "words"), [("", "at least one pair"), ("{}\n", "at least one pair")]
)
def test_a_file_without_a_pair_is_an_error(
    polyrank: Run, tmp_path: Path, content: str, words: str
) -> None:
    (tmp_path / "pairs.jsonl").write_text(content)
    ran = polyrank("mine", tmp_path / "pairs.jsonl", "--out", tmp_path / "g.jsonl")
    assert ran.code == 1
    assert words in ran.err
    assert not (tmp_path / "g.jsonl").exists()


def test_bm25_needs_no_torch_and_a_bi_encoder_says_how_to_get_it(
    pairs: Path, tmp_path: Path, model: str
) -> None:
    def run(*args: str) -> subprocess.CompletedProcess[str]:
        command = [*WITHOUT_TORCH, "mine", str(pairs), "--out", str(tmp_path / "g.jsonl"), *args]
        return subprocess.run(command, capture_output=True, text=True, check=False)

    lexical = run()
    assert (lexical.returncode, lexical.stderr) == (0, f"wrote 12 groups to {tmp_path}/g.jsonl\n")
    dense = run("--search", f"e5:{model}")
    assert dense.returncode == 1
    assert 'pip install "polyrank[train]"' in dense.stderr


@posix
def test_a_terminal_sees_how_far_it_is(pairs: Path, tmp_path: Path) -> None:
    code, seen = on_a_terminal("mine", pairs, "--out", tmp_path / "g.jsonl")
    assert code == 0
    assert "mining" in seen
    assert "12/12" in seen
