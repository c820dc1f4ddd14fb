"""What the steps of an epoch add up to, in all processes together."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from cvlib._distributed import gather_objects, sum_over_ranks, world_size
from cvlib.engine.batches import BadPicture, Batch
from cvlib.engine.sampling import Key

# Steps between two looks at the losses on CUDA: looking waits for the device.
LOOK_EVERY = 20


class Meter:
    """Collects losses, pictures and requests to stop, and adds them up now and then.

    Losses stay on the device until `look`, which is the only place where processes talk to each
    other about anything but gradients. It must be called at the same steps in all of them.

    Attributes:
        sums: Of each loss, times pictures.
        images: Pictures of the epoch so far.
        losses: Of the last step.
    """

    def __init__(self, device: torch.device, sums: dict[str, float], images: int) -> None:
        self.device, self.sums, self.images = device, sums, images
        self.losses: dict[str, float] = {}
        self._names: list[str] = []
        self._pending: list[Tensor] = []
        # Without their pictures, which would be kept in memory.
        self._facts: list[tuple[Key, int]] = []
        self._bad: list[BadPicture] = []

    def add(self, batch: Batch, losses: dict[str, Tensor]) -> None:
        """Notes the losses of one batch."""
        self._names = list(losses)
        self._pending.append(torch.stack(list(losses.values())).detach())
        self._facts.append((batch.key, len(batch.images)))
        self._bad += batch.bad

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
        counts = torch.tensor([[count] for _, count in self._facts], dtype=torch.float64)
        values = torch.stack(self._pending).double().cpu()
        table = torch.cat([values, counts], dim=1)
        flags = torch.zeros(1, table.shape[1], dtype=torch.float64)
        flags[0, 0], flags[0, 1] = wants_to_stop, len(self._bad)
        # On the device: NCCL knows no other place.
        total = sum_over_ranks(torch.cat([table, flags]).to(self.device)).cpu()
        rows = total[:-1].tolist()
        self.losses = dict.fromkeys(self._names, 0.0)
        for (key, _), row in zip(self._facts, rows, strict=True):
            images = row.pop()
            found = {n: v / world_size() for n, v in zip(self._names, row, strict=True)}
            if not all(map(math.isfinite, found.values())):
                raise FloatingPointError(
                    f"fit: the loss is {found} at step {key.step}; lower the learning rate; the "
                    "checkpoints of earlier epochs are unharmed"
                )
            self.images += int(images)
            for name, value in found.items():
                self.sums[name] = self.sums.get(name, 0.0) + value * images
                if key.step == self._facts[-1][0].step:
                    self.losses[name] += value * key.weight
        stop, count = total[-1, :2].tolist()
        bad = [one for part in gather_objects(self._bad) for one in part] if count else []
        self._pending, self._facts, self._bad = [], [], []
        return stop > 0, bad
