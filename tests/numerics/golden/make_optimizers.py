"""Write optimizers.json: what PyTorch's optimizers and schedules make of a fixed row of gradients.

pip install torch==2.13.0 numpy
python tests/numerics/golden/make_optimizers.py
"""

import json
import math
from pathlib import Path

import torch
from torch.optim import SGD, Adam, AdamW, RMSprop
from torch.optim.lr_scheduler import CosineAnnealingLR, ExponentialLR, StepLR

STEPS = 10
START = [1.0, -2.0, 0.5]
# Irregular, of both signs, from 0.001 to 10 in size, so that no two variants agree by accident.
GRADIENTS = [[10.0 ** (k - 1) * math.sin(3 * t + k + 1) for k in range(3)] for t in range(STEPS)]

OPTIMIZERS = {
    "gradient-descent": lambda p: SGD(p, lr=0.1),
    "momentum": lambda p: SGD(p, lr=0.1, momentum=0.9),
    "nesterov": lambda p: SGD(p, lr=0.1, momentum=0.9, nesterov=True),
    "rmsprop": lambda p: RMSprop(p, lr=0.1),
    "rmsprop, decay and epsilon": lambda p: RMSprop(p, lr=0.1, alpha=0.8, eps=0.01),
    "adam": lambda p: Adam(p, lr=0.1),
    "adam, momentum, decay and epsilon": lambda p: Adam(p, lr=0.1, betas=(0.7, 0.8), eps=0.01),
    "adamw": lambda p: AdamW(p, lr=0.1),
    "adamw, weight decay": lambda p: AdamW(p, lr=0.1, weight_decay=0.5),
}
SCHEDULES = {
    "step": lambda optimizer: StepLR(optimizer, step_size=3, gamma=0.5),
    "exponential": lambda optimizer: ExponentialLR(optimizer, gamma=0.5 ** (1 / 4)),
    "cosine": lambda optimizer: CosineAnnealingLR(optimizer, T_max=10, eta_min=0.01),
}


def trajectory(make_optimizer, make_schedule=None, clip_norm=None, dtype=torch.float64):
    """θ after each update, and the learning rate of each update."""
    theta = torch.nn.Parameter(torch.tensor(START, dtype=dtype))
    optimizer = make_optimizer([theta])
    schedule = make_schedule(optimizer) if make_schedule else None
    thetas, rates = [], []
    for gradient in GRADIENTS:
        theta.grad = torch.tensor(gradient, dtype=dtype)
        if clip_norm is not None:
            torch.nn.utils.clip_grad_norm_([theta], clip_norm)
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        if schedule:
            schedule.step()
        thetas.append(theta.tolist())
    return thetas, rates


golden = {
    "torch": torch.__version__,
    "start": START,
    "gradients": GRADIENTS,
    "float64": {name: trajectory(make)[0] for name, make in OPTIMIZERS.items()},
    "float32": {
        name: trajectory(make, dtype=torch.float32)[0] for name, make in OPTIMIZERS.items()
    },
    "clipped to norm 1": trajectory(OPTIMIZERS["momentum"], clip_norm=1.0)[0],
    "rates": {
        name: trajectory(OPTIMIZERS["gradient-descent"], make)[1]
        for name, make in SCHEDULES.items()
    },
    "adam with cosine": trajectory(OPTIMIZERS["adam"], SCHEDULES["cosine"])[0],
}
Path(__file__).with_name("optimizers.json").write_text(json.dumps(golden, indent=1) + "\n")
