"""A scheduler that waits for a plateau is told what the training got to at each epoch's end."""

import pyro
import pytest
import torch

import pyrovae as pv


def plateau(**options):
    arguments = {"optimizer": torch.optim.SGD, "optim_args": {"lr": 0.0}}
    return pyro.optim.ReduceLROnPlateau({**arguments, "patience": 0, "factor": 0.5, **options})


@pytest.mark.parametrize("mode", ["min", "max"])
@pytest.mark.parametrize("validated", [True, False])
def test_the_scheduler_is_told_the_validation_elbo_or_the_loss(mode, validated):
    torch.manual_seed(0)
    x, told = torch.randn(20, 4), []
    vae = pv.VAE(
        pv.priors.StandardNormal(2),
        pv.likelihoods.Normal(pv.nets.MLP(2, 4)),
        pv.guides.MeanFieldNormal(pv.nets.MLP(4, 4)),
    )
    optim = plateau(mode=mode)

    class Note(pv.Callback):
        def finished_epoch(self, training):
            best = {scheduler.best for scheduler in optim.optim_objs.values()}
            told.append((training.history.epochs[-1], *best))

    held = x[:7] if validated else None
    pv.fit(vae, x, validation=held, epochs=2, step=pv.Step(optim), callbacks=[Note()])
    epoch, best = told[0]
    number = epoch.validation_elbo if validated else -epoch.loss
    assert best == (number if mode == "max" else -number)
