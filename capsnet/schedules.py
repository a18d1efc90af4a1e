"""The learning rate by step, as a factor of its highest value."""

import math


def one_cycle(step: int, steps: int, least: float = 0.0) -> float:
    """Up along a line for a fifth of the steps, down along half a cosine, to no less than ``least``."""
    warm = max(1, round(0.2 * steps))
    if step < warm:
        return (step + 1) / warm
    return max(0.5 + 0.5 * math.cos(math.pi * min(1.0, (step - warm) / max(1, steps - warm))), least)
