"""Question sets, the run over them, scoring and statistics.

- `questions`: what an item and a set are; `synthetic` (with `options`), `jsonl`, `benchmarks`:
  where they come from
- `prompts`: how an item is put to the model; `scoring`: whether an answer is right
- `records`: one answer as it is stored
- `statistics`, `summary`, `findings`: what many answers say

Only what runs the model needs torch.
"""

from __future__ import annotations
