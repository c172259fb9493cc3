"""One attention call for all segments of an encoder, instead of one for each."""

from seats_cli.models.attention.switch import encoder_attention, use_for_encoders

__all__ = ["encoder_attention", "use_for_encoders"]
