"""One example as the student learns it: what lessons.py makes and objective.py reads. Arrays only.

n tokens of prompt and answer, a of them the answer's; c chunks of the answer; e entities; m places; k rivals.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float32]
Ints = npt.NDArray[np.int32]


@dataclass(frozen=True, slots=True)
class Lesson:
    """Everything about one example that the loss needs. Chunks and entities are those of the answer."""

    example: int
    """Its number in the corpus."""
    ids: Ints
    """(n,) the student's tokens; the answer's are the last a, its end token among them."""
    token_weights: Floats
    """(a,) in CE."""
    chunks: Ints
    """(a,) the chunk of each token of the answer; -1 where there is none."""
    teacher: Floats
    """(c,) log-probability of each chunk by the teacher, given all the text before it."""
    chunk_weights: Floats
    """(c,) in KD; 0 for chunks that `places` teach in more detail."""
    entities: Ints
    """(c,) the entity that a chunk is part of; -1 for none. Entities whose ends are no boundaries are left out."""
    entity_weights: Floats
    """(e,) in MedKL: dose 5, contraindication 4, diagnostic criterion 3, drug 3, other 1."""
    places: Ints
    """(m,) tokens of the answer (0 to a - 1) whose rivals the teacher's scores speak of, rising."""
    place_weights: Floats
    """(m,) in KD."""
    rival_ids: Ints
    """(m, k) in the student's vocabulary; -1 where there are fewer than k."""
    rival_log_probs: Floats
    """(m, k) of the teacher's; -inf where there is none. What is missing to 1 is all other tokens together."""
    hidden: npt.NDArray[np.float16]
    """(c, teacher's hidden size), at the end of each chunk; (0, 0) without."""
    measures: dict[str, float]
    """Of its difficulty, by name: concepts, rarity, reasoning, numbers, nll."""
    kind: str = ""
    """"basic" for foundations, "replay" for what is kept alive; empty else."""
    specialty: str = ""

    @property
    def n_prompt(self) -> int:
        """Tokens before the answer."""
        return len(self.ids) - len(self.token_weights)
