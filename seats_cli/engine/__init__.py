"""Hooks that turn a selection into a pruned prefill, and the loop that answers."""
