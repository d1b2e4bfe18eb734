"""From rows to a sentence: which setting to use, and how. Pure."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass

from polyrank.bench.values import Agreement, Row, Setting

__all__ = ["LEAST_OVERLAP", "LEAST_TAU", "Recommendation", "code_of", "flags_of", "recommend"]

LEAST_TAU = 0.98
"""Kendall tau with fp32 from which an order counts as the same."""
LEAST_OVERLAP = 0.95
"""Top-10 overlap with fp32 from which it does too: what people see is the top."""
_WORTH_IT = 1.05  # times fp32's speed; less may be chance, and fp32 is exact


@dataclass(frozen=True, kw_only=True, slots=True)
class Recommendation:
    """What to use."""

    setting: Setting | None
    """None: nothing ran."""
    judged: bool
    """Whether the setting's order was found to agree with fp32 on the user's own text."""
    text: str
    """One or two sentences for people."""


def recommend(rows: Sequence[Row], *, synthetic: bool, model: str | None) -> Recommendation:
    """Recommend the fastest setting whose order agrees with fp32.

    It agrees from a tau of `LEAST_TAU` or a top-10 overlap of `LEAST_OVERLAP` on. On synthetic
    text, or where no order can be compared, the fastest is named and not judged.
    """
    ran = sorted((r for r in rows if r.speed), key=_pairs_per_second, reverse=True)
    if not ran:
        return Recommendation(
            setting=None, judged=False, text="nothing to recommend: no setting ran"
        )
    reference = next((r for r in ran if r.reference), None)
    why_not = _why_not_judged(ran, reference, synthetic)
    candidates = ran if why_not else [r for r in ran if _agrees(r)]
    best = candidates[0]
    if reference is not None and _pairs_per_second(best) < _WORTH_IT * _pairs_per_second(reference):
        best = reference
    if best is reference:
        text = _of_the_reference(best, ran)
    elif best.setting.dtype == "fp32":
        text = f"{best.setting} is the fastest{_ratio(best, reference)}, in fp32 as well."
    elif why_not:
        text = (
            f"{best.setting} is the fastest{_ratio(best, reference)}; whether it orders documents "
            f"as fp32 does is not judged: {why_not}."
        )
    else:
        text = (
            f"{best.setting} is the fastest that orders documents as fp32 does"
            f"{_ratio(best, reference)}, {agreement_text(best.agreement)}."
        )
    judged = why_not is None or best.setting.dtype == "fp32"
    use = f"Use {code_of(best.setting, model)}, or {flags_of(best.setting)} on the command line."
    return Recommendation(setting=best.setting, judged=judged, text=f"{text} {use}")


def code_of(setting: Setting, model: str | None) -> str:
    """The line of Python that opens a model in a setting."""
    options = {"backend": setting.backend, "dtype": setting.dtype}
    if setting.backend == "torch":
        options["device"] = setting.device
    given = [] if model is None else [json.dumps(model, ensure_ascii=False)]
    given += [f'{name}="{value}"' for name, value in options.items()]
    return f"Reranker({', '.join(given)})"


def flags_of(setting: Setting) -> str:
    """The options of the command line that ask for a setting."""
    device = f" --device {setting.device}" if setting.backend == "torch" else ""
    return f"--backend {setting.backend}{device} --dtype {setting.dtype}"


def agreement_text(agreement: Agreement | None) -> str:
    """The numbers of an agreement that there are."""
    if agreement is None:
        return "not compared"
    told = {"Kendall tau": agreement.tau, "top-10 overlap": agreement.top_10_overlap}
    return ", ".join(f"{name} {value:.3f}" for name, value in told.items() if value is not None)


def _pairs_per_second(row: Row) -> float:
    return row.speed.pairs_per_second if row.speed else 0.0


def _agrees(row: Row) -> bool:
    if row.setting.dtype == "fp32":  # what the others are judged by
        return True
    if row.agreement is None:
        return False
    tau, overlap = row.agreement.tau, row.agreement.top_10_overlap
    return (tau or 0.0) >= LEAST_TAU or (overlap or 0.0) >= LEAST_OVERLAP


def _why_not_judged(ran: Sequence[Row], reference: Row | None, synthetic: bool) -> str | None:
    if reference is None:
        return "no fp32 setting ran that it could be compared with"
    if synthetic:
        return "random tokens say nothing of that, so give pairs of your own with --pairs FILE"
    if all(r.agreement is None or r.agreement.tau is None for r in ran if r is not reference):
        return "no query has two documents with different logits, so give more documents a query"
    return None


def _of_the_reference(best: Row, ran: Sequence[Row]) -> str:
    faster = [r for r in ran if _pairs_per_second(r) >= _WORTH_IT * _pairs_per_second(best)]
    if not faster:
        others = "no other setting ran" if len(ran) == 1 else "no setting is faster"
        return f"{best.setting}: {others}, and fp32 is exact."
    named = "; ".join(f"{r.setting} ({agreement_text(r.agreement)})" for r in faster)
    return f"{best.setting}: what is faster orders documents too differently on your text: {named}."


def _ratio(best: Row, reference: Row | None) -> str:
    if reference is None:
        return ""
    times = _pairs_per_second(best) / _pairs_per_second(reference)
    return f", {times:.2f} times the pairs/s of {reference.setting}"
