"""A network on a device in a dtype, as a Backend. Knows no text and no queue."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch

from polyrank.checkpoint import Checkpoint
from polyrank.cpus import thread_count
from polyrank.errors import BackendError
from polyrank.torch_backend.attention import Layout
from polyrank.torch_backend.encoder import CrossEncoder
from polyrank.values import Batch

__all__ = ["TorchBackend", "choose_device", "choose_dtype", "limit_threads"]

_DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


class TorchBackend:
    """Runs a checkpoint with PyTorch."""

    def __init__(
        self,
        checkpoint: Checkpoint,
        *,
        device: str = "auto",
        dtype: str = "auto",
        threads: int | None = None,
        compile: bool = False,
    ) -> None:
        self._device = choose_device(device)
        chosen = choose_dtype(dtype, self._device)
        self._dtype = _DTYPES[chosen]
        self.name = f"torch {self._device.type} {chosen}"
        self.parallel = 1  # PyTorch's threads are one pool
        self.max_batch_tokens = 2048 if self._device.type == "cpu" else 16384
        if self._device.type == "cpu":
            limit_threads(threads)
        model = CrossEncoder.from_checkpoint(
            checkpoint,
            device=self._device,
            dtype=self._dtype,
            frozen=True,
        ).eval()
        self._model = torch.compile(model, dynamic=True) if compile else model

    def forward(self, batch: Batch, *, all_threads: bool = True) -> npt.NDArray[np.float32]:
        """[S] raw logits of a packed batch, on all threads in any case."""
        ids_T = torch.from_numpy(batch.ids).to(self._device, torch.long)
        types_T = torch.from_numpy(batch.type_ids).to(self._device, torch.long)
        try:
            with torch.inference_mode():
                at = Layout.of(batch.cu_lengths, self._device, self._dtype)
                logits_S: npt.NDArray[np.float32] = self._model(ids_T, types_T, at).cpu().numpy()
        except torch.OutOfMemoryError as error:
            raise BackendError(
                f"{self.name} ran out of memory on a batch of {len(batch.ids)} tokens in "
                f"{len(batch.cu_lengths) - 1} pairs (longest {batch.lengths.max()}); lower "
                "max_batch_tokens or max_length"
            ) from error
        return logits_S

    def close(self) -> None:
        """Drop the network; its memory goes back with it."""
        del self._model
        if self._device.type == "cuda":
            torch.cuda.empty_cache()


def limit_threads(threads: int | None = None) -> None:
    """Use so many CPU threads; None: no more than affinity and the container allow.

    Raises InputError for a POLYRANK_THREADS that is no number.
    """
    limit = thread_count(threads)
    if threads is not None or limit < torch.get_num_threads():
        torch.set_num_threads(limit)


def choose_device(device: str) -> torch.device:
    """The device to run on: CUDA where there is one, then the CPU, unless named.

    Raises BackendError for a device that this machine or this PyTorch lacks.
    """
    if device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        chosen = torch.device(device)
    except (RuntimeError, TypeError) as error:
        raise BackendError(f'expected device "auto", "cpu" or "cuda", got {device!r}') from error
    if chosen.type == "cuda":
        count = torch.cuda.device_count()
        if (chosen.index or 0) >= count:
            raise BackendError(
                f"expected one of {count} CUDA devices, got {device!r}; this PyTorch is "
                f'{torch.__version__}; use device="cpu" or install a CUDA build'
            )
    elif chosen.type == "mps" and not torch.backends.mps.is_available():
        raise BackendError(f'expected an Apple GPU for device {device!r}; use device="cpu"')
    elif chosen.type not in ("cpu", "mps"):
        raise BackendError(f'expected device "auto", "cpu", "cuda" or "mps", got {device!r}')
    return chosen


def choose_dtype(dtype: str, device: torch.device) -> str:
    """fp32 on CPUs; on GPUs fp16, which is what the official weights are stored in."""
    if dtype == "auto":
        return "fp32" if device.type == "cpu" else "fp16"
    if dtype not in _DTYPES:
        raise BackendError(
            f"expected dtype auto, {', '.join(_DTYPES)} for the torch backend, got {dtype!r}"
        )
    if dtype == "fp16" and device.type == "cpu":
        raise BackendError("expected fp32 or bf16 on a CPU, got fp16, which is slow there")
    return dtype
