"""Parts of a model that a GPU computes in fewer, or better shaped, calls; results stay."""

from seats_cli.models.fused.switch import quick_parts

__all__ = ["quick_parts"]
