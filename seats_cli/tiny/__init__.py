"""The bundled model: where its training clips come from, how it is trained and measured.

Nothing here is needed to run the program; it is here so that the shipped weights can be made again.

- `vocabulary`, `scene`, `render`, `sound`, `speech`, `layout`, `clip`: seeded clips
- `moment`: long quiet clips, for the question set of `seats eval` only
- `wording`, `questions`, `labels`: what is asked about them, and dense truth per token
- `build`: tokenizer, processor and configuration
- `batch`, `forward`, `attention`, `heads`: one training step
- `settings`, `optim`, `parallel`, `train`, `checkpoint`: a training run
- `packed_evaluation`, `evaluate`, `layer_curve`, `mp4`: what came of it
"""
