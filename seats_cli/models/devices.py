"""Where the weights of a model lie."""

from __future__ import annotations

import torch


def devices_of(model: torch.nn.Module) -> tuple[torch.device, ...]:
    """Devices that hold weights of a model, each once, in the order in which they are met."""
    found = dict.fromkeys(parameter.device for parameter in model.parameters())
    return tuple(device for device in found if device.type != "meta")
