"""transformers reads official mGTE checkpoints (`model_type: new`), once this is imported.

    import polyrank.interop.transformers
    from transformers import AutoModelForSequenceClassification

    model = AutoModelForSequenceClassification.from_pretrained(folder)

The model is transformers' own `gte`: no remote code runs, whatever `trust_remote_code` says. Knows
how the two say the same configuration; no network, and no weight names: those transformers knows.
"""

from __future__ import annotations

from collections.abc import Mapping
from copy import deepcopy
from typing import Any

from polyrank.config import parse_config
from polyrank.errors import CheckpointError, MissingDependencyError

try:
    from transformers import (
        AutoConfig,
        AutoModel,
        AutoModelForMaskedLM,
        AutoModelForSequenceClassification,
        AutoModelForTokenClassification,
        GteConfig,
        GteForMaskedLM,
        GteForSequenceClassification,
        GteForTokenClassification,
        GteModel,
    )
except ImportError as error:
    raise MissingDependencyError(
        "expected transformers 5.19 or newer, which has the gte architecture, and PyTorch; install "
        'them with: pip install "transformers>=5.19" "polyrank[torch]"'
    ) from error

__all__ = ["NewConfig"]

# What only the official code reads. `auto_map` names that code: without it, it is never run.
_OFFICIAL_ONLY = (
    "auto_map",
    "layer_norm_type",
    "logn_attention_clip1",
    "logn_attention_scale",
    "model_type",
    "pack_qkv",
    "position_embedding_type",
    "rope_scaling",
    "rope_theta",
    "transformers_version",
    "unpad_inputs",
    "use_memory_efficient_attention",
)


class NewConfig(GteConfig):  # type: ignore[misc]  # transformers has no types we read
    """A config.json of `model_type: new`, in the terms of transformers' `gte`."""

    model_type = "new"

    @classmethod
    def from_dict(cls, config_dict: dict[str, Any], **kwargs: Any) -> Any:
        """Translate, then read as transformers does.

        Raises CheckpointError that names the key for a variant that `gte` cannot run.
        """
        where = f"config.json of {kwargs['name_or_path']}" if "name_or_path" in kwargs else "config"
        return super().from_dict(_native_config(config_dict, where), **kwargs)

    def to_dict(self) -> dict[str, Any]:
        """Fields as JSON. Saved as `gte`, which they are: any transformers reads them."""
        return {**super().to_dict(), "model_type": GteConfig.model_type}


def _native_config(config: Mapping[str, Any], where: str) -> dict[str, Any]:
    # Labels are the head's affair, and not every head that is loaded here is a reranker's.
    parsed = parse_config(
        {"model_type": "new", **config, "num_labels": None, "id2label": None}, where=where
    )
    native = {key: value for key, value in config.items() if key not in _OFFICIAL_ONLY}
    if not native.get("id2label"):
        # transformers would assume two; a reranker has one.
        native.setdefault("num_labels", 1)
    native["rope_parameters"] = {
        "rope_type": "linear",
        "rope_theta": parsed.rope_theta,
        "factor": parsed.rope_factor,
    }
    return native


class _HandOver:
    """Stands in transformers' registry for `native` and hands over to it: all weights or none."""

    native: Any
    config_class = NewConfig

    @classmethod
    def from_pretrained(
        cls,
        name: Any,
        *args: Any,
        config: NewConfig,
        output_loading_info: bool = False,
        **kwargs: Any,
    ) -> Any:
        """Load as transformers does, but raise CheckpointError where it would invent weights."""
        model, info = cls.native.from_pretrained(
            name, *args, config=_as_gte(config), output_loading_info=True, **kwargs
        )
        if missing := sorted(info["missing_keys"]):
            raise CheckpointError(
                f"expected the weights of a {cls.native.__name__} in {name}, {len(missing)} are "
                f"missing: {', '.join(missing[:8])}; transformers would make them up at random. "
                "Give a checkpoint that has them, or load its encoder alone with AutoModel"
            )
        # Else transformers saves under its memory of these names, as `new.gte.encoder.layer...`,
        # which other tools do not read.
        model._weight_conversions = []
        return (model, info) if output_loading_info else model

    @classmethod
    def _from_config(cls, config: NewConfig, **kwargs: Any) -> Any:
        return cls.native._from_config(_as_gte(config), **kwargs)


def _as_gte(config: NewConfig) -> Any:
    native = deepcopy(config)
    native.__class__ = GteConfig  # the same fields; by its class transformers finds weight names
    return native


def _register() -> None:
    AutoConfig.register("new", NewConfig, exist_ok=True)
    for auto, native in (
        (AutoModel, GteModel),
        (AutoModelForMaskedLM, GteForMaskedLM),
        (AutoModelForSequenceClassification, GteForSequenceClassification),
        (AutoModelForTokenClassification, GteForTokenClassification),
    ):
        name = native.__name__.replace("Gte", "New")
        stand_in = type(name, (_HandOver, native), {"native": native, "config_class": NewConfig})
        auto.register(NewConfig, stand_in, exist_ok=True)


_register()
