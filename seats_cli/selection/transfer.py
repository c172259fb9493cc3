"""Numbers from the host onto a device, without waiting for what is under way there."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def on_device(values: Tensor | Sequence[int], device: torch.device | str) -> Tensor:
    """Values on a device; integers become a LongTensor.

    PyTorch's default copy from ordinary host memory waits until the device has finished all work
    given to it. CUDA has read such memory once the call returns, so that this wait is needless.
    """
    host = values if isinstance(values, Tensor) else torch.tensor(values, dtype=torch.long)
    return host.to(device, non_blocking=host.device.type == "cpu")


class Places:
    """Positions of tokens, needed on the host and on every device that holds a part of the model.

    Parameters
    ----------
    host : LongTensor, shape (n,), on the CPU
    """

    def __init__(self, host: Tensor) -> None:
        self.host = host
        self._elsewhere: dict[torch.device, Tensor] = {host.device: host}

    def __len__(self) -> int:
        return len(self.host)

    def on(self, device: torch.device) -> Tensor:
        """The same on a device, copied once."""
        if device not in self._elsewhere:
            self._elsewhere[device] = on_device(self.host, device)
        return self._elsewhere[device]
