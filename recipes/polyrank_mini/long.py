"""Long groups: each text of a group, somewhere among other passages of its source.

    python recipes/polyrank_mini/long.py --groups groups --tokenizer seed/e5-small

Reads qa.jsonl, writes long.jsonl. A group's texts are of about one length, between 600 and 7,800
tokens, so that length says nothing; where the passage stands is drawn. Passages of the group
itself are in no filling.
"""

from __future__ import annotations

import argparse
import math
import random
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

from polyrank.tokenization import PairTokenizer
from polyrank.training.groups import Group, parse_group, write_groups

TEXTS = 4
FEWEST, MOST = 600, 7800  # tokens of a text
PER_SOURCE = 80  # groups of one source and language


def read(path: Path) -> dict[tuple[str, str], list[Group]]:
    """(source, language) -> its groups."""
    found = defaultdict(list)
    with path.open(encoding="utf-8") as file:
        for number, line in enumerate(file, 1):
            one = parse_group(line, f"{path}:{number}")
            found[one.source, one.lang].append(one)
    return found


def lengthened(
    groups: list[Group], tokenizer: PairTokenizer, rng: random.Random
) -> Iterator[Group]:
    """A sample of one source's groups, their texts among others of the source."""
    pool = list(dict.fromkeys(text for g in groups for text in g.texts))
    if len(pool) < 100:  # too few for a filling that differs from text to text
        return
    pool = rng.sample(pool, min(len(pool), 3000))
    length = dict(zip(pool, map(len, tokenizer.tokenize(pool)), strict=True))
    for one in rng.sample(groups, min(len(groups), PER_SOURCE)):
        chosen = [one.texts[0], *rng.sample(one.texts[1:], min(TEXTS, len(one.texts)) - 1)]
        target = math.exp(rng.uniform(math.log(FEWEST), math.log(MOST)))
        texts = []
        for text in chosen:
            left = target - (length.get(text) or len(tokenizer.tokenize([text])[0]))
            parts = []
            while left > 0:
                part = rng.choice(pool)
                if part in one.texts:
                    continue
                left -= length[part]
                if left > 0:
                    parts.append(part)
            parts.insert(rng.randint(0, len(parts)), text)
            texts.append("\n".join(parts))
        if len(set(texts)) == len(texts):
            yield Group(query=one.query, texts=tuple(texts), lang=one.lang, source=one.source)


def main() -> None:
    """Read the arguments and write the file."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--groups", type=Path, required=True)
    parser.add_argument("--tokenizer", type=Path, required=True, help="folder with tokenizer.json")
    parser.add_argument("--seed", type=int, default=17)
    args = parser.parse_args()
    rng = random.Random(args.seed)
    tokenizer = PairTokenizer.from_folder(args.tokenizer)
    made = (
        one
        for _, groups in sorted(read(args.groups / "qa.jsonl").items())
        for one in lengthened(groups, tokenizer, rng)
    )
    print(f"long: {write_groups(args.groups / 'long.jsonl', made)} groups")


if __name__ == "__main__":
    main()
