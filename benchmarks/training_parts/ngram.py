"""A character 4-gram with Kneser-Ney smoothing: the baseline that a model must beat."""

from __future__ import annotations

import math
from collections import Counter, defaultdict


class NGram:
    """Interpolated Kneser-Ney (Chen and Goodman 1998) over bytes, discount 0.75."""

    def __init__(self, text: bytes, order: int = 4, discount: float = 0.75) -> None:
        self.order, self.discount = order, discount
        self.counts: list[dict[bytes, Counter[int]]] = [defaultdict(Counter) for _ in range(order)]
        highest = self.counts[order - 1]
        for end in range(order - 1, len(text)):
            highest[text[end - order + 1 : end]][text[end]] += 1
        for n in range(order - 2, -1, -1):
            # Lower orders count in how many contexts a character was seen, not how often.
            for context, following in self.counts[n + 1].items():
                for character in following:
                    self.counts[n][context[1:]][character] += 1
        self.vocabulary = len(set(text))
        self.totals = [{c: sum(f.values()) for c, f in level.items()} for level in self.counts]

    def chance(self, context: bytes, character: int) -> float:
        """Probability of ``character`` after the last bytes of ``context``."""
        value = 1.0 / self.vocabulary
        for n in range(self.order):
            seen = context[len(context) - n :] if n else b""
            following = self.counts[n].get(seen)
            if following is None:
                break
            total = self.totals[n][seen]
            kept = max(following.get(character, 0) - self.discount, 0.0)
            value = (kept + self.discount * len(following) * value) / total
        return value

    def bits_per_character(self, text: bytes) -> float:
        """Mean of -log2 of the probability, from the first character with a full context."""
        first = self.order - 1
        bits = -sum(
            math.log2(self.chance(text[i - first : i], text[i])) for i in range(first, len(text))
        )
        return bits / (len(text) - first)
