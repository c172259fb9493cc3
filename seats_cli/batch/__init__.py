"""Many clips: manifests, the run on one machine or a cluster, and results that are resumed."""
