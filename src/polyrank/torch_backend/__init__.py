"""The network in PyTorch. With `training`, the only room that knows torch."""

import os

# Large pages for tensors of 2 MB and more, where Linux has them on request: a tensor that is made
# anew is pages to fault and to clear. PyTorch looks when it first allocates.
os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")

from polyrank.torch_backend.encoder import CrossEncoder
from polyrank.torch_backend.runner import TorchBackend

__all__ = ["CrossEncoder", "TorchBackend"]
