"""Relevance by answer strings, for collections that judge no documents (MKQA). No file."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence

from polyrank.evaluation.values import Collection, Qrels, Run

__all__ = ["has_answer", "judge_by_answers"]

_TOKENS = re.compile(r"[^\W_]+|[^\w\s]")


def judge_by_answers(collection: Collection, run: Run) -> Qrels:
    """Grade 1 for every document of the run that holds an answer of its query.

    So recall@k is not known, and success@k is what papers report as the recall of such sets.
    """
    judged: dict[str, dict[str, int]] = {}
    for query, answers in collection.answers.items():
        wanted = [_tokens(a) for a in answers]
        grades = {}
        for document in run.get(query, {}):
            row = collection.documents.get(document)
            if row is not None:
                text = _tokens(f"{row.get('title') or ''} {row['text']}")
                grades[document] = int(any(_within(a, text) for a in wanted))
        judged[query] = grades
    return judged


def has_answer(text: str, answers: Sequence[str]) -> bool:
    """Whether the tokens of an answer follow each other in a text, whatever the case.

    The rule of open-domain question answering (Chen et al. 2017): NFD, punctuation a token.
    """
    tokens = _tokens(text)
    return any(_within(_tokens(a), tokens) for a in answers)


def _tokens(text: str) -> list[str]:
    return _TOKENS.findall(unicodedata.normalize("NFD", text).lower())


def _within(part: list[str], whole: list[str]) -> bool:
    n = len(part)
    return n > 0 and any(whole[i : i + n] == part for i in range(len(whole) - n + 1))
