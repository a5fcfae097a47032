"""A damaged checkpoint is passed over and said to be, and nothing in a file is believed unseen."""

import os
import random

import pytest
import safetensors.torch
import torch

import pyrovae as pv
from pyrovae.files import trees
from pyrovae.runs.checkpoints import Checkpoints, Damaged

MUTATIONS = int(os.environ.get("MUTATIONS", "100"))
"""How many random damages are tried: 1000 tell more."""

STATE = {
    "tensors": {"a": torch.arange(6.0).reshape(2, 3), "b": torch.tensor(3)},
    0: [None, True, 1.5, float("inf"), "text", (1, (2,))],
    "nothing": {},
}


def trained(folder, *, epochs=3, **options):
    torch.manual_seed(0)
    vae = pv.mlp_vae(16, latents=2, hidden=4)
    data = torch.ones(10, 16)
    pv.fit(vae, data, epochs=epochs, callbacks=[pv.Checkpoint(folder)], **options)
    return vae


def test_a_tree_returns_as_it_was():
    tensors, rest = trees.split(STATE)
    found = trees.joined(tensors, rest)
    assert torch.equal(found["tensors"].pop("a"), STATE["tensors"]["a"])
    assert found == {**STATE, "tensors": {"b": STATE["tensors"]["b"]}}
    assert isinstance(found[0][5][1], tuple)


def test_tensors_at_places_of_one_name_stay_apart():
    one, two, three = torch.ones(2), torch.zeros(3), torch.ones(1)
    state = {1: one, "1": two, "a/b": three, "a": {"b": one}, "a/b'": two}
    found = trees.joined(*trees.split(state))
    assert found.keys() == state.keys()
    for key in (1, "1", "a/b", "a/b'"):
        assert torch.equal(found[key], state[key])
    assert torch.equal(found["a"]["b"], one)


def test_not_a_number_stays_not_a_number():
    assert trees.joined(*trees.split(float("nan"))) != 0


@pytest.mark.parametrize(
    "rest", [[1], {"dict": 3}, {"tensor": "x"}, {"set": []}, {"a": 1, "b": 2}]
)
def test_a_damaged_tree_is_refused(rest):
    with pytest.raises(ValueError, match="the state is damaged"):
        trees.joined({}, rest)


@pytest.mark.parametrize("damage", ["truncated", "flipped", "emptied", "foreign"])
def test_the_checkpoint_before_a_damaged_one_is_read(damage, tmp_path):
    """And the training, which resumes an epoch earlier, ends where it would have."""
    wanted = trained(tmp_path / "whole")
    trained(tmp_path / "run", epochs=2)
    *_, (_, path) = Checkpoints(tmp_path / "run").files()
    content = path.read_bytes()
    middle = len(content) // 2
    path.write_bytes(
        {
            "truncated": content[:middle],
            "flipped": content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :],
            "emptied": b"",
            "foreign": safetensors.torch.save({"a": torch.ones(3)}),
        }[damage]
    )
    with pytest.warns(UserWarning, match=f"{path.name} is damaged.*resumes from the one before"):
        found = trained(tmp_path / "run", resume=tmp_path / "run")
    for one, other in zip(found.parameters(), wanted.parameters(), strict=True):
        assert torch.equal(one, other)


def test_no_whole_checkpoint_is_an_error(tmp_path):
    trained(tmp_path, epochs=2)
    for _, path in Checkpoints(tmp_path).files():
        path.write_bytes(b"")
    with pytest.raises(ValueError, match=r"no checkpoint in .* is whole: .*; .*"):
        trained(tmp_path, resume=tmp_path)


def test_another_schema_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr("pyrovae.runs.checkpoints.SCHEMA", 99)
    Checkpoints(tmp_path).write(1, STATE)
    monkeypatch.undo()
    with pytest.raises(ValueError, match="has the schema 99, and .* reads 2"):
        Checkpoints(tmp_path).newest()


def test_any_damage_is_seen(tmp_path):
    """Of bits, of lengths, and of bytes put in."""
    Checkpoints(tmp_path).write(1, STATE)
    [(_, path)] = Checkpoints(tmp_path).files()
    content, draw = path.read_bytes(), random.Random(0)
    for _ in range(MUTATIONS):
        changed = bytearray(content)
        at = draw.randrange(len(changed))
        draw.choice(
            [
                lambda c=changed, a=at: c.__setitem__(a, c[a] ^ 1 << draw.randrange(8)),
                lambda c=changed, a=at: c.__delitem__(slice(a, None)),
                lambda c=changed, a=at: c.insert(a, draw.randrange(256)),
                lambda c=changed, a=at: c.__setitem__(slice(a, a + 8), bytes(8)),
            ]
        )()
        if bytes(changed) == content:
            continue
        path.write_bytes(changed)
        with pytest.raises(Damaged, match="is damaged: its content is not that of its name"):
            Checkpoints(tmp_path).read(path)


def test_a_state_of_another_form_is_refused(tmp_path):
    """A whole file that no training wrote."""
    trained(tmp_path, epochs=1)
    checkpoints = Checkpoints(tmp_path)
    state, _ = checkpoints.newest()
    number = 100
    for name, value in state.items():
        without = {other: state[other] for other in state if other != name}
        for changed in (without, without | {name: "text"}, without | {name: [value]}):
            number += 1
            checkpoints.write(number, changed)
            with pytest.raises(ValueError, match="not one of this version|data or the batch"):
                trained(tmp_path / "again", resume=tmp_path)
