"""Results as tables, documents and plots."""
