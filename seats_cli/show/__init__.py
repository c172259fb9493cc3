"""Pictures of what was kept, drawn without the model from the record of a run and its clip."""
