"""Small VAEs of real numbers to train, and a training that ends where it is told to."""

import torch

import pyrovae as pv


def small_vae(size):
    with pv.seeded(0):
        own = pv.likelihoods.Normal(pv.nets.MLP(2, 8, size))
        guide = pv.guides.MeanFieldNormal(pv.nets.MLP(size, 8, 4))
        return pv.VAE(pv.priors.StandardNormal(2), own, guide)


def numbers(n, size):
    with pv.seeded(1):
        return torch.randn(n, size)


class StopAt(pv.Callback):
    """End the training after some step."""

    def __init__(self, step):
        self.step = step

    def stepped(self, training):
        if training.step == self.step:
            raise pv.StopTraining(f"after step {self.step}")
