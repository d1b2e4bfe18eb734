"""The official shape as ONNX files and OpenVINO models, written once, for `peers.py`.

    python benchmarks/exports.py FOLDER

writes FOLDER where it is missing, and beside it FOLDER-exports. transformers' network is traced:
optimum, which sentence-transformers exports with, does not know it (see `peers.py`).
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import workload

# What export_dynamic_quantized_onnx_model(model, "avx512_vnni", ...) of sentence-transformers asks
# optimum for: weights per channel, and the products inside attention quantised too.
_OPTIMUM = {
    "WeightSymmetric": True,
    "ActivationSymmetric": False,
    "EnableSubgraph": False,
    "ForceSymmetric": False,
    "MatMulConstBOnly": False,
}
_CALIBRATION_PAIRS = 300
"""As many as sentence-transformers takes; drawn from another seed than the race's."""


def path(folder: str | Path, name: str) -> Path:
    """Where an export of the checkpoint in `folder` lies."""
    folder = Path(folder)
    suffix = "xml" if name.startswith("openvino") else "onnx"
    return folder.with_name(f"{folder.name}-exports") / name / f"model.{suffix}"


def prepare(folder: Path, layers: int, names: list[str]) -> None:
    """Write the checkpoint and its exports, those that are missing, each in a process of its own.

    So that memory that an export took is not counted as the contenders'.
    """
    needed = {part for name in names for part in (name, name.partition("-")[0])}
    for name in ["checkpoint", *(n for n in WRITERS if n in needed)]:
        done = folder / "tokenizer.json" if name == "checkpoint" else path(folder, name)
        if not done.exists():
            print(f"writing {name} of {folder}", file=sys.stderr)
            command = [sys.executable, __file__, str(folder), "--layers", str(layers)]
            subprocess.run([*command, "--only", name], check=True)


def write_onnx(folder: Path, into: Path) -> None:
    """Trace transformers' fp32 network with the TorchScript exporter, which needs no onnxscript."""
    import torch

    inputs = ["input_ids", "attention_mask"]
    torch.onnx.export(
        _network(folder, "eager"),
        _example(),
        into / "model.onnx",
        input_names=inputs,
        output_names=["logits"],
        dynamic_axes={**{name: {0: "B", 1: "L"} for name in inputs}, "logits": {0: "B"}},
        opset_version=17,
        dynamo=False,
    )


def write_onnx_int8(folder: Path, into: Path) -> None:
    """ONNX Runtime's `quantize_dynamic` with its defaults."""
    from onnxruntime.quantization import quantize_dynamic

    quantize_dynamic(path(folder, "onnx"), into / "model.onnx")


def write_onnx_int8_optimum(folder: Path, into: Path) -> None:
    """The dynamic int8 that sentence-transformers exports for CPUs with AVX-512 VNNI."""
    from onnxruntime.quantization import QuantType, quantize_dynamic

    quantize_dynamic(
        path(folder, "onnx"),
        into / "model.onnx",
        per_channel=True,
        weight_type=QuantType.QInt8,
        extra_options=dict(_OPTIMUM),
    )


def write_openvino(folder: Path, into: Path) -> None:
    """Trace transformers' network; OpenVINO keeps its attention as one operator."""
    import openvino

    model = openvino.convert_model(_network(folder, "sdpa"), example_input=_example())
    model.outputs[0].tensor.set_names({"logits"})
    openvino.save_model(model, into / "model.xml", compress_to_fp16=False)


def write_openvino_int8(folder: Path, into: Path) -> None:
    """Static int8 with nncf, as sentence-transformers' export_static_quantized_openvino_model.

    Calibrated on pairs like those of the race, where sentence-transformers takes English
    sentences from the hub.
    """
    import nncf
    import openvino
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder)
    pairs = workload.text_pairs(workload.lengths(_CALIBRATION_PAIRS, seed=1), seed=1)
    rows = [dict(tokenizer([list(pair)], return_tensors="np")) for pair in pairs]
    names = ("input_ids", "attention_mask")
    quantized = nncf.quantize(
        openvino.Core().read_model(path(folder, "openvino")),
        nncf.Dataset(rows, lambda row: {name: row[name] for name in names}),
        subset_size=len(rows),
        model_type=nncf.ModelType.TRANSFORMER,
    )
    openvino.save_model(quantized, into / "model.xml", compress_to_fp16=False)


WRITERS: dict[str, Callable[[Path, Path], None]] = {
    "onnx": write_onnx,
    "onnx-int8": write_onnx_int8,
    "onnx-int8-optimum": write_onnx_int8_optimum,
    "openvino": write_openvino,
    "openvino-int8": write_openvino_int8,
}
"""By name; `onnx-int8` and alike read the file of `onnx`, and come after it."""


def _network(folder: Path, attention: str) -> Any:
    import torch
    from transformers import AutoModelForSequenceClassification

    model = AutoModelForSequenceClassification.from_pretrained(
        folder, dtype=torch.float32, attn_implementation=attention
    )

    class Logits(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.model = model

        def forward(self, input_ids: Any, attention_mask: Any) -> Any:
            return self.model(input_ids=input_ids, attention_mask=attention_mask).logits

    return Logits().eval()


def _example() -> tuple[Any, Any]:
    import torch

    mask = torch.ones(3, 17, dtype=torch.long)
    mask[1, 9:] = 0
    return torch.arange(4, 4 + mask.numel()).view(mask.shape), mask


def _write(folder: Path, name: str) -> None:
    """Write one export aside and move it into place, so that what is there is whole."""
    target = path(folder, name).parent
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target.parent) as aside:
        into = Path(aside) / name
        into.mkdir()
        WRITERS[name](folder, into)
        if not target.exists():  # another process may have been faster
            into.rename(target)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--layers", type=int, default=workload.LAYERS)
    parser.add_argument("--only", choices=("checkpoint", *WRITERS))
    args = parser.parse_args()
    if args.only is None:
        prepare(args.folder, args.layers, list(WRITERS))
    elif args.only == "checkpoint":
        workload.official_folder(args.folder, args.layers)
    else:
        _write(args.folder, args.only)


if __name__ == "__main__":
    main()
