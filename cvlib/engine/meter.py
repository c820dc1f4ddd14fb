"""What the steps of an epoch add up to, in all processes together."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from cvlib._distributed import sum_over_ranks, world_size
from cvlib.engine.batches import BadPicture, Batch
from cvlib.engine.processes import gather_lists

# Steps between two looks at the losses on CUDA: looking waits for the device.
LOOK_EVERY = 20


class Meter:
    """Collects losses, pictures and requests to stop, and adds them up now and then.

    Losses stay on the device until `look`, which is the only place where processes talk to each
    other about anything but gradients. It must be called at the same steps in all of them.

    Attributes:
        sums: Of each loss, times pictures.
        images: Pictures, since `restart`.
        losses: Of the last step.
    """

    def __init__(self, device: torch.device, sums: dict[str, float], images: int) -> None:
        self.device, self.sums, self.images = device, sums, images
        self.losses: dict[str, float] = {}
        self._pending: list[tuple[Batch, Tensor]] = []
        self._steps = 0

    def add(self, batch: Batch, losses: dict[str, Tensor]) -> None:
        """Notes the losses of one batch."""
        self._names = list(losses)
        self._pending.append((batch, torch.stack(list(losses.values())).detach()))

    def is_due(self, step: int) -> bool:
        """Says whether it is time for `look`, the same in all processes."""
        return self.device.type == "cpu" or step % LOOK_EVERY == 0

    def look(self, wants_to_stop: bool) -> tuple[bool, list[BadPicture]]:
        """Adds up what has been noted.

        Args:
            wants_to_stop: Whether this process was asked to.

        Returns:
            Whether any process wants to stop, and new unreadable pictures of all of them.

        Raises:
            FloatingPointError: A loss is NaN or infinite; in all processes alike.
        """
        own_bad = [bad for batch, _ in self._pending for bad in batch.bad]
        counts = [[float(len(batch.images))] for batch, _ in self._pending]
        values = torch.stack([one for _, one in self._pending]).double().cpu()
        table = torch.cat([values, torch.tensor(counts, dtype=torch.float64)], dim=1)
        flags = table.new_tensor([[float(wants_to_stop), float(len(own_bad))]])
        flags = torch.nn.functional.pad(flags, (0, table.shape[1] - 2))
        # On the device: NCCL knows no other place.
        total = sum_over_ranks(torch.cat([table, flags]).to(self.device)).cpu()
        rows = total[:-1].tolist()
        self.losses = dict.fromkeys(self._names, 0.0)
        for (batch, _), row in zip(self._pending, rows, strict=True):
            step, images = batch.key.step, row.pop()
            found = {n: v / world_size() for n, v in zip(self._names, row, strict=True)}
            if not all(map(math.isfinite, found.values())):
                raise FloatingPointError(
                    f"fit: the loss is {found} at step {step}; lower the learning rate; the "
                    "checkpoints of earlier epochs are unharmed"
                )
            self.images += int(images)
            for name, value in found.items():
                self.sums[name] = self.sums.get(name, 0.0) + value * images
                if step == self._pending[-1][0].key.step:
                    self.losses[name] += value * batch.key.weight
        self._pending = []
        stop, bad = total[-1, :2].tolist()
        return stop > 0, gather_lists(own_bad) if bad else []
