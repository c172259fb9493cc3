"""Parts of a model that a GPU computes in fewer, or better shaped, calls; results stay."""
