"""Where the weights of a model lie."""

from __future__ import annotations

import torch

# Bytes of a GPU that the processor needs for each byte of the frames: float32 pixels in three
# copies and once in the model's precision, and as much again to be on the safe side.
_PROCESSOR_SHARE = 24


def devices_of(model: torch.nn.Module) -> tuple[torch.device, ...]:
    """Devices that hold weights of a model, each once, in the order in which they are met."""
    found = dict.fromkeys(parameter.device for parameter in model.parameters())
    return tuple(device for device in found if device.type != "meta")


def free_bytes(device: torch.device) -> int:
    """What can still be allocated on a CUDA device, with what PyTorch holds there unused."""
    unused = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    return int(torch.cuda.mem_get_info(device)[0]) + unused


def processor_device(device: torch.device, frames: int, free: int) -> torch.device | None:
    """Where the processor turns frames into pixel values; None leaves it on the CPU.

    On a GPU it takes milliseconds, and bytes travel instead of float32 values.

    Parameters
    ----------
    device : torch.device
        Where the model begins.
    frames : int
        Bytes of the frames.
    free : int
        Bytes that are free there (`free_bytes`).
    """
    return device if device.type == "cuda" and free >= _PROCESSOR_SHARE * frames else None
