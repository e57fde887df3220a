"""Networks of one's own for tests, and the smallest settings of some methods."""

from __future__ import annotations

from torch import nn

FEATURES = 24


class Dropped(nn.Module):
    """A network with PyTorch's initial weights and dropout, and without `embed`."""

    def __init__(self, p=0.5):
        super().__init__()
        self.conv, self.drop, self.out = nn.Conv2d(3, 4, 3, stride=4), nn.Dropout(p), nn.Linear(FEATURES, 3)

    def forward(self, x):
        return self.out(self.drop(self.conv(x).relu().flatten(1)))


class Plain(Dropped):
    def __init__(self):
        super().__init__(p=0.0)


REPEATED = {
    "dc": {"students": 1, "steps_per_student": 2, "student_epochs": 1, "real_batch": 4},
    "acc-dd": {"steps": 2, "steps_per_student": 1, "real_batch": 4, "pool": 1, "pool_epochs": 1},
    "mtt": {"steps": 2, "student_steps": 2, "experts": 1, "expert_epochs": 2, "max_start": 1, "expert_span": 1},
    "rded": {"images": 4, "crops": 2, "temperature": None, "teacher_epochs": 1},
    "rat-bptt": {"steps": 2, "real_batch": 4, "student_steps": 3, "window": 2},
}
