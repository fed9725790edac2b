"""What an export says of itself."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field

from edgemed.core.records import NotAvailable, Record


class Fallback(Record):
    """A tensor that did not get the recipe's format."""

    tensor: str
    wanted: str
    got: str
    reason: str


class TokenCheck(Record):
    """Token ids of the exported file in the engine against the original tokenizer's."""

    n_strings: int
    n_tokens: int
    identical: int
    """Strings with equal ids; an export with fewer than `n_strings` is refused."""
    normalized_first: int = 0
    """Strings that were brought to Unicode NFC first, as the original does and the engine does not."""


class WeightError(Record):
    """How far a tensor is from its parent's."""

    tensor: str
    """As the checkpoint names it."""
    error: float
    """Root of the summed squares of the differences, by that of the weights."""


class LogitCheck(Record):
    """Next-token logits of the exported file in the engine against a float32 reference's."""

    available: Literal[True] = True
    reference: Literal["parent", "rounded parent"] = "parent"
    """The parent itself; or, where weights have fewer than 8 bits, the parent's code with the file's own weights."""
    n_positions: int
    max_difference: float
    """Largest absolute difference of a logit, in units of the reference's standard deviation."""
    mean_kl: float
    """Mean over positions of KL(reference || exported), in nats."""
    top1_agreement: float
    """Share of positions with the same most likely token."""
    limit: float
    """The largest difference that was accepted."""
    worst_weights: WeightError | None = None
    """Where the reference is the rounded parent: the tensor furthest from the parent's."""

    @property
    def words(self) -> str:
        """The figures for people."""
        words = (
            f"within {self.max_difference:.2g} standard deviations of the {self.reference}'s (limit {self.limit:g}), "
            f"same first choice at {self.top1_agreement:.0%} of {self.n_positions} positions"
        )
        if self.worst_weights is None:
            return words
        return f"{words}; weights within {self.worst_weights.error:.1%} of the parent's, quality not measured"


class ExportReport(Record):
    """One finished export."""

    schema_version: Literal[1] = 1
    source: Path
    output: Path
    target: Literal["gguf"] = "gguf"
    recipe: str
    recipe_digest: str
    """Of what the recipe does, its description left out."""
    architecture: str
    spec_digest: str
    """Digest of the checkpoint's ModelSpec."""
    licence: str
    """As the checkpoint states it; empty when it does not."""
    file_bytes: int
    n_tensors: int
    bytes_per_type: dict[str, int]
    bytes_per_role: dict[str, int]
    bits_per_weight: float
    """Bits of all tensors by the number of their values; header and tokenizer are not in it."""
    fallbacks: tuple[Fallback, ...]
    tokens: TokenCheck
    logits: Annotated[LogitCheck | NotAvailable, Field(discriminator="available")]
    notes: tuple[str, ...]
    conversion_seconds: float
    """From the first byte read to the last byte on the disk."""
    verification_seconds: float
