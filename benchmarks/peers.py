"""Other trainings of the networks of a VAE: a loop written by hand in torch, and pythae's trainer.

Each is called `loop(vae, x, curve, steps=steps, batch=batch)`, trains the networks of `vae`, or
those within it, on the images x [N, D], binarized anew at each use, and calls the curve as `fit`
does: `started_epoch` before an epoch, `measuring` and `finished_epoch` after it.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from types import SimpleNamespace
from typing import Any

import pyro
import pyro.distributions as dist
import torch
from torch import Tensor, nn
from torch.nn import functional

import pyrovae as pv


def by_hand(
    made: Callable[[pv.VAE, int], Sequence[tuple[torch.optim.Optimizer, Callable[[int], float]]]],
) -> Callable[..., None]:
    """Return a training loop as one writes it in torch: closed-form KL, logits, no compiling.

    Args:
        made: takes the VAE and the number of all steps, and returns torch optimizers, each with
            its learning rate as a function of the steps so far.
    """

    def loop(vae: pv.VAE, x: Tensor, curve: Any, *, steps: int, batch: int) -> None:
        encoder, decoder = vae.posterior.net, vae.likelihood.net
        optimizers, step = made(vae, steps), 0
        while step < steps:
            curve.started_epoch(None)
            for index in torch.randperm(len(x)).split(batch)[: steps - step]:
                bits = torch.bernoulli(x[index])
                loc, raw = encoder(bits).chunk(2, -1)
                scale = functional.softplus(raw) + 1e-5
                logits = decoder(loc + scale * torch.randn_like(loc))
                nll = functional.binary_cross_entropy_with_logits(logits, bits, reduction="sum")
                kl = (0.5 * (loc**2 + scale**2 - 1) - scale.log()).sum()
                vae.zero_grad()
                ((nll + kl) / len(bits)).backward()
                for optimizer, rate in optimizers:
                    for group in optimizer.param_groups:
                        group["lr"] = rate(step)
                    optimizer.step()
                step += 1
            curve.measuring(None)
            curve.finished_epoch(SimpleNamespace(step=step))

    return loop


class PythaeGuide(nn.Module):
    """Sample z from the posterior of a model of pythae."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, x: Tensor) -> Tensor:
        """Sample z."""
        found = self.model.encoder(x)
        q = dist.Normal(found.embedding, (0.5 * found.log_covariance).exp()).to_event(1)
        return pyro.sample("z", q)


class PythaeLikelihood(nn.Module):
    """Score x by the decoder of a model of pythae, which returns probabilities."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, z: Tensor, x: Tensor | None = None) -> Tensor:
        """Observe or sample x."""
        shape = z.shape[:-1]
        probs = self.model.decoder(z.flatten(0, -2)).reconstruction.reshape(*shape, -1)
        return pyro.sample("x", dist.Bernoulli(probs).to_event(1), obs=x)


class PythaeVampPrior(nn.Module):
    """Sample z from the mixture of posteriors of a VAMP of pythae."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self) -> Tensor:
        """Sample z."""
        inputs = self.model.pseudo_inputs(self.model.idle_input.to(next(self.parameters()).device))
        found = self.model.encoder(inputs)
        parts = dist.Normal(found.embedding, (0.5 * found.log_covariance).exp()).to_event(1)
        which = dist.Categorical(logits=torch.zeros(len(inputs)))
        return pyro.sample("z", dist.MixtureSameFamily(which, parts))


def pythae_vae(name: str, encoder: nn.Module, decoder: nn.Module, **settings: Any) -> pv.VAE:
    """Return the programs of a model of pythae, which our estimators score.

    Args:
        name: the name of the model, such as "VAE".
        encoder: maps x to the means and log-variances.
        decoder: maps z to logits.
        **settings: the configuration of the model.
    """
    from pythae import models
    from pythae.models.base.base_utils import ModelOutput
    from pythae.models.nn import BaseDecoder, BaseEncoder

    class Encoder(BaseEncoder):
        def __init__(self) -> None:
            nn.Module.__init__(self)
            self.net = encoder

        def forward(self, x: Tensor) -> Any:
            loc, log_variance = self.net(x.flatten(1)).chunk(2, -1)
            return ModelOutput(embedding=loc, log_covariance=log_variance)

    class Decoder(BaseDecoder):
        def __init__(self) -> None:
            nn.Module.__init__(self)
            self.net = decoder

        def forward(self, z: Tensor) -> Any:
            return ModelOutput(reconstruction=torch.sigmoid(self.net(z)))

    config = getattr(models, f"{name}Config")(reconstruction_loss="bce", **settings)
    model = getattr(models, name)(config, Encoder(), Decoder())
    vamp = hasattr(model, "pseudo_inputs")
    prior = PythaeVampPrior(model) if vamp else pv.priors.StandardNormal(model.latent_dim)
    return pv.VAE(prior, PythaeLikelihood(model), PythaeGuide(model))


def by_pythae(**settings: Any) -> Any:
    """Return the training by pythae's `BaseTrainer`, with the settings of its configuration.

    The images are binarized as its own scripts do it, one by one as they are read.
    """

    def loop(vae: pv.VAE, x: Tensor, curve: Any, *, steps: int, batch: int) -> None:
        from pythae.data.datasets import BaseDataset, DatasetOutput
        from pythae.trainers import BaseTrainer, BaseTrainerConfig
        from pythae.trainers.training_callbacks import TrainingCallback

        class Binarized(BaseDataset):
            def __getitem__(self, index: int) -> Any:
                data = (torch.rand_like(self.data[index]) < self.data[index]).float()
                return DatasetOutput(data=data, labels=self.labels[index])

        epochs, step = -(-steps * batch // len(x)), 0

        class Clock(TrainingCallback):
            def on_epoch_begin(self, training_config: Any, **kwargs: Any) -> None:
                curve.started_epoch(None)

            def on_epoch_end(self, training_config: Any, **kwargs: Any) -> None:
                nonlocal step
                step = min(step + -(-len(x) // batch), steps)
                curve.measuring(None)
                curve.finished_epoch(SimpleNamespace(step=step))
                curve.started_epoch(None)

        with tempfile.TemporaryDirectory() as folder:
            config = BaseTrainerConfig(
                output_dir=folder,
                num_epochs=epochs,
                per_device_train_batch_size=batch,
                no_cuda=True,
                **{k: v(epochs) if callable(v) else v for k, v in settings.items()},
            )
            data = Binarized(x, torch.zeros(len(x)))
            BaseTrainer(
                vae.posterior.model, data, training_config=config, callbacks=[Clock()]
            ).train()

    return loop
