"""Logistic regression with an L2 penalty, fitted to convergence.

Shapes: N examples, D width of the features, K outputs.
"""

from collections.abc import Iterator, Sequence

import torch
import torch.nn.functional as F

STRENGTHS = (1.0, 0.3, 0.1, 0.03, 0.01)  # for features scaled by `Scaling`
ITERATIONS = 300


def fit_logistic(
    scaled: torch.Tensor, targets: torch.Tensor, outputs: int, strengths: Sequence[float]
) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """Yield weight [K, D] and bias [K] for each strength. Each fit starts from the one before.

    strengths: best in falling order.   targets: class ids [N], or 0 and 1 [N, K] for outputs that do not exclude each
    other. The penalty strength/2 · ‖weight‖² is added to the sum of N losses.
    """
    multi = targets.ndim == 2
    targets = targets.to(scaled.dtype) if multi else targets
    weight = torch.zeros(outputs, scaled.shape[1], dtype=scaled.dtype, requires_grad=True)
    bias = torch.zeros(outputs, dtype=scaled.dtype, requires_grad=True)
    for strength in strengths:
        solver = torch.optim.LBFGS(
            [weight, bias],
            max_iter=ITERATIONS,
            tolerance_grad=1e-6,
            tolerance_change=1e-9,
            line_search_fn="strong_wolfe",
        )

        def closure(solver: torch.optim.LBFGS = solver, strength: float = strength) -> torch.Tensor:
            solver.zero_grad()
            logits = F.linear(scaled, weight, bias)
            loss = (
                F.binary_cross_entropy_with_logits(logits, targets, reduction="sum") / len(scaled)
                if multi
                else F.cross_entropy(logits, targets)
            )
            total = loss + strength / (2 * len(scaled)) * weight.square().sum()
            total.backward()
            return total

        with torch.enable_grad():
            solver.step(closure)
        yield weight.detach().clone(), bias.detach().clone()
