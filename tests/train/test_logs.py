"""What is logged is what the training has measured, in files that others read."""

import csv
import math

import matplotlib.image
import numpy as np
import pytest
import torch
from trainings import numbers, small_vae

import pyrovae as pv
from pyrovae.train.logs import pixels

SIZE = 12
X = numbers(60, SIZE)
FEW = numbers(5, SIZE)


class Fake:
    """A logger of one's own, as those of Lightning."""

    def __init__(self):
        self.lines, self.images, self.status = [], [], None

    def log_metrics(self, metrics, step=None):
        self.lines.append((step, dict(metrics)))

    def log_image(self, key, images, step=None, **kwargs):
        self.images.append((key, step, [image.shape[-1] for image in images], images[0].dtype))

    def finalize(self, status):
        self.status = status


def fit(*callbacks, epochs=2, **options):
    return pv.fit(
        small_vae(SIZE), X, validation=X, epochs=epochs, batch_size=20,
        callbacks=list(callbacks), **options,
    )  # fmt: skip


class Note(pv.Callback):
    def __init__(self):
        self.seen = {}

    def stepped(self, training):
        self.seen[training.step] = {
            "loss": training.loss,
            "learning_rate": training.learning_rate,
            "gradient_norm": training.gradient_norm,
        }


RATE = pv.learning_rates.cosine(0.01, 6)


def test_a_logger_of_ones_own_gets_every_number():
    logger, note = Fake(), Note()
    optim = pv.Optim(torch.optim.AdamW, lr=RATE)
    history = fit(pv.Log(logger, every=2), note, step=pv.Step(optim, clip_norm=1.0))
    epochs = [vars(epoch) for epoch in history.epochs]
    assert logger.lines == [
        (2, note.seen[2]), (3, epochs[0]), (4, note.seen[4]), (6, note.seen[6]), (6, epochs[1]),
    ]  # fmt: skip
    assert note.seen[4]["learning_rate"] == RATE(3)
    assert note.seen[4]["gradient_norm"] > 0
    assert (logger.images, logger.status) == ([], "success")


def test_numbers_that_are_not_there_are_left_out():
    logger = Fake()
    pv.fit(small_vae(SIZE), X, epochs=1, callbacks=[pv.Log(logger, every=1)])
    (_, _), (_, epoch) = logger.lines
    assert "elbo" in epoch
    assert "validation_elbo" not in epoch


def test_pictures_are_drawn_every_few_epochs():
    logger, x = Fake(), FEW
    fit(pv.Log(logger, pictures=pv.Pictures(x, (1, 3, 4), every=2)), epochs=4)
    drawn = [(key, step) for key, step, *_ in logger.images]
    assert drawn == [(key, step) for step in (6, 12) for key in ("reconstructions", "samples")]
    assert all(image[2:] == ([3], np.uint8) for image in logger.images)


def test_pictures_change_nothing_of_the_training():
    vaes = [small_vae(SIZE), small_vae(SIZE)]
    log = pv.Log(Fake(), pictures=pv.Pictures(FEW, (1, 3, 4)))
    for vae, callbacks in zip(vaes, ([], [log]), strict=True):
        pv.fit(vae, X, epochs=2, callbacks=callbacks, seed=3)
    for one, other in zip(vaes[0].parameters(), vaes[1].parameters(), strict=True):
        assert torch.equal(one, other)


def test_a_csv_file_has_the_numbers_of_the_history(tmp_path):
    path = tmp_path / "logs" / "log.csv"
    note = Note()
    history = fit(pv.Log(pv.CSVLogger(path), every=2), note)
    with path.open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [int(row["step"]) for row in rows] == [2, 3, 4, 6, 6]
    for row, epoch in zip((rows[1], rows[4]), history.epochs, strict=True):
        assert {n: float(row[n]) for n in vars(epoch)} == vars(epoch)
        assert row["learning_rate"] == ""
    assert {n: float(rows[2][n]) for n in note.seen[4]} == note.seen[4]
    assert rows[2]["elbo"] == ""


def steps_in(path):
    return [line.split(",")[0] for line in path.read_text().splitlines()]


