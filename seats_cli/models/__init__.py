"""Loading, and one adapter per model family."""
