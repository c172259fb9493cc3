"""FLOPs and memory as plain arithmetic on architectures and token counts."""
