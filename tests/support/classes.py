"""Discrete latents whose frequencies are known."""

import pyro
from pyro import poutine
from worlds import random

FALSE_ALARM = 1e-4


def site_of(prior, count=1):
    with poutine.trace() as tape, pyro.plate("data", count, dim=-1):
        value = prior()
    return tape.trace.nodes["z"]["fn"], tape.trace.nodes["z"]["value"], value


def learned(prior, seed=1):
    prior = prior.double()
    prior.logits.data = random(seed, *prior.logits.shape)
    return prior
