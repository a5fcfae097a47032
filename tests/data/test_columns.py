"""Labels and covariates as numbers."""

import decimal

import numpy as np
import pytest
import torch

from pyrovae.data.columns import classes_of, covariate, labeled


def test_labels_are_numbered_or_kept():
    assert labeled(np.array(["b", "a", "b"]), "y").tolist() == [1, 0, 1]
    assert labeled(np.array([[7], [3]], dtype=np.int16), "y").tolist() == [7, 3]
    assert labeled(np.array([1.0, 2.0]), "y").tolist() == [1, 2]
    assert labeled(np.array([True, False]), "y").tolist() == [1, 0]


def test_words_name_the_numbers_of_labels():
    for values in (np.array(["b", "a", "b"]), np.array([["b"], ["a"]], dtype=object)):
        assert classes_of(values, "y") == ("a", "b")
    assert classes_of(np.array([7, 3]), "y") == classes_of(np.array([1.0]), "y") == ()


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (np.array([0.5]), "y has numbers that are not whole"),
        (np.array(["a", None], dtype=object), "y has 1 missing values"),
        (np.zeros((2, 2)), r"y has shape \(2, 2\): give one label for each row"),
    ],
)
def test_labels_that_are_wrong_are_one_line(values, message):
    with pytest.raises(ValueError, match=message):
        labeled(values, "y")


def test_a_covariate_is_a_number_or_a_category():
    number, kind = covariate(np.array([0.5, 2.0]), None, "'c'")
    assert (number.tolist(), kind) == ([[0.5], [2.0]], "number")
    whole = np.array([3, 1, 3])
    number, _ = covariate(whole, "number", "'c'")
    assert number.tolist() == [[3.0], [1.0], [3.0]]
    one_hot, kind = covariate(whole, "category", "'c'")
    assert (one_hot.tolist(), kind) == ([[0, 1], [1, 0], [0, 1]], ["1", "3"])
    assert covariate(np.zeros((3, 2)), None, "'c'")[0].shape == (3, 2)
    assert covariate(np.array([True, False]), None, "'c'")[1] == ["False", "True"]


def test_categories_that_are_given_keep_their_places():
    one_hot, kind = covariate(np.array(["b"]), ["a", "b", "c"], "'c'")
    assert torch.equal(one_hot, torch.tensor([[0.0, 1.0, 0.0]]))
    assert kind == ["a", "b", "c"]
    with pytest.raises(ValueError, match="'c' has the value 'd', which is none of those trained"):
        covariate(np.array(["d"]), kind, "'c'")


@pytest.mark.parametrize(
    ("values", "kind", "message"),
    [
        (np.array([1, 2]), None, "categories or amounts: give covariates={'c': \"category\"}"),
        (np.array(["a"]), "number", "holds <U1, not numbers"),
        (np.array([1.0, np.nan]), None, "has missing or infinite values"),
        (np.array(["a", np.nan], dtype=object), None, "has 1 missing values"),
    ],
)
def test_covariates_that_are_wrong_are_one_line(values, kind, message):
    with pytest.raises(ValueError, match=message):
        covariate(values, kind, "'c' of x")


@pytest.mark.parametrize(
    ("values", "what"),
    [
        (np.array(["2020-01-01", "2020-01-02"], "datetime64[ns]"), "dates"),
        (np.array([decimal.Decimal(1), decimal.Decimal(2)]), "Decimal"),
        (np.array([1, "a"], dtype=object), "int"),
    ],
)
def test_values_that_may_be_amounts_are_no_categories_unasked(values, what):
    with pytest.raises(ValueError, match=f"'c' of x holds {what}, neither words nor numbers"):
        covariate(values, None, "'c' of x")
    assert covariate(values, "category", "'c' of x")[0].shape == (2, 2)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_labels_that_are_missing_are_said(value):
    with pytest.raises(ValueError, match="y has missing or infinite values"):
        labeled(np.array([0.0, value]), "y")
