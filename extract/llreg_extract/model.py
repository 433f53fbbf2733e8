"""A loaded model: the only type that holds torch objects."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from llreg_extract.source import FileStamp, Source


@dataclass
class Model:
    """A loaded model, ready for scoring.

    Attributes
    ----------
    source : Source
    module : torch.nn.Module
        In evaluation mode, on `device`.
    tokenizer : llreg_extract.scoring.encoding.Tokenizer
    device : torch.device
    weight_dtype : str
        "float32", "bfloat16" or "float16".
    context_length : int or None
        Longest text in tokens that is scored; None where nothing limits it.
    attention : str
        The attention implementation in use: one of transformers, or "llreg_blocked".
    first_token_scored : bool
        Whether the tokenizer puts a special token before a text, so that all its own tokens are scored.
    threads : int
        Worker threads for scoring on the CPU.
    batching : bool
        Whether texts may share a batch; False where the self-check saw padding change a value.
    path : {"replay", "logits"}
        How log-probabilities are computed: the head only where a token is scored, or the model's own whole logits. See
        `llreg_extract.loading.selfcheck`.
    base : torch.nn.Module or None
        What a replay takes the hidden states from; see `llreg_extract.fast.replay`.
    library_attention : str
        The attention implementation that transformers chose.
    trust_remote_code : bool
        Whether code from the checkpoint was allowed to run.
    adapter : mapping of str to str
        How its adapter acts: `llreg_extract.loading.adapter.Adapted.provenance`.
    unused : mapping of str to str
        What its files hold and no value depends on: "unused_weights" and "unused_settings" as ``row.schema.json`` has them; see
        `llreg_extract.loading.leftovers` and `settings`.
    files : mapping of str to FileStamp
        The files that it was loaded from, by path, as they were then.
    """

    # torch's types are Any here, so that importing this module does not load torch.
    source: Source
    module: Any
    tokenizer: Any
    device: Any
    weight_dtype: str
    context_length: int | None
    attention: str
    first_token_scored: bool
    threads: int
    batching: bool = True
    path: str = "logits"
    base: Any = None
    library_attention: str = "none"
    trust_remote_code: bool = False
    adapter: Mapping[str, str] = field(default_factory=dict)
    unused: Mapping[str, str] = field(default_factory=dict)
    files: Mapping[str, FileStamp] = field(default_factory=dict)

    @property
    def declared(self) -> Mapping[str, Any]:
        """`source.declared`, with what only the loaded model shows filled in where it was unknown."""
        declared = dict(self.source.declared)
        if declared["architecture"] is None:
            declared["architecture"] = type(self.module).__name__
        # Packed weights are not parameters.
        if declared["num_parameters"] is None and self.source.quantization is None:
            declared["num_parameters"] = int(self.module.num_parameters())
        if declared.get("context_length") is None:
            declared["context_length"] = self.context_length
        return declared
