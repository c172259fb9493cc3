"""Answer tokens after the first: on a cache that keeps its place, as a captured CUDA graph."""

from seats_cli.engine.decoding.decoder import Decoding, decode_steps

__all__ = ["Decoding", "decode_steps"]
