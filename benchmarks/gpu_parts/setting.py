"""How the parts are run: on which device, in which precision, how long."""

from dataclasses import dataclass

import torch

from harness import in_turn


@dataclass(frozen=True)
class Setting:
    """``tiny`` takes seconds on a CPU, to show that a part runs."""

    device: torch.device
    dtype: torch.dtype
    tiny: bool

    @property
    def rounds(self):
        return 2 if self.tiny else 5

    @property
    def seconds(self):
        return 1e-3 if self.tiny else 0.1

    def in_turn(self, runs, seconds=None):
        seconds = seconds or self.seconds
        return in_turn(runs, rounds=self.rounds, seconds=seconds, device=self.device)

    def random(self, *shape):
        return torch.randn(*shape, device=self.device, dtype=self.dtype)
