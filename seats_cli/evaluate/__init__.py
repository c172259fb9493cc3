"""Question sets, the run over them, scoring and statistics.

- `questions`: what an item and a set are; `benchmarks` finds one, also `generated` or in `jsonl`
- `scoring`: how an item is put to the model, and whether its answer is right
- `run` (in `distributed` processes), `runner`, `run_folder`: asking and storing
- `statistics`, `summary`, `paired`, `layer_curve`: what many answers say

Only what runs the model needs torch.
"""

from __future__ import annotations
