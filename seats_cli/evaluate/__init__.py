"""Question sets, scoring and statistics; no torch in here.

- `questions`: what an item and a set are; `synthetic`, `jsonl`, `benchmarks`: where they come from
- `prompts`: how an item is put to the model; `scoring`: whether an answer is right
- `records`: one answer as it is stored; `statistics`, `summary`, `findings`: what
  many of them say
"""
