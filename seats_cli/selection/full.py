"""The unpruned model, as a method among the others."""

from __future__ import annotations

from seats_cli.selection.base import Entry, Method, PromptTokens


class Full(Method):
    """Keeps every token in every layer, whatever the budget says."""

    def before_llm(self, prompt: PromptTokens) -> Entry:
        """Everything enters."""
        return Entry(prompt.keep_all())
