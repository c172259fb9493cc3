"""Generated clips and questions with known answers."""
