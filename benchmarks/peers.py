"""Ways to score pairs: transformers, sentence-transformers, ONNX Runtime, OpenVINO and polyrank.

Each takes a checkpoint's folder and gives a function from pairs of texts to logits. Knows no clock
and no process. What needs an export finds it where `exports.py` put it.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

import exports
import turns

Pairs = list[tuple[str, str]]
Run = Callable[[dict[str, Any]], Any]


def card(
    folder: str, dtype: str = "float32", *, device: str = "cpu", max_length: int = 512
) -> turns.Score:
    """The model card's snippet: transformers, batches of 32 as they come, padded."""
    return transformers(folder, dtype, device=device, sort=False, size=32, max_length=max_length)


def transformers(
    folder: str,
    dtype: str,
    *,
    device: str = "cpu",
    sort: bool = True,
    size: int = 16,
    max_length: int = 512,
) -> turns.Score:
    """transformers' sequence classifier on padded batches of `size`."""
    import torch
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForSequenceClassification.from_pretrained(folder, dtype=getattr(torch, dtype))
    model.eval().to(device)

    def run(inputs: dict[str, Any]) -> Any:
        inputs = {name: value.to(device) for name, value in inputs.items()}
        with torch.no_grad():
            return model(**inputs, return_dict=True).logits.float().cpu().numpy()

    return _batched(tokenizer, run, "pt", sort=sort, size=size, max_length=max_length)


def onnxruntime(folder: str, export: str, *, size: int = 16, max_length: int = 512) -> turns.Score:
    """An export in ONNX Runtime as it is, on sorted padded batches of `size`."""
    from transformers import AutoTokenizer

    run = _onnx_session(exports.path(folder, export))
    tokenizer = AutoTokenizer.from_pretrained(folder)
    return _batched(tokenizer, run, "np", sort=True, size=size, max_length=max_length)


def _batched(
    tokenizer: Any, run: Run, tensors: str, *, sort: bool, size: int, max_length: int
) -> turns.Score:
    def score(pairs: Pairs) -> list[float]:
        order = sorted(range(len(pairs)), key=lambda i: len(pairs[i][1]) if sort else 0)
        logits = [0.0] * len(pairs)
        for start in range(0, len(order), size):
            part = order[start : start + size]
            inputs = tokenizer(
                [list(pairs[i]) for i in part],
                padding=True,
                truncation=True,
                return_tensors=tensors,
                max_length=max_length,
            )
            for i, logit in zip(part, np.ravel(run(inputs)), strict=True):
                logits[i] = float(logit)
        return logits

    return score


def sentence_transformers(
    folder: str,
    dtype: str = "float32",
    *,
    device: str = "cpu",
    size: int = 16,
    max_length: int = 512,
) -> turns.Score:
    """CrossEncoder.predict on PyTorch, which sorts by length and pads batches of `size`."""
    import torch

    options = {"torch_dtype": getattr(torch, dtype)}
    return _cross_encoder(folder, size, max_length, device=device, model_kwargs=options)


def sentence_transformers_onnx(
    folder: str, export: str, *, size: int = 16, max_length: int = 512
) -> turns.Score:
    """CrossEncoder(backend="onnx").predict, with an export of ours.

    sentence-transformers leaves loading and exporting to optimum. No release of it does this
    architecture: optimum-onnx 0.1 wants transformers < 4.58, which does not know `gte`, and does
    not import beside a transformers that does. So the loader alone is replaced; tokenising,
    sorting, padding and the loop over batches are sentence-transformers' own, and the session is
    opened with default options, as optimum opens it.
    """
    from sentence_transformers.base.modules import transformer

    run = _onnx_session(exports.path(folder, export))
    transformer.load_onnx_model = lambda config, **_: _Exported(config, run)
    return _cross_encoder(folder, size, max_length, backend="onnx")


def sentence_transformers_openvino(
    folder: str,
    export: str,
    *,
    precision: str | None = None,
    size: int = 16,
    max_length: int = 512,
) -> turns.Score:
    """CrossEncoder(backend="openvino").predict, with an export of ours.

    For the reason that `sentence_transformers_onnx` has: optimum-intel 2.2 wants transformers <
    5.6 and does not import beside 5.23. `precision`: "f32", or None for what OpenVINO chooses by
    itself, which is bf16 on CPUs that have it.
    """
    import openvino
    from sentence_transformers.base.modules import transformer

    options = {"PERFORMANCE_HINT": "LATENCY"}  # as optimum-intel sets it
    options |= {"INFERENCE_PRECISION_HINT": precision} if precision else {}
    path = exports.path(folder, export)
    compiled = openvino.Core().compile_model(path, "CPU", options)
    request = compiled.create_infer_request()

    def run(inputs: dict[str, Any]) -> Any:
        return request.infer(inputs, share_inputs=True)["logits"]

    transformer.load_openvino_model = lambda config, **_: _Exported(config, run)
    return _cross_encoder(folder, size, max_length, backend="openvino")


class _Exported:
    """What sentence-transformers needs of optimum's ORTModel and OVModel."""

    def __init__(self, config: Any, run: Run) -> None:
        import torch

        self.config, self.device, self.run = config, torch.device("cpu"), run

    def forward(
        self, input_ids: Any, attention_mask: Any, return_dict: bool = True
    ) -> dict[str, Any]:
        import torch

        inputs = {"input_ids": input_ids.numpy(), "attention_mask": attention_mask.numpy()}
        return {"logits": torch.from_numpy(self.run(inputs))}


def _onnx_session(path: Path) -> Run:
    import onnxruntime as ort

    session = ort.InferenceSession(path, providers=["CPUExecutionProvider"])
    names = [i.name for i in session.get_inputs()]
    return lambda inputs: session.run(None, {n: inputs[n] for n in names})[0]


def _cross_encoder(
    folder: str, size: int, max_length: int, *, device: str = "cpu", **options: Any
) -> turns.Score:
    import torch
    from sentence_transformers import CrossEncoder

    model = CrossEncoder(
        folder,
        max_length=max_length,
        device=device,
        activation_fn=torch.nn.Identity(),
        **options,
    )
    return lambda pairs: model.predict(pairs, batch_size=size, show_progress_bar=False)


def polyrank(
    folder: str, backend: str, dtype: str, *, device: str = "cpu", max_length: int = 512
) -> turns.Score:
    """Our packed encoder."""
    from polyrank import Reranker

    reranker = Reranker(folder, max_length=max_length, backend=backend, device=device, dtype=dtype)
    return reranker.logits
