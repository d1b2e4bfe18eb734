"""The CPU engine: polyrank's ONNX graphs beside PyTorch, ONNX Runtime, OpenVINO and their wrappers.

    python benchmarks/cpu_onnx.py --rounds 5 --output benchmarks/results/cpu_onnx.json

`--workload`: `mixed` (64 pairs of lognormal length), `skewed` (a document of 4,096 tokens among 63
short ones) or `latency` (8 short documents, milliseconds).

The official shape with random weights for all, the same texts and truncation, in turns. Before
each round the machine's own limits are measured (`limits.py`): a contender's share is its effective
rate, counted as if no operation could be left out, over the best rate in that round of the dtype
that its products run in (virtual machines change their speed by a factor of two). To try the
script: `--layers 2 --pairs 6 --rounds 1`, and `--only` for some contenders.

Exports are written once, beside the checkpoint, by `exports.py`. The wrappers of
sentence-transformers run exports of ours, since none of its own exporters knows this architecture:
`peers.py` says what is theirs and what is ours.
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

import exports
import limits
import peers
import turns
import workload


@dataclass(frozen=True, kw_only=True)
class Way:
    """A contender: how it is loaded, and what it is measured against."""

    load: Callable[..., turns.Score]
    """Takes the checkpoint's folder and `max_length`."""
    limit: str
    """The dtype of its matrix products, in the words of `limits.py`."""
    export: str | None = None
    """What it runs of `exports.py`."""
    converts: bool = False
    """Whether its first loading converts the checkpoint, and keeps that, which is not counted."""


def _onnx(export: str, size: int = 16) -> Way:
    load = partial(peers.sentence_transformers_onnx, export=export, size=size)
    return Way(load=load, limit="fp32" if export == "onnx" else "int8", export=export)


def _openvino(export: str, limit: str, precision: str | None = None, size: int = 16) -> Way:
    load = partial(
        peers.sentence_transformers_openvino, export=export, precision=precision, size=size
    )
    return Way(load=load, limit=limit, export=export)


def _torch(dtype: str, size: int = 16) -> Way:
    load = partial(peers.sentence_transformers, dtype=dtype, size=size)
    return Way(load=load, limit="bf16" if dtype == "bfloat16" else "fp32")


def _ours(backend: str, dtype: str) -> Way:
    load = partial(peers.polyrank, backend=backend, dtype=dtype)
    return Way(load=load, limit=dtype, converts=backend == "onnx")


OURS = {
    "polyrank torch bf16": _ours("torch", "bf16"),
    "polyrank onnx fp32": _ours("onnx", "fp32"),
    "polyrank onnx int8": _ours("onnx", "int8"),
}

USUAL = {
    "model card (transformers fp32)": Way(load=peers.card, limit="fp32"),
    "sentence-transformers torch fp32": _torch("float32"),
    "sentence-transformers torch bf16": _torch("bfloat16"),
    "sentence-transformers onnx fp32": _onnx("onnx"),
    "sentence-transformers onnx int8": _onnx("onnx-int8-optimum"),
    "sentence-transformers openvino fp32": _openvino("openvino", "fp32", "f32"),
    "sentence-transformers openvino, its choice": _openvino("openvino", "bf16"),
    "sentence-transformers openvino int8": _openvino("openvino-int8", "int8"),
    "onnxruntime quantize_dynamic": Way(
        load=partial(peers.onnxruntime, export="onnx-int8"), limit="int8", export="onnx-int8"
    ),
    **OURS,
}

# Padding 15 short documents to 4,096 tokens: ONNX Runtime and OpenVINO would hold products of
# attention of 16 x 12 x 4,096 x 4,096 x 4 bytes = 13 GB, several of them, so they go one by one.
SKEWED = {
    "transformers fp32, one by one": Way(
        load=partial(peers.transformers, dtype="float32", size=1), limit="fp32"
    ),
    "sentence-transformers torch bf16": _torch("bfloat16"),
    "sentence-transformers torch bf16, one by one": _torch("bfloat16", 1),
    "sentence-transformers onnx int8, one by one": _onnx("onnx-int8-optimum", 1),
    "sentence-transformers openvino int8, one by one": _openvino("openvino-int8", "int8", size=1),
    **OURS,
}


@dataclass(frozen=True, kw_only=True)
class Workload:
    """What is scored, by whom, and how often."""

    lengths: Callable[[int], list[int]]
    pairs: int
    ways: dict[str, Way]
    max_length: int = 512
    repeats: int = 1
    unit: str = "s"


