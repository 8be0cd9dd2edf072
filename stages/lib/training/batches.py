"""What the members of a stack see at each step, looked up for some steps ahead."""

from collections.abc import Sequence

import torch
from torch import Tensor

from stages.lib.components.augmentation import BOX, BoxSampler
from stages.lib.components.losses import Targets
from stages.lib.components.targets import LabelCounts, Labels
from stages.lib.training.devices import drawing_device, make_generator
from stages.lib.training.order import Order
from stages.lib.training.replicas import Replica, TrainConfig

CHUNK = {"cpu": 64, "cuda": 1024, "mps": 64}  # steps whose batches are looked up at once


class Batches:
    """The batches of some steps, for K members in rows.

    Args:
        config: what the members share.
        members: at least one; the targets of all are of one kind.

    Attributes:
        tensors: ``(chunk, K, b, ...)`` each: ``images``; ``labels`` int64, or of aggregated targets
            int32 counts and, where these are of some classes, ``classes``; ``boxes`` of changes.
        orders: the order of examples of each member that ever was in the stack.
        boxes: the same of changes to images, none without augmentation.
    """

    def __init__(self, config: TrainConfig, members: Sequence[Replica]) -> None:
        self.members, self.device = members, members[0].data.bank.device
        self.chunk = CHUNK[self.device.type]
        self.orders = [Order(len(m.data.labels), m.shuffle, self.device) for m in members]
        self.boxes: list[BoxSampler] = []
        data, shape = members[0].data, (self.chunk, len(members), config.batch_size)

        def room(*last: int, dtype: torch.dtype = torch.int64) -> Tensor:
            return torch.zeros((*shape, *last), dtype=dtype, device=self.device)

        self.tensors = {"images": room(), "labels": room()}
        self.mean_counts: Tensor | None = None  # labels of an image, where it shows all of them
        if data.labels.ndim == 2:
            given = [member.data.labels for member in members]
            most = max(counts.shape[1] for counts in given)
            self.tensors["labels"] = room(most, dtype=torch.int32)
            if data.classes is not None:
                self.tensors["classes"] = room(most)
            means = torch.tensor([own.sum().item() / len(own) for own in given])
            self.mean_counts = means.to(self.device).view(-1, 1, 1)
        if config.augmentation != "none":
            size, drawing = (data.bank.shape[1], data.bank.shape[2]), drawing_device(self.device)
            draws = [make_generator(member.augment, drawing) for member in members]
            self.boxes = [BoxSampler(config.augmentation, size, own, self.device) for own in draws]
            self.tensors["boxes"] = room(BOX, dtype=torch.int32)

    def look_up(self, rows: Sequence[int]) -> None:
        """Look up the next chunk, for the members that the rows are."""
        for row, k in enumerate(rows):
            data, batch_size = self.members[k].data, self.tensors["images"].shape[2]
            examples = self.orders[k].take(self.chunk * batch_size)
            images = data.images[examples % len(data.images)]
            found = {"images": images, "labels": data.labels[examples]}
            if data.classes is not None:
                found["classes"] = data.classes[examples]
            if self.boxes:
                found["boxes"] = self.boxes[k].draw(len(examples))
            for name, values in found.items():
                own = self.tensors[name][:, row]
                if name in ("labels", "classes") and own.ndim > 2:
                    # Of rare classes one member may have more in a row than another.
                    own = own[..., : values.shape[1]]
                own.copy_(values.view(own.shape))

    def at(self, place: int | Tensor) -> dict[str, Tensor]:
        """Return a batch ``(K, b, ...)`` of the chunk; its place is ``(1,)`` int64 in a capture."""
        if isinstance(place, int):
            return {name: each[place] for name, each in self.tensors.items()}
        found = self.tensors.items()
        return {name: each.index_select(0, place).squeeze(0) for name, each in found}

    def targets(self, batch: dict[str, Tensor], logits: Tensor) -> Targets:
        """Return what a batch ``(K, b, ...)`` has for answers to logits ``(K, b, m)``."""
        if self.mean_counts is None:
            return Labels(batch["labels"])
        weights = batch["labels"] / self.mean_counts
        if "classes" in batch:
            weights = torch.zeros_like(logits).scatter_add(2, batch["classes"], weights)
        return LabelCounts(weights)

    def keep(self, index: Tensor) -> None:
        """Go on with some rows alone."""
        self.tensors = {name: each[:, index] for name, each in self.tensors.items()}
        if self.mean_counts is not None:
            self.mean_counts = self.mean_counts[index]
