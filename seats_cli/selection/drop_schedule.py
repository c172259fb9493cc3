"""How many tokens OmniDrop leaves in every decoder layer (arXiv 2605.14458).

Plain arithmetic on whole tokens; nothing here imports torch. What was taken from the paper and
what was chosen is told in `omnidrop.py`.
"""

from __future__ import annotations

from math import exp

from seats_cli.errors import ConfigError

# Published fractions that enter the LLM, and how many times the target enters at 30 %.
ENTRY_VIDEO, ENTRY_AUDIO, ENTRY_PER_TARGET = 0.4, 0.7, 1.5
STEEPNESS, MIDDLE = 20.0, 0.5
_BISECTIONS = 40


def entry_fractions(n_video: int, n_audio: int, retention: float) -> tuple[float, float]:
    """Fractions of video and audio that enter the LLM.

    Parameters
    ----------
    n_video, n_audio : int
    retention : float
        Combined average retention wanted.
    """
    total = n_video + n_audio
    published = (ENTRY_VIDEO * n_video + ENTRY_AUDIO * n_audio) / total
    entering = max(published, min(1.0, ENTRY_PER_TARGET * retention))
    more = (entering - published) / (1.0 - published)
    return ENTRY_VIDEO + (1.0 - ENTRY_VIDEO) * more, ENTRY_AUDIO + (1.0 - ENTRY_AUDIO) * more


def drop_counts(entering: int, num_layers: int, p_init: float, p_final: float) -> list[int]:
    """Tokens that leave after each of the layers 1 to L - 2.

    Parameters
    ----------
    entering : int
        Audio-visual tokens that enter the LLM.
    num_layers : int
        Decoder layers L.
    p_init, p_final : float
        Fractions of the tokens alive that leave after early and after late layers.
    """
    alive, counts = entering, []
    for layer in range(1, num_layers - 1):
        rise = 1.0 / (1.0 + exp(-STEEPNESS * (layer / num_layers - MIDDLE)))
        counts.append(min(int((p_init + (p_final - p_init) * rise) * alive), alive))
        alive -= counts[-1]
    return counts


def layer_total(entering: int, num_layers: int, counts: list[int]) -> int:
    """Tokens alive, summed over the layers, under `drop_counts`."""
    total, alive = entering, entering
    for count in [*counts, 0]:
        alive -= count
        total += alive
    return total if num_layers > 1 else entering


def initial_drop(retention: float) -> float:
    """Published p_init: 0 from 30 % upwards, 0.02 at 20 % and below."""
    return 0.02 * min(max((0.30 - retention) / 0.10, 0.0), 1.0)


def solve_drops(entering: int, offered: int, num_layers: int, retention: float) -> list[int]:
    """Drop counts whose mean over the layers comes closest to the target.

    Parameters
    ----------
    entering, num_layers : int
        As for `drop_counts`.
    offered : int
        Audio-visual tokens of the prompt.
    retention : float
        Average retention wanted, of the tokens offered.

    Returns
    -------
    list of int

    Raises
    ------
    ConfigError
        If the tokens that enter exceed the target in the first layer alone.
    """
    start, target = initial_drop(retention), retention * offered * num_layers

    def counts(strength: float) -> list[int]:
        """Up to 1 the late fraction rises from p_init to 1, up to 2 p_init follows."""
        late, early = min(strength, 1.0), max(strength - 1.0, 0.0)
        rest = 1.0 - start
        return drop_counts(entering, num_layers, start + early * rest, start + late * rest)

    def total(strength: float) -> int:
        return layer_total(entering, num_layers, counts(strength))

    low, high = 0.0, 2.0
    if total(high) > target + 1.0:
        least = total(high) / (offered * num_layers)
        raise ConfigError(
            "This budget is out of reach for omnidrop: every token that enters is seen by the "
            f"first layer, which costs an average retention of {least:.3g} (overall); ask for at "
            "least that or use another method."
        )
    for _ in range(_BISECTIONS):
        middle = (low + high) / 2
        if total(middle) > target:
            low = middle
        else:
            high = middle
    return counts(min((low, high), key=lambda strength: abs(total(strength) - target)))
