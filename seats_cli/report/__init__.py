"""Tables and JSON from result objects."""
