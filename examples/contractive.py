"""A contractive auto-encoder: a code that hardly moves when its image does.

    model  z ~ N(0, I),  x ~ N(W' z + c, s^2 I)      guide  z = f(x) = sigmoid(W x + b)

    minimize  -log p(x | f(x)) + weight |J(x)|^2,     J(x) = df / dx,  squared Frobenius norm

The guide is a point mass, and the KL term has the weight 0. The penalty is an objective of ten
lines, composed with `Regularized` of the library. The decoder has the encoder's weights: otherwise
the codes would shrink and the decoder would stretch them.

The script prints, for test images, the squared norm; the directions that hold 90% of it; how far
noise of standard deviation 0.25 a pixel moves a code, as a share of the distance between codes;
the distance |x - W' z - c|^2 of the image decoded from the code, and from the code of the noisy
image; and the accuracy of a linear classifier fitted to the codes of clean training images. In
38 s of one core:

    weight                                 0             1             3
    |J|^2                               9.50          3.43          1.44
    directions; moved by noise   37.8; 26.0%   23.2; 15.6%   15.1; 10.7%
    distance: clean; noisy        0.06; 2.32    0.38; 1.45    0.74; 1.34
    accuracy: clean; noisy      96.6%; 89.9%  96.0%; 88.9%  95.6%; 88.6%

The contracted codes remove noise. The classifier neither gains nor loses beyond the error of 297
images, about one point on clean and two on noisy ones.

References:
    Rifai, Vincent, Muller, Glorot, Bengio, 2011. Contractive Auto-Encoders.
"""

import argparse

import pyro
import torch
from sklearn.linear_model import LogisticRegression
from torch import Tensor, nn
from torch.func import jacrev, vmap

import pyrovae as pv
from pyrovae.objectives.regularized import Regularized

CODES, WIDTH, NOISE = 60, 64, 0.25


class Tied(nn.Module):
    """The decoder W' z + c of an encoder W x + b."""

    def __init__(self, encoder: nn.Linear) -> None:
        super().__init__()
        self.encoder = encoder
        self.bias = nn.Parameter(torch.zeros(encoder.in_features))

    def forward(self, z: Tensor) -> Tensor:
        return z @ self.encoder.weight + self.bias


class Contractive(Regularized):
    """Penalize |J(x)|^2 = sum_j [z_j (1 - z_j)]^2 |W_j|^2 at the codes z of a minibatch."""

    def __init__(self, linear: nn.Linear, weight: float) -> None:
        super().__init__()
        self.linear, self.weight = linear, weight

    def regularized(self, minibatch) -> Tensor:
        z = minibatch.values()
        penalty = (z * (1 - z)).square() @ self.linear.weight.square().sum(1)
        return minibatch.negative_elbo + self.weight * (minibatch.data_scale * penalty).sum()


def trained(x: Tensor, weight: float, epochs: int) -> pv.VAE:
    torch.manual_seed(0)  # the networks' first weights
    linear = nn.Linear(WIDTH, CODES)
    encoder = nn.Sequential(linear, nn.Sigmoid())
    vae = pv.VAE(
        prior=pv.priors.StandardNormal(CODES),
        likelihood=pv.likelihoods.Normal(Tied(linear), scale=NOISE),
        guide=pv.guides.Delta(encoder),
    )
    step = pv.Step(pyro.optim.Adam({"lr": 3e-3}), loss=Contractive(linear, weight), kl_weight=0.0)
    pv.fit(vae, x, epochs=epochs, batch_size=100, step=step, callbacks=[])
    return vae


def measure(vae: pv.VAE, data: pv.data.DataSet) -> str:
    """Describe the codes of the test images."""
    encoder, x = vae.posterior.net, data.test.x
    noise = torch.randn(x.shape, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        train, clean, noisy = (encoder(images) for images in (data.train.x, x, x + NOISE * noise))
        errors = [(vae.decode(z).mean - x).square().sum(1).mean() for z in (clean, noisy)]
        squares = torch.linalg.svdvals(vmap(jacrev(encoder))(x)).square()
    shares = squares.cumsum(1) / squares.sum(1, keepdim=True)
    directions = 1 + (shares < 0.9).double().sum(1).mean()
    moved = (noisy - clean).square().sum(1).mean() / (2 * clean.var(0).sum())
    classifier = LogisticRegression(C=10, max_iter=10_000).fit(train, data.train.labels)
    accuracy = [100 * classifier.score(codes, data.test.labels) for codes in (clean, noisy)]
    return (
        f"|J|^2 {squares.sum(1).mean():6.2f}   directions {directions:4.1f}   "
        f"moved by noise {100 * moved:4.1f}%   "
        f"distance {errors[0]:.2f}, noisy {errors[1]:.2f}   "
        f"accuracy {accuracy[0]:.1f}%, noisy {accuracy[1]:.1f}%"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--epochs", type=int, default=200)
    parser.add_argument("--weights", type=float, nargs="+", default=[0.0, 1.0, 3.0])
    parser.add_argument("--smoke", action="store_true", help="one epoch, two weights")
    args = parser.parse_args()
    if args.smoke:
        args.epochs, args.weights = 1, [0.0, 3.0]

    data = pv.data.load("digits")
    for weight in args.weights:
        vae = trained(data.train.x, weight, args.epochs)
        print(f"weight {weight:4.2f}   {measure(vae, data)}")


if __name__ == "__main__":
    main()
