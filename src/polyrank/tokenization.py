"""(query, text) -> Encoding: template, truncation policy, report of what was cut.

The only door to `tokenizers`. Knows no network and no batch.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from numbers import Integral
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import numpy.typing as npt
from tokenizers import Tokenizer
from tokenizers.normalizers import BertNormalizer, Lowercase
from tokenizers.normalizers import Sequence as Normalizers
from tokenizers.pre_tokenizers import ByteLevel

from polyrank.errors import CheckpointError, InputError, TooLongError
from polyrank.memory import give_back
from polyrank.stated import Stated, pointer_hint, read_stated
from polyrank.values import Document, Encoding

__all__ = ["OnOverflow", "PairTokenizer", "Template", "Truncation", "document_text"]

OnOverflow = Literal["truncate", "error", "windows"]
_LARGE = 1 << 20  # characters
_OVERLAP = 4  # windows share one part in so many
Ids = npt.NDArray[np.int32]


@dataclass(frozen=True, slots=True)
class Template:
    """Special tokens around a pair: `prefix query middle text suffix`."""

    prefix: tuple[int, ...]
    middle: tuple[int, ...]
    suffix: tuple[int, ...]
    text_is_type_1: bool
    """Whether the text and the suffix have token type 1 (BERT); else all types are 0."""

    def __len__(self) -> int:
        return len(self.prefix) + len(self.middle) + len(self.suffix)


@dataclass(frozen=True, kw_only=True, slots=True)
class Truncation:
    """What happens to a pair over the limit. All counts are in tokens."""

    max_length: int
    """Limit of a pair, special tokens included."""
    max_query_tokens: int | None = None
    """What a query keeps whatever the text's length; None: half of `max_length`."""
    max_text_tokens: int | None = None
    """What is read of a text, however much room there is; None: all that fits."""
    window: int | None = None
    """Of a longer pair, the text is read in overlapping parts, each with the query about as long;
    None: `max_length`."""
    on_overflow: OnOverflow = "truncate"

    def __post_init__(self) -> None:
        if self.on_overflow not in get_args(OnOverflow):
            raise InputError(
                'expected on_overflow to be "truncate", "error" or "windows", got '
                f"{self.on_overflow!r}"
            )
        for name in ("max_query_tokens", "max_text_tokens", "window"):
            given = getattr(self, name)
            if given is not None and (not isinstance(given, Integral) or given < 1):
                raise InputError(f"expected {name} as a positive integer, got {given!r}")

    def fit(self, query: int, text: int, special: int) -> tuple[int, int]:
        """Tokens of query and text that are kept; both whole where they fit together, but for
        what `max_text_tokens` leaves out.

        Otherwise the text is cut, down to what the query leaves; a query longer than
        `max_query_tokens` is cut too, but never shorter than the room beside the text.
        """
        if self.max_text_tokens is not None:
            text = min(text, self.max_text_tokens)
        room = self.max_length - special
        if query + text <= room:
            return query, text
        guaranteed = self.max_query_tokens
        guaranteed = self.max_length // 2 if guaranteed is None else guaranteed
        kept_query = min(query, max(min(guaranteed, room), room - text))
        return kept_query, min(text, room - kept_query)

    def room(self, query: int, special: int) -> int:
        """Tokens of a text that are read at once, beside what is kept of the query: at least half
        of the window, so that long queries leave texts whole."""
        window = self.window or self.max_length
        return min(max(window - special - query, window // 2), self.max_length - special - query)


class PairTokenizer:
    """A checkpoint's own tokenizer and pair template. Safe to use from many threads."""

    def __init__(
        self,
        tokenizer: Tokenizer,
        stated: Stated,
        *,
        where: str,
    ) -> None:
        tokenizer.no_padding()
        tokenizer.no_truncation()
        _overrule(tokenizer, stated.tokenizer)
        if stated.lower_case:  # a normalizer, so that special tokens in a text stay what they are
            own = [tokenizer.normalizer] if tokenizer.normalizer is not None else []
            tokenizer.normalizer = Normalizers([Lowercase(), *own])
        self._tokenizer = tokenizer
        self.stated = stated
        """How the files beside it say that it is used."""
        template = _find_template(tokenizer, where)
        typed = template.text_is_type_1 and stated.token_types
        self.template = replace(template, text_is_type_1=typed)
        self.least = len(template) + 2
        """Tokens of the shortest pair that has a query and a text."""
        if stated.max_length is not None and stated.max_length < self.least:
            raise CheckpointError(
                f"expected a limit of at least {self.least} tokens for a pair beside "
                f"{where}, got {stated.max_length}"
            )
        self.vocab_size = tokenizer.get_vocab_size(with_added_tokens=True)
        """Largest id that it may give, and one."""
        last, beyond = (tokenizer.id_to_token(self.vocab_size + i) for i in (-1, 0))
        if last is None or beyond is not None:  # ids are left out
            self.vocab_size = max(tokenizer.get_vocab(with_added_tokens=True).values()) + 1

    @classmethod
    def from_folder(cls, folder: str | Path) -> PairTokenizer:
        """Read tokenizer.json. Raises CheckpointError where it is missing or has no template."""
        folder = Path(folder)
        path = folder / "tokenizer.json"
        if not path.exists():
            raise CheckpointError(
                f"expected a tokenizer.json in {folder}; with transformers installed, "
                "AutoTokenizer.from_pretrained(MODEL).save_pretrained(FOLDER) writes one: put the "
                "model's other files there as well, and give that folder"
            )
        try:
            # Not from_file: it takes a path in UTF-8 only.
            tokenizer = Tokenizer.from_buffer(path.read_bytes())
        except Exception as error:
            hint = pointer_hint(path)
            raise CheckpointError(f"expected a tokenizer in {path}: {error}{hint}") from error
        return cls(tokenizer, read_stated(folder), where=str(path))

    def limit_of(self, max_length: int | None, most: int) -> int:
        """The limit of a pair in tokens: what is asked for, else what the files state, up to
        `most`. Raises InputError where it is out of range."""
        if max_length is None:
            return min(most, self.stated.max_length or most)
        return self._in_range("max_length", max_length, most)

    def window_of(self, window: int | None, limit: int) -> int:
        """What is read at once of pairs up to a limit; likewise."""
        if window is None:
            return min(limit, self.stated.window or limit)
        return self._in_range("window", window, limit)

    def _in_range(self, name: str, given: int, most: int) -> int:
        if isinstance(given, bool) or not isinstance(given, Integral):
            raise InputError(f"expected {name} as an integer, got {given!r}")
        if not self.least <= given <= most:
            raise InputError(
                f"expected {name} from {self.least} to {most} tokens for this model, got {given}"
            )
        return int(given)

    def reads_like(self, other: PairTokenizer) -> bool:
        """Whether both make the same ids of every pair."""
        return (
            self.template == other.template
            and self.stated.prompt == other.stated.prompt
            and self._tokenizer.to_str() == other._tokenizer.to_str()
        )

    def token_id(self, token: str) -> int:
        """Id of one token of the vocabulary. Raises CheckpointError where there is none."""
        found = self._tokenizer.token_to_id(token)
        if found is None:
            raise CheckpointError(f"expected the token {token!r} in the vocabulary, found none")
        return int(found)

    def decode(self, ids: Ids) -> str:
        """Text of token ids, special tokens shown."""
        return str(self._tokenizer.decode(ids.tolist(), skip_special_tokens=False))

    def tokenize(self, texts: Sequence[str]) -> list[Ids]:
        """Token ids of each text, without special tokens; one batched call for all."""
        encoded = self._tokenizer.encode_batch_fast(list(texts), add_special_tokens=False)
        ids = [np.array(e.ids, np.int32) for e in encoded]
        if max(map(len, texts), default=0) > _LARGE:
            del encoded  # some 80 bytes a character, which no other call may need again
            give_back()
        return ids

    def assemble(
        self, query: Ids, text: Ids, truncation: Truncation, *, where: str = "pair"
    ) -> Encoding:
        """Put a tokenised pair into the template, cut to fit, in windows where it is long.

        Raises TooLongError where `truncation` forbids cutting, naming `where`.
        """
        t = self.template
        kept_query, kept_text = truncation.fit(len(query), len(text), len(t))
        given = len(query) + len(text) + len(t)
        if truncation.on_overflow == "error" and given > truncation.max_length:
            raise TooLongError(
                f"expected at most {truncation.max_length} tokens per pair, got {given}, "
                f"{len(query)} of them the query's, at "
                f'{where}; shorten it, raise max_length, or pass on_overflow="truncate"'
            )
        room = truncation.room(kept_query, len(t))
        read = text[: truncation.max_text_tokens]
        if truncation.on_overflow != "windows" or not room:
            read = read[:kept_text]
        starts = window_starts(len(read), room) if len(read) > room else [0]
        parts = [self._encoding(query[:kept_query], read[at : at + room]) for at in starts]
        return replace(
            parts[0],
            tokens_given=given,
            query_cut=len(query) - kept_query,
            text_cut=len(text) - len(read),
            limit_cut=len(query) - kept_query + len(text[: truncation.max_text_tokens]) - len(read),
            windows=tuple(parts) if len(parts) > 1 else (),
        )

    def _encoding(self, query: Ids, text: Ids) -> Encoding:
        """A pair that fits, in the template."""
        t = self.template
        ids = np.concatenate([t.prefix, query, t.middle, text, t.suffix], dtype=np.int32)
        split = len(t.prefix) + len(query) + len(t.middle)
        return Encoding(
            ids=ids,
            type_split=split if t.text_is_type_1 else len(ids),
            tokens_given=len(ids),
        )

    def encode(
        self,
        query: str,
        texts: Sequence[str],
        truncation: Truncation,
        *,
        where: str = "documents",
    ) -> list[Encoding]:
        """Encode one query with each text. `where` names the texts in errors."""
        check_text(query, "query")
        for i, text in enumerate(texts):
            check_text(text, f"{where}[{i}]")
        query_ids, *text_ids = self.tokenize([self.stated.prompt + query, *texts])
        return [
            self.assemble(query_ids, ids, truncation, where=f"{where}[{i}]")
            for i, ids in enumerate(text_ids)
        ]

    def encode_pairs(
        self, pairs: Sequence[tuple[str, str]], truncation: Truncation, *, where: str = "pairs"
    ) -> list[Encoding]:
        """Encode pairs; a text that occurs more than once is tokenised once."""
        position: dict[str, int] = {}
        for i, (query, text) in enumerate(pairs):
            check_text(query, f"the query of {where}[{i}]")
            check_text(text, f"the text of {where}[{i}]")
            position.setdefault(self.stated.prompt + query, len(position))
            position.setdefault(text, len(position))
        ids = self.tokenize(list(position))
        at = ((position[self.stated.prompt + q], position[t]) for q, t in pairs)
        return [
            self.assemble(ids[q], ids[t], truncation, where=f"{where}[{i}]")
            for i, (q, t) in enumerate(at)
        ]


def window_starts(length: int, size: int) -> list[int]:
    """Where windows of `size` begin that cover `length` > `size`, each over a quarter of the last.

    The last one ends with the text, and is as long as the others.
    """
    stride = max(1, size - size // _OVERLAP)
    return [*range(0, length - size, stride), length - size]


def document_text(document: Document, where: str) -> str:
    """What the network reads of a document: its title, where it has one, a space, its text."""
    if isinstance(document, str):
        return document
    if not isinstance(document, Mapping):
        raise InputError(
            f"expected a string or a mapping with `text`, got {type(document).__name__} at {where}"
        )
    if "text" not in document:
        keys = ", ".join(map(str, document)) or "none"
        raise InputError(f"expected the field `text` in {where}, found the fields {keys}")
    text, title = document["text"], document.get("title")
    check_text(text, f"{where}['text']")
    if title is None or title == "":
        return str(text)
    check_text(title, f"{where}['title']")
    return f"{title} {text}"


def check_text(text: object, where: str) -> None:
    """Raise InputError unless `text` is a string that can be written as UTF-8."""
    if not isinstance(text, str):
        raise InputError(f"expected a string, got {type(text).__name__} at {where}")
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        raise InputError(
            f"expected valid Unicode, got a lone surrogate {text[error.start]!r} at character "
            f"{error.start} of {where}; decode its source with errors='replace'"
        ) from None


def _find_template(tokenizer: Tokenizer, where: str) -> Template:
    """Ask the tokenizer to post-process a probe, and see what it puts around the two texts."""
    candidates = (tokenizer.id_to_token(i) or "" for i in range(tokenizer.get_vocab_size()))
    for probe in itertools.chain(["a"], candidates):
        alone = tokenizer.encode(probe, add_special_tokens=False)
        if alone.ids and not any(alone.special_tokens_mask):
            break
    else:
        raise CheckpointError(f"expected a vocabulary with at least one ordinary token in {where}")
    n = len(alone.ids)
    pair = tokenizer.encode(probe, probe)
    sides = pair.sequence_ids
    if sides.count(0) != n or sides.count(1) != n:
        raise CheckpointError(f"expected a tokenizer that keeps the text of a pair in {where}")
    first, second = sides.index(0), sides.index(1)
    end_first, end_second = first + n, second + n
    types = pair.type_ids
    template = Template(
        prefix=tuple(pair.ids[:first]),
        middle=tuple(pair.ids[end_first:second]),
        suffix=tuple(pair.ids[end_second:]),
        text_is_type_1=types[second] == 1,
    )
    if not template.prefix or not template.middle or first > second:
        raise CheckpointError(
            f"expected a pair template `<cls> query <sep> text <sep>` in the post_processor of "
            f"{where}, found {pair.ids} for a probe; this tokenizer is not a cross-encoder's"
        )
    return template


def _overrule(tokenizer: Tokenizer, stated: Mapping[str, Any]) -> None:
    """Let tokenizer_config.json have the last word where it has it in transformers."""
    normalizer, splitter = tokenizer.normalizer, tokenizer.pre_tokenizer
    if isinstance(normalizer, BertNormalizer):
        for key, name in (
            ("do_lower_case", "lowercase"),
            ("strip_accents", "strip_accents"),
            ("tokenize_chinese_chars", "handle_chinese_chars"),
        ):
            if isinstance(stated.get(key), bool):
                setattr(normalizer, name, stated[key])
        tokenizer.normalizer = normalizer
    if isinstance(splitter, ByteLevel) and isinstance(stated.get("add_prefix_space"), bool):
        splitter.add_prefix_space = stated["add_prefix_space"]
        tokenizer.pre_tokenizer = splitter
