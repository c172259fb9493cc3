"""Pictures of what was kept, drawn from a record of the run and the clip, without the model."""
