"""Texts cut to fewer tokens than a pair may have, as some formats let clients ask. No tokenizer."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from polyrank.values import Encoding

__all__ = ["cut_text", "suffix_length"]


def suffix_length(empty: Encoding, full: Encoding) -> int:
    """Special tokens after a text, from two encodings of one query: without a text, and with one.

    They are alike up to where the text begins: there one has a special token, the other a word.
    """
    ids = full.ids[: len(empty)]
    different = np.flatnonzero(ids != empty.ids)
    return len(empty) - int(different[0])


def cut_text(encoding: Encoding, empty: Encoding, suffix: int, max_text_tokens: int) -> Encoding:
    """The encoding with at most `max_text_tokens` of its text; `empty` has its query and no text.

    A pair whose query was cut is left as it is: its text is as short as the query could make it.
    """
    text = len(encoding) - len(empty)
    if encoding.query_cut or text <= max_text_tokens:
        return encoding
    end = len(encoding) - suffix
    kept = end - (text - max_text_tokens)
    ids = np.concatenate([encoding.ids[:kept], encoding.ids[end:]])
    return replace(
        encoding,
        ids=ids,
        type_split=min(encoding.type_split, len(ids)),
        text_cut=encoding.text_cut + text - max_text_tokens,
    )
