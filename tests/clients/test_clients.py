"""Released clients against a real server: they read every answer, and raise what they should.

Each runs in an environment of its own, which `build.py` makes; without one, its test is skipped.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from clients.build import PACKAGES, python
from polyrank import Reranker
from server.conftest import DOCUMENTS, QUERY, best_first

HOME = os.environ.get("POLYRANK_TEST_CLIENTS")
HERE = Path(__file__).parent
CALLS = HERE / "calls"
# Each names its servers as its vendor does, and some would rather ask the machine's proxy.
ENVIRONMENT = {**os.environ, "NO_PROXY": "127.0.0.1", "no_proxy": "127.0.0.1"}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where scripts and the server leave each other files."""
    return tmp_path_factory.mktemp("clients")


@pytest.fixture(scope="module")
def address(tiny_model: Path, folder: Path) -> Iterator[str]:
    """A server that wants the key `good`, and takes 20 documents in 100,000 bytes."""
    with subprocess.Popen(
        [sys.executable, HERE / "stand.py", tiny_model, folder],
        env={
            **os.environ,
            "POLYRANK_API_KEY": "good",
            "POLYRANK_MAX_DOCUMENTS": "20",
            "POLYRANK_MAX_BODY_BYTES": "100000",
        },
        stdout=subprocess.PIPE,
        encoding="utf-8",
    ) as process:
        assert process.stdout is not None
        found = re.search(r"http://\S+", process.stdout.readline())
        assert found is not None
        yield found[0]
        process.terminate()


@pytest.mark.skipif(HOME is None, reason="POLYRANK_TEST_CLIENTS names no folder of clients")
@pytest.mark.parametrize("name", PACKAGES)
def test_a_client_reads_scores_and_errors(
    name: str, address: str, folder: Path, reranker: Reranker
) -> None:
    home = Path(str(HOME)) / name
    if not python(home).exists():
        pytest.skip(f"no {name} in {HOME}")
    (folder / "refuse").unlink(missing_ok=True)
    arguments = [address, QUERY, json.dumps(DOCUMENTS), folder]
    done = subprocess.run(
        [python(home), CALLS / f"call_{name}.py", *arguments],
        capture_output=True,
        encoding="utf-8",
        env=ENVIRONMENT,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    said = json.loads(done.stdout.splitlines()[-1])
    scores = [float(s) for s in reranker.score([(QUERY, d) for d in DOCUMENTS])]
    assert said["rankings"]
    for what, ranking in said["rankings"].items():
        order = best_first(scores)[: len(ranking)]
        assert [index for index, _ in ranking] == order, what
        assert [score for _, score in ranking] == pytest.approx(
            [scores[i] for i in order], abs=1e-5
        ), what
    for what, (got, expected) in said["errors"].items():
        for words in expected:
            assert words in got, what
    for what, seconds in said["waits"].items():
        assert seconds >= 0.9, f"{what}: Retry-After is 1"
