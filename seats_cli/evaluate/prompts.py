"""How an item is put to the model.

An open question is asked as it stands. Multiple choice comes in two styles: options with letters
in the prompt and a letter as the answer, or the bare question whose options are compared by
likelihood.
"""

from __future__ import annotations

from seats_cli.evaluate.questions import Item, SetSettings


def prompt_for(item: Item, settings: SetSettings) -> str:
    """What the model is asked about the clip.

    Parameters
    ----------
    item : Item
    settings : SetSettings
        Its `choice_style`, labels, `preamble` and `instruction` matter for items with choices.

    Returns
    -------
    str
        For choices by letter: preamble, question, one line for each option, instruction, and the
        labels where there are any; else the question alone.
    """
    if not item.choices or settings.choice_style == "likelihood":
        return item.question
    options = [f"{letter}. {text}" for letter, text in zip(item.letters, item.choices, strict=True)]
    question = settings.question_label + item.question
    parts = [settings.preamble, question, settings.options_label, *options, settings.instruction]
    return "\n".join(part for part in parts if part)


def options_for(item: Item, settings: SetSettings) -> tuple[str, ...]:
    """Options to compare by likelihood; empty where the answer is to be generated."""
    return item.choices if settings.choice_style == "likelihood" else ()
