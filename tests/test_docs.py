"""Every command and Python block of README and docs runs as it stands.

Hub names are answered from a cache that holds the tiny checkpoint under them, offline. Lines that
install are run by `.ci/run`, in fresh virtual environments.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from hub_stand_in import COMMIT

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
HUB_MODELS = ("Alibaba-NLP/gte-multilingual-reranker-base",)
FENCE = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
INSTALLS = ("python -m pip install", "pip install", "make ")


def blocks(page: Path, language: str) -> list[str]:
    return [body for name, body in FENCE.findall(page.read_text("utf-8")) if name == language]


@pytest.fixture(scope="module")
def shelf(tmp_path_factory: pytest.TempPathFactory, tiny_model: Path) -> Path:
    """A working folder with the files that the pages speak of, and a hub cache."""
    folder = tmp_path_factory.mktemp("docs")
    for name in HUB_MODELS:
        repository = folder / "hub" / "hub" / f"models--{name.replace('/', '--')}"
        shutil.copytree(tiny_model, repository / "snapshots" / COMMIT)
        vocabulary = repository / "snapshots" / COMMIT / "tokenizer.json"
        vocabulary.write_text(vocabulary.read_text().replace('"w511"', '"<mask>"'))
        (repository / "refs").mkdir()
        (repository / "refs" / "main").write_text(COMMIT)
    (folder / "documents.txt").write_text("w10 w11\nw12\nw13 w14\n")
    (folder / "pairs.tsv").write_text("w10 w11\tw12\nw10\tw13 w14\n")
    (folder / "pairs.jsonl").write_text('{"query": "w10", "text": "w11"}\n')
    judged = (
        f"how tall is tower {n}?\tTower {n} is 90 metres tall.\t1\n"
        f"how tall is tower {n}?\tBread is baked from flour.\t0\n"
        for n in range(12)
    )
    (folder / "judged.tsv").write_text("".join(judged))
    (folder / "documents.jsonl").write_text('{"id": "a", "text": "w11"}\n')
    (folder / "README.md").write_text("w12\n")
    rows = ({"query": f"w{n} w9", "positive": f"w{n} w{n + 50} w9"} for n in range(100, 140))
    (folder / "my-pairs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    group = {"query": "w100 w9", "texts": ["w100 w150 w9", "w101 w151 w9"]}
    (folder / "unscored-groups.jsonl").write_text(json.dumps(group) + "\n")
    (folder / "texts").mkdir()
    (folder / "texts" / "de.txt").write_text("w20 w21 w22 w23 w24\n" * 40)
    for name in ("my-collection", "collections/faq.de", "collections/faq.ja", "paper-data/mldr.de"):
        _write_collection(folder / name)
    (folder / "my-search.tsv").write_text("q1\td1\t2.5\nq1\td2\t1.5\n")
    (folder / "paper-runs").mkdir()
    return folder


def _write_collection(folder: Path) -> None:
    folder.mkdir(parents=True)
    (folder / "corpus.jsonl").write_text(
        '{"_id": "d1", "title": "", "text": "w10 w11"}\n{"_id": "d2", "text": "w10 w12"}\n'
    )
    (folder / "queries.jsonl").write_text('{"_id": "q1", "text": "w10 w11"}\n')
    (folder / "qrels.tsv").write_text("q1\td1\t1\n")


def run(command: list[str], shelf: Path) -> None:
    environment = {
        **os.environ,
        "HF_HOME": str(shelf / "hub"),
        "HF_HUB_OFFLINE": "1",
        "OMP_NUM_THREADS": "1",
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
    }
    done = subprocess.run(
        command, cwd=shelf, env=environment, capture_output=True, encoding="utf-8", timeout=900
    )
    assert done.returncode == 0, f"{command[-1]}\n{done.stdout}\n{done.stderr}"


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.name)
def test_the_python_of_a_page_runs_from_top_to_bottom(page: Path, shelf: Path) -> None:
    if code := "\n".join(blocks(page, "python")):
        run([sys.executable, "-c", code], shelf)


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.name)
def test_the_commands_of_a_page_run(page: Path, shelf: Path) -> None:
    commands = [
        line
        for block in blocks(page, "bash")
        for line in block.replace("\\\n", " ").splitlines()
        if not line.startswith((*INSTALLS, "#"))
    ]
    if commands:
        shutil.rmtree(shelf / "my-reranker", ignore_errors=True)
        run(["bash", "-euo", "pipefail", "-c", "\n".join(commands)], shelf)


def test_every_block_says_what_it_is() -> None:
    for page in PAGES:
        text = page.read_text("utf-8")
        languages = {name for name, _ in FENCE.findall(text)}
        assert languages <= {"python", "bash", "text", "json", "toml"}, page
        assert text.count("\n```") == 2 * len(FENCE.findall(text)), f"an unlabelled block in {page}"


def test_ci_runs_the_two_commands_of_the_readme_to_the_letter() -> None:
    commands = [b.strip() for b in blocks(ROOT / "README.md", "bash")][:2]
    script = (ROOT / ".ci" / "run").read_text()
    for command in commands:
        assert command in script
    assert (ROOT / "CONTRIBUTING.md").read_text().count(commands[1].split(" && ")[0]) == 1


def test_the_extras_that_pages_name_exist() -> None:
    tomllib = pytest.importorskip("tomllib", reason="Python 3.10 has no tomllib")
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"][
        "optional-dependencies"
    ]
    for page in PAGES:
        for named in re.findall(r"(?:polyrank|\.)\[([\w,]+)\]\"", page.read_text("utf-8")):
            assert set(named.split(",")) <= set(extras), page