def test_a_new_training_replaces_the_file_and_a_resumed_one_continues_it(tmp_path):
    path = tmp_path / "log.csv"
    fit(pv.Log(pv.CSVLogger(path), every=2))
    logger = pv.CSVLogger(path)
    logger.begin(3, 1)
    logger.log_metrics({"other": 1.0}, 4)
    assert steps_in(path) == ["step", "2", "3", "4"]
    assert path.read_text().splitlines()[0].endswith(",other")
    fit(pv.Log(pv.CSVLogger(path), every=3), epochs=1)
    assert steps_in(path) == ["step", "3", "3"]


def test_tensorboards_own_reader_reads_what_was_logged(tmp_path):
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    history = fit(
        pv.Log(
            pv.TensorBoardLogger(tmp_path), every=2, pictures=pv.Pictures(FEW, (1, 3, 4))
        )
    )  # fmt: skip
    events = accumulator.EventAccumulator(str(tmp_path))
    events.Reload()
    found = [(event.step, event.value) for event in events.Scalars("elbo")]
    assert [step for step, _ in found] == [3, 6]
    assert [value for _, value in found] == pytest.approx(history.column("elbo"), rel=1e-6)
    assert [event.step for event in events.Scalars("gradient_norm")] == [2, 4, 6]
    assert [event.step for event in events.Images("samples")] == [3, 6]


def test_a_resumed_training_goes_on_in_tensorboard(tmp_path):
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    for first, steps in ((0, (1, 2, 3)), (2, (3, 4))):
        logger = pv.TensorBoardLogger(tmp_path)
        logger.begin(first)
        for step in steps:
            logger.log_metrics({"loss": first + step}, step)
        logger.finalize()
    events = accumulator.EventAccumulator(str(tmp_path))
    events.Reload()
    found = {event.step: event.value for event in events.Scalars("loss")}
    assert found == {1: 1.0, 2: 2.0, 3: 5.0, 4: 6.0}
    assert len(events.Scalars("loss")) == 4


def test_without_tensorboard_the_extra_is_named(tmp_path, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "torch.utils.tensorboard", None)
    with pytest.raises(ValueError, match=r"pip install 'pyrovae\[logging\]'"):
        pv.TensorBoardLogger(tmp_path)


def test_a_live_figure_is_there_after_each_epoch(tmp_path):
    path, shapes = tmp_path / "live.png", []

    class Read(pv.Callback):
        def finished_epoch(self, training):
            shapes.append(matplotlib.image.imread(path).shape)

    fit(pv.LiveFigure(path), Read(), epochs=3)
    assert len(shapes) == 3
    assert [file.name for file in tmp_path.iterdir()] == ["live.png"]


def test_a_history_plots_itself_in_one_line():
    figure = fit().plot()
    assert [axes.get_title(loc="left") for axes in figure.axes] == ["ELBO", "rate", "distortion"]
    assert pixels(figure).ndim == 3


def test_a_broken_training_is_finalized_as_failed():
    class Poison(pv.Callback):
        def stepped(self, training):
            with torch.no_grad():
                next(iter(training.parameters.values())).fill_(math.nan)

    logger = Fake()
    with pytest.raises(pv.NonFiniteLoss):
        fit(Poison(), pv.Log(logger))
    assert logger.status == "failed"


class Numbers:
    def log_metrics(self, metrics, step):
        pass


PICTURES = {"pictures": pv.Pictures(FEW, (1, 3, 4))}


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: pv.Log(print), r"a logger has a method log_metrics\(metrics, step\)"),
        (lambda: pv.Log(Fake), "a logger has a method"),
        (lambda: pv.Log(Fake(), every=0), "every 1 or more steps are logged; got every=0"),
        (
            lambda: pv.Pictures(FEW, (1, 3, 4), every=0),
            "1 or more epochs; got every=0",
        ),
        (lambda: pv.LiveFigure("live.pdf"), r"a \.png file; got the name 'live\.pdf'"),
        (lambda: fit(pv.Log(Numbers(), **PICTURES)), "Numbers takes no images: it has no log_im"),
    ],
)
def test_what_cannot_log_is_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_pictures_are_of_a_vae():
    vae = small_vae(SIZE)
    with pytest.raises(ValueError, match="pictures are drawn of a VAE; the target is a pair"):
        pv.fit((vae.model, vae.guide), X, callbacks=[pv.Log(Fake(), **PICTURES)])
