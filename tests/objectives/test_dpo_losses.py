"""Every loss of preferences against its formula, written out in Python's own numbers."""

from __future__ import annotations

import math

import pytest
import torch

from trainwright.config.options import DPOOptions
from trainwright.objectives.dpo_losses import LOSSES, Pairs, losses_of, scores

# log-probabilities of the answers under the policy and the reference, and their tokens: no two alike, none at 0
CHOSEN, REJECTED = [-11.0, -7.5, -20.25], [-12.5, -6.0, -13.0]
REF_CHOSEN, REF_REJECTED = [-12.25, -6.75, -18.0], [-10.0, -8.5, -13.5]
CHOSEN_TOKENS, REJECTED_TOKENS, NLL = [5.0, 3.0, 8.0], [4.0, 7.0, 2.0], 1.375
BETA, SMOOTHING, TAU = 0.3, 0.15, 0.05
A = [p - r for p, r in zip(CHOSEN, REF_CHOSEN, strict=True)]  # log-ratios of the chosen answers
B = [p - r for p, r in zip(REJECTED, REF_REJECTED, strict=True)]
PAIRS = Pairs(*(torch.tensor(one, dtype=torch.float64) for one in (
    CHOSEN, REJECTED, REF_CHOSEN, REF_REJECTED, CHOSEN_TOKENS, REJECTED_TOKENS, NLL)))  # fmt: skip


def sigma(x):
    return 1 / (1 + math.exp(-x))


def nll(x):
    return math.log1p(math.exp(-x))


def smoothed(x):
    return (1 - SMOOTHING) * nll(x) + SMOOTHING * nll(-x)


def by_rank(first, second):
    """AOT pairs the least with the least, and so on."""
    return [x - y for x, y in zip(sorted(first), sorted(second), strict=True)]


def of_margins(function):
    return [function(BETA * (a - b)) for a, b in zip(A, B, strict=True)]


def of_both(function):
    return [function(BETA * a, BETA * b) for a, b in zip(A, B, strict=True)]


def exo(z):
    """The divergence of Bernoulli(sigma(z)) from Bernoulli(1 - noise)."""
    p = sigma(z)
    return p * math.log(p / (1 - SMOOTHING)) + (1 - p) * math.log((1 - p) / SMOOTHING)


NORMED = [a / n - b / m for a, b, n, m in zip(A, B, CHOSEN_TOKENS, REJECTED_TOKENS, strict=True)]
FORMULAS = {
    "sigmoid": of_margins(nll),
    "hinge": of_margins(lambda z: max(0.0, 1 - z)),
    "ipo": [(x - 1 / (2 * BETA)) ** 2 for x in NORMED],
    "exo_pair": of_margins(exo),
    "nca_pair": of_both(lambda a, b: nll(a) + 0.5 * nll(-a) + 0.5 * nll(-b)),
    "robust": of_margins(lambda z: ((1 - SMOOTHING) * nll(z) - SMOOTHING * nll(-z)) / (1 - 2 * SMOOTHING)),
    "bco_pair": of_both(lambda a, b: nll(a) + nll(-b)),
    "sppo_hard": [(a - 0.5 / BETA) ** 2 + (b + 0.5 / BETA) ** 2 for a, b in zip(A, B, strict=True)],
    "aot": [smoothed(BETA * x) for x in by_rank(
        [p - q for p, q in zip(CHOSEN, REJECTED, strict=True)],
        [p - q for p, q in zip(REF_CHOSEN, REF_REJECTED, strict=True)],
    )],
    "aot_unpaired": [smoothed(BETA * x) for x in by_rank(A, B)],
    "apo_zero": of_both(lambda a, b: 1 - sigma(a) + sigma(b)),
    "apo_down": of_both(lambda a, b: sigma(a) + 1 - sigma(a - b)),
    "discopop": of_margins(lambda z: nll(z) * (1 - sigma(z / TAU)) + math.exp(-z) * sigma(z / TAU)),
    "sft": [NLL] * 3,
    "sigmoid_norm": [nll(BETA * x) for x in NORMED],
}  # fmt: skip


def options(**more):
    return DPOOptions(beta=BETA, discopop_tau=TAU, **more)


def loss(name, **more):
    return LOSSES[name](scores(PAIRS, options(**more)))


@pytest.mark.parametrize("name", LOSSES)
def test_a_loss_is_its_formula(name):
    noise = SMOOTHING if name in ("exo_pair", "robust", "aot", "aot_unpaired") else 0.0
    found = loss(name, label_smoothing=noise)
    torch.testing.assert_close(found.tolist(), FORMULAS[name], rtol=1e-12, atol=0)  # float64, another order


DIVERGENCES = {
    "forward_kl": lambda x: 1 - math.exp(-x),
    "js_divergence": lambda x: math.log(2 * sigma(x)),
    "alpha_divergence": lambda x: (math.exp(-0.3 * x) - 1) / -0.3,
}


@pytest.mark.parametrize("name", DIVERGENCES)
def test_a_divergence_changes_the_ratios_of_the_margin(name):
    found = loss("sigmoid", f_divergence_type=name, f_alpha_divergence_coef=0.7)
    change = DIVERGENCES[name]
    expected = [nll(BETA * (change(a) - change(b))) for a, b in zip(A, B, strict=True)]
    close = 1e-6 if name == "alpha_divergence" else 1e-12  # its power is taken in float32, as TRL does
    torch.testing.assert_close(found.tolist(), expected, rtol=close, atol=0)


def test_an_alpha_of_one_is_the_reverse_divergence_and_large_ratios_stay_finite():
    plain = loss("sigmoid", f_divergence_type="alpha_divergence", f_alpha_divergence_coef=1.0)
    assert plain.tolist() == loss("sigmoid").tolist()
    for kind, most in ((torch.float32, 80.0), (torch.float16, 11.0)):
        far = [torch.tensor([x], dtype=kind) for x in (400.0, 0.0, 0.0, 0.0, 1.0, 1.0)]
        given = options(f_divergence_type="alpha_divergence", f_alpha_divergence_coef=2.0)
        found = scores(Pairs(*far, far[0]), given).score_chosen
        assert found.dtype == kind
        assert found.item() == pytest.approx(math.exp(most) - 1, rel=1e-3)


def test_losses_are_added_with_their_weights_and_those_of_the_pairs():
    given = options(loss_type=["sigmoid", "bco_pair"], loss_weights=[0.8, 0.2])
    weights = torch.tensor([1.0, 0.5, 2.0], dtype=torch.float64)
    sums = [0.8 * a + 0.2 * b for a, b in zip(FORMULAS["sigmoid"], FORMULAS["bco_pair"], strict=True)]
    torch.testing.assert_close(losses_of(PAIRS, given).tolist(), sums, rtol=1e-12, atol=0)
    weighed = [w * x for w, x in zip(weights.tolist(), sums, strict=True)]
    torch.testing.assert_close(losses_of(PAIRS, given, weights).tolist(), weighed, rtol=1e-12, atol=0)
    plain = losses_of(PAIRS, options(loss_type=["sigmoid", "bco_pair"])).tolist()
    expected = [a + b for a, b in zip(FORMULAS["sigmoid"], FORMULAS["bco_pair"], strict=True)]
    torch.testing.assert_close(plain, expected, rtol=1e-12, atol=0)
