"""How weights move: learning rates over a run, optimizers by name, and a step of them in little memory."""

from sotediffusion.train.optim.schedule import SHAPES, Schedule, rate

__all__ = ["SHAPES", "Schedule", "rate"]
