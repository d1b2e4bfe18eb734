"""The whole network, for the gte, bert and xlm-roberta families, on packed tokens.

No padding token is ever computed in a linear layer, and the last layer computes keys and values
for all tokens but everything else for the first token of each pair alone: exact, since the head
reads nothing else.

T packed tokens, S pairs, D width, F intermediate width, H heads, K head width

Architecture: mGTE, arXiv 2407.19669, section 2.1 (post-LN encoder, RoPE, gated MLP); BERT,
arXiv 1810.04805; XLM-RoBERTa, arXiv 1911.02116.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import nn
from torch.nn import functional
from torch.utils.checkpoint import checkpoint as checkpoint_layer

from polyrank.checkpoint import Array, Checkpoint, canonical_shapes
from polyrank.config import EncoderConfig
from polyrank.torch_backend.attention import Layout, Rope, attend, rope_tables

__all__ = ["CrossEncoder"]

_MLP_ROWS = 1024


class CrossEncoder(nn.Module):
    """Encoder and head. Parameter names are the canonical ones of `polyrank.checkpoint`."""

    def __init__(self, config: EncoderConfig, *, with_head: bool = True) -> None:
        super().__init__()
        self.config = config
        self.embeddings = _Embeddings(config)
        self.layers = nn.ModuleList(_Layer(config) for _ in range(config.num_layers))
        self.head = _Head(config) if with_head else None
        self.checkpoint_layers = False
        """Recompute each layer in the backward pass instead of keeping its activations."""

    def forward(self, ids_T: torch.Tensor, types_T: torch.Tensor, at: Layout) -> torch.Tensor:
        """[S] raw logits, fp32."""
        assert self.head is not None, "an encoder without a head has no logits"
        x_TD, rope = self._embed(ids_T, types_T, at)
        for layer in self.layers[:-1]:
            x_TD = self._run(layer, x_TD, rope, at, False)
        cls_SD = self._run(self.layers[-1], x_TD, rope, at, True)
        logits_S: torch.Tensor = self.head(cls_SD)
        return logits_S

    def hidden_states(
        self, ids_T: torch.Tensor, types_T: torch.Tensor, at: Layout
    ) -> list[torch.Tensor]:
        """[T, D] after the embeddings and after each layer, all tokens: num_layers + 1 of them."""
        x_TD, rope = self._embed(ids_T, types_T, at)
        states = [x_TD]
        for layer in self.layers:
            states.append(self._run(layer, states[-1], rope, at, False))
        return states

    def _embed(
        self, ids_T: torch.Tensor, types_T: torch.Tensor, at: Layout
    ) -> tuple[torch.Tensor, Rope | None]:
        x_TD = self.embeddings(ids_T, types_T, at.positions)
        if torch.is_autocast_enabled(x_TD.device.type):
            # Else the residual stream is fp32, and is cast anew for every linear layer.
            x_TD = x_TD.to(torch.get_autocast_dtype(x_TD.device.type))
        if self.config.rope_theta is None:
            return x_TD, None
        return x_TD, rope_tables(self.config.inv_freq(), at, x_TD.dtype)

    def _run(
        self, layer: nn.Module, x_TD: torch.Tensor, rope: Rope | None, at: Layout, first_only: bool
    ) -> torch.Tensor:
        if self.checkpoint_layers and self.training:
            out = checkpoint_layer(layer, x_TD, rope, at, first_only, use_reentrant=False)
        else:
            out = layer(x_TD, rope, at, first_only)
        assert isinstance(out, torch.Tensor)
        return out

    def compile_layers(self) -> None:
        """Fuse what can be fused in each layer; attention stays as it is."""
        for layer in self.layers:
            layer.compile(dynamic=True)

    @classmethod
    def from_checkpoint(
        cls,
        checkpoint: Checkpoint,
        *,
        device: torch.device | str = "cpu",
        dtype: torch.dtype = torch.float32,
        frozen: bool = False,
    ) -> CrossEncoder:
        """Build the network around a checkpoint's arrays.

        `frozen` is for scoring only: no gradients, arrays of the right dtype are shared with the
        mapped file instead of copied, and the word embeddings stay in the file in its dtype,
        their rows widened as they are read. Otherwise the parameters are the network's own.
        """
        with torch.device("meta"):
            model = cls(checkpoint.config, with_head=checkpoint.has_head)
        state = {}
        for name, array in checkpoint.arrays.items():
            tensor = _as_tensor(array)
            # The head is small and decides the score: it stays fp32.
            wanted = torch.float32 if name.startswith("head.") else dtype
            if frozen and name == "embeddings.word.weight":
                wanted = tensor.dtype
            state[name] = tensor.to(device, wanted, copy=not frozen)
        model.load_state_dict(state, assign=True)
        checkpoint.release()
        return model.requires_grad_(not frozen)

    def arrays(self) -> Mapping[str, Array]:
        """The parameters by canonical name, ready to be saved. fp32; bf16 and fp16 as they are."""
        arrays = {}
        for name, tensor in self.state_dict().items():
            value = tensor.detach().cpu().contiguous()
            bf16 = value.dtype == torch.bfloat16
            arrays[name] = Array((value.view(torch.uint16) if bf16 else value).numpy(), bf16)
        return arrays

    @classmethod
    def random(cls, config: EncoderConfig, *, seed: int = 0, std: float = 0.02) -> CrossEncoder:
        """A network with normal random weights, for tests and benchmarks of speed."""
        generator = torch.Generator().manual_seed(seed)
        model = cls(config)
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                parameter.normal_(0.0, std, generator=generator)
                if name.endswith("norm.weight"):
                    parameter.add_(1.0)
        return model


def _as_tensor(array: Array) -> torch.Tensor:
    tensor = torch.from_numpy(array.data)
    return tensor.view(torch.bfloat16) if array.bf16 else tensor


class _Embeddings(nn.Module):
    def __init__(self, config: EncoderConfig) -> None:
        super().__init__()
        shapes = canonical_shapes(config)
        self.position_offset = config.position_offset
        self.word = nn.Embedding(config.vocab_size, config.hidden_size)
        self.position = _table(shapes.get("embeddings.position.weight"))
        self.token_type = _table(shapes.get("embeddings.token_type.weight"))
        self.norm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.dropout = nn.Dropout(config.dropout)

    def forward(
        self, ids_T: torch.Tensor, types_T: torch.Tensor, positions_T: torch.Tensor
    ) -> torch.Tensor:
        x_TD = self.word(ids_T).to(self.norm.weight.dtype)
        if self.token_type is not None:
            one = self.token_type.num_embeddings == 1  # whatever the template says
            x_TD = x_TD + (self.token_type.weight if one else self.token_type(types_T))
        if self.position is not None:
            if self.position_offset:
                positions_T = _passing_over(ids_T == self.position_offset - 1, positions_T)
            x_TD = x_TD + self.position(positions_T + self.position_offset)
        out_TD: torch.Tensor = self.dropout(self.norm(x_TD))
        return out_TD


def _passing_over(padding_T: torch.Tensor, positions_T: torch.Tensor) -> torch.Tensor:
    """Positions as RoBERTa counts them: a padding token that a text spells out is before the
    first, and the tokens after it count on without it."""
    count_T = padding_T.long()
    before_T = count_T.cumsum(0) - count_T
    first_T = torch.arange(len(positions_T), device=positions_T.device) - positions_T
    return torch.where(padding_T, -1, positions_T - before_T + before_T[first_T])


def _table(shape: tuple[int, ...] | None) -> nn.Embedding | None:
    return None if shape is None else nn.Embedding(shape[0], shape[1])


class _Layer(nn.Module):
    def __init__(self, config: EncoderConfig) -> None:
        super().__init__()
        D, F_ = config.hidden_size, config.intermediate_size
        self.heads = config.num_heads
        self.activation = config.activation
        self.gated = config.gated
        self.qkv = nn.Linear(D, 3 * D)
        self.attn_out = nn.Linear(D, D)
        self.attn_norm = nn.LayerNorm(D, eps=config.layer_norm_eps)
        self.mlp_in = nn.Linear(D, 2 * F_ if config.gated else F_, bias=not config.gated)
        self.mlp_out = nn.Linear(F_, D)
        self.mlp_norm = nn.LayerNorm(D, eps=config.layer_norm_eps)
        self.dropout = nn.Dropout(config.dropout)

    def forward(
        self, x_TD: torch.Tensor, rope: Rope | None, at: Layout, first_only: bool
    ) -> torch.Tensor:
        """[T, D], or [S, D] of each pair's first token with `first_only`."""
        D, H = x_TD.shape[-1], self.heads
        first = None
        if first_only:
            w, b = self.qkv.weight, self.qkv.bias
            qkv = functional.linear(x_TD, w[D:], b[D:]).view(-1, 2, H, D // H)
            x_TD = x_TD[at.first]
            first = functional.linear(x_TD, w[:D], b[:D]).view(-1, H, D // H)
        else:
            qkv = self.qkv(x_TD).view(-1, 3, H, D // H)
        a_TD = self.attn_out(attend(qkv, at, rope=rope, first=first).flatten(-2))
        x_TD = self.attn_norm(x_TD + self.dropout(a_TD))
        # Scoring on the CPU in slices: as fast, and a long batch's [T, 2F] is never held whole.
        whole = torch.is_grad_enabled() or x_TD.device.type != "cpu"
        parts = [self._mlp(x) for x in torch.split(x_TD, len(x_TD) if whole else _MLP_ROWS)]
        m_TD = parts[0] if len(parts) == 1 else torch.cat(parts)
        out_TD: torch.Tensor = self.mlp_norm(x_TD + self.dropout(m_TD))
        return out_TD

    def _mlp(self, x_TD: torch.Tensor) -> torch.Tensor:
        h_TF = self.mlp_in(x_TD)
        if self.gated:
            up_TF, gate_TF = h_TF.chunk(2, dim=-1)
            h_TF = self._activate(gate_TF) * up_TF
        else:
            h_TF = self._activate(h_TF)
        out_TD: torch.Tensor = self.mlp_out(h_TF)
        return out_TD

    def _activate(self, x: torch.Tensor) -> torch.Tensor:
        if self.activation == "relu":
            return functional.relu(x)
        return functional.gelu(x, approximate="tanh" if self.activation == "gelu_tanh" else "none")


class _Head(nn.Module):
    def __init__(self, config: EncoderConfig) -> None:
        super().__init__()
        self.dense = nn.Linear(config.hidden_size, config.hidden_size)
        self.out = nn.Linear(config.hidden_size, 1)

    def forward(self, cls_SD: torch.Tensor) -> torch.Tensor:
        pooled_SD = torch.tanh(self.dense(cls_SD.to(self.dense.weight.dtype)))
        logits_S: torch.Tensor = self.out(pooled_SD).squeeze(-1).float()
        return logits_S
