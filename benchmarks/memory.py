"""Peak resident memory of the official shape with one pair of 8,192 tokens.

python benchmarks/memory.py --dtype int8
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path

import workload


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    usual = Path(tempfile.gettempdir()) / "polyrank-306m"
    parser.add_argument("--folder", type=Path, default=usual)
    parser.add_argument("--backend", default="auto")
    parser.add_argument("--dtype", default="fp32")
    parser.add_argument("--tokens", type=int, default=8192)
    args = parser.parse_args()
    if not (args.folder / "tokenizer.json").exists():
        raise SystemExit(f"run torch_peers.py --folder {args.folder} first: it writes the weights")
    from polyrank import Reranker

    reranker = Reranker(args.folder, device="cpu", backend=args.backend, dtype=args.dtype)
    loaded = workload.peak_rss_gb()
    pairs = workload.text_pairs([args.tokens])
    start = time.perf_counter()
    reranker.logits(pairs)
    seconds = time.perf_counter() - start
    print(
        f"{reranker.backend_name}: {args.tokens} tokens in {seconds:.1f} s, "
        f"peak {loaded:.2f} GB after loading, {workload.peak_rss_gb():.2f} GB in all"
    )


if __name__ == "__main__":
    main()
