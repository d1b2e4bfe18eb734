"""The network in PyTorch. With `training`, the only room that knows torch."""

from polyrank.torch_backend.encoder import CrossEncoder
from polyrank.torch_backend.runner import TorchBackend

__all__ = ["CrossEncoder", "TorchBackend"]
