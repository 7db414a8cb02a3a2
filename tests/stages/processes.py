"""Take one training step as one of several processes and write its gradient; run by `test_processes`."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import torch

from attar.core.examples import Examples
from attar.core.rows import Rows, example_rows
from attar.objectives.cross_entropy import CrossEntropy
from attar.objectives.forward_kl import ForwardKL
from attar.objectives.weighted import WeightedSum
from attar.stages.lesson import Lesson
from attar.stages.loop import Trainer
from attar.stages.schedule import TrainSettings
from attar.students import folder
from attar.students.settings import Build, ModelSettings
from attar.tasks.image_classification import ImageClassification


class Oracle:
    """Answer with fixed logits by key."""

    gives = frozenset({"logits", "hard"})
    fingerprint = "oracle"

    def answer(self, examples: Examples) -> Rows:
        """Return logits that depend on the key alone."""
        keys = torch.from_numpy(np.ascontiguousarray(examples.keys))
        return example_rows(keys, torch.stack([keys.float().sin(), keys.float().cos()], dim=1) * 2)


def gradients(case: dict[str, int], work: Path) -> tuple[Trainer, list[torch.Tensor]]:
    """Return the trainer and the gradient of each step of a tiny run, as the optimizer sees it."""
    random = np.random.Generator(np.random.PCG64(0))
    count = case["examples"]
    images = Examples(
        np.arange(count) + 3, random.integers(0, 255, (count, 1, 4, 4)).astype(np.uint8), np.arange(count) % 2
    )
    both = WeightedSum([(0.5, CrossEntropy(CrossEntropy.Settings())), (0.5, ForwardKL(ForwardKL.Settings()))])
    torch.manual_seed(0)
    model = folder.make(ModelSettings(build=Build(net="mlp", widths=(6,))), None, ["a", "b"], (1, 4, 4))
    settings = TrainSettings(
        steps=2, batch_size=case["batch"], micro_batch_size=case["micro"], precision="float32", clip=1e9, validations=1
    )
    trainer = Trainer(model, Lesson(ImageClassification(), images, images, both, Oracle()), settings, 0, work, "cpu")
    seen: list[torch.Tensor] = []
    step = trainer.optimizer.step

    def watched() -> None:
        seen.append(torch.cat([p.grad.flatten().clone() for p in trainer.plain.parameters() if p.grad is not None]))
        step()

    trainer.optimizer.step = watched  # type: ignore[method-assign]
    return trainer, seen


def main() -> None:
    """Run the case that the command line names."""
    case, work = json.loads(sys.argv[1]), Path(sys.argv[2])
    trainer, seen = gradients(case, work)
    trainer.run("processes")
    index = trainer.accelerator.process_index
    torch.save([*seen, *trainer.plain.state_dict().values()], work / f"process-{index}.pt")
    torch.distributed.destroy_process_group()


if __name__ == "__main__":
    main()