WORKLOADS = {
    "mixed": Workload(lengths=workload.lengths, pairs=64, ways=USUAL),
    "skewed": Workload(
        lengths=workload.skewed_lengths, pairs=64, ways=SKEWED, max_length=8192
    ),
    "latency": Workload(
        lengths=workload.short_lengths, pairs=8, ways=USUAL, repeats=20, unit="ms"
    ),
}  # fmt: skip


def main() -> None:
    args = _arguments()
    chosen = WORKLOADS[args.workload]
    usual = "polyrank-306m" if args.layers == workload.LAYERS else f"polyrank-{args.layers}-layers"
    folder = args.folder or Path(tempfile.gettempdir()) / usual
    if args.contender:
        load = partial(chosen.ways[args.contender].load, str(folder), max_length=chosen.max_length)
        return turns.serve(load, workload.peak_rss_gb)
    ways = _chosen(chosen, args.only)
    exports.prepare(folder, args.layers, [w.export for w in ways.values() if w.export])
    lengths = chosen.lengths(args.pairs or chosen.pairs)
    gflop = workload.gflop(lengths, args.layers)
    rows, limits_gops = _race(chosen, ways, folder, workload.text_pairs(lengths), args)
    for row in rows:
        row["limit"] = ways[row["contender"]].limit
        row["gops"] = gflop / row["median_s"]
        row["share"] = statistics.median(
            gflop / seconds / rates[row["limit"]]
            for seconds, rates in zip(row["all_s"], limits_gops, strict=True)
        )
    print(f"{args.workload}: {len(lengths)} pairs, {sum(lengths)} tokens, {gflop:.0f} GFLOP")
    print(f"limits, median and best of the rounds: {_brief(limits_gops)}\n")
    print(turns.table(rows, sum(lengths), unit=chosen.unit))
    if args.output:
        about = {"lengths": lengths, "gflop": gflop, "limits_gops": limits_gops, **_about()}
        args.output.parent.mkdir(parents=True, exist_ok=True)
        args.output.write_text(json.dumps({**about, "rows": rows}, indent=1) + "\n")


def _chosen(chosen: Workload, only: list[str] | None) -> dict[str, Way]:
    """The reference, which is the first, and those with one of `only` in their names."""
    first = next(iter(chosen.ways))
    return {
        name: way
        for name, way in chosen.ways.items()
        if only is None or name == first or any(part in name for part in only)
    }


def _race(
    chosen: Workload,
    ways: dict[str, Way],
    folder: Path,
    pairs: list[tuple[str, str]],
    args: argparse.Namespace,
) -> tuple[list[dict[str, Any]], list[dict[str, float]]]:
    """Rows of the race, and the machine's limits before each of its rounds."""
    options = ["--workload", args.workload, "--layers", str(args.layers)]
    contenders = [turns.Contender(Path(__file__), name, folder, options) for name in ways]
    found: list[dict[str, float]] = []
    try:
        for contender in contenders:
            if ways[contender.name].converts:
                contender.start()
                contender.end()
        rows = turns.race(
            contenders,
            pairs,
            args.rounds,
            repeats=args.repeats or chosen.repeats,
            lean=args.lean,
            each_round=lambda: found.append(_limits()),
        )
    finally:
        for contender in contenders:
            contender.end()
    return rows, found


def _limits() -> dict[str, float]:
    run = subprocess.run([sys.executable, limits.__file__], stdout=subprocess.PIPE, check=True)
    rates: dict[str, float] = json.loads(run.stdout)
    return rates


def _brief(rounds: list[dict[str, float]]) -> str:
    rates = {name: [r[name] for r in rounds] for name in rounds[0]}
    return ", ".join(
        f"{name} {statistics.median(r):.0f} and {max(r):.0f} GOP/s" for name, r in rates.items()
    )


def _about() -> dict[str, Any]:
    packages = ["polyrank", "torch", "transformers", "sentence-transformers", "onnxruntime"]
    return {
        "command": " ".join(sys.argv),
        "machine": platform.machine(),
        "python": platform.python_version(),
        "versions": {p: version(p) for p in [*packages, "openvino", "nncf"]},
    }


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--workload", choices=WORKLOADS, default="mixed")
    parser.add_argument("--contender", help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help="checkpoint, written where it is missing")
    parser.add_argument("--layers", type=int, default=workload.LAYERS)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--pairs", type=int)
    parser.add_argument("--repeats", type=int, help="runs in a turn, of which the median counts")
    parser.add_argument(
        "--lean",
        action="store_true",
        help="load contenders anew for each turn: all at once take 20 GB (mixed)",
    )
    parser.add_argument("--only", nargs="+", help="these parts of contenders' names")
    parser.add_argument("--output", type=Path)
    return parser.parse_args()


if __name__ == "__main__":
    main()
