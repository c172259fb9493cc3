"""How the bundled model is trained and measured."""
