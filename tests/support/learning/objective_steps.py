"""One step of the objective on small networks: its terms, its gradients, and which networks ran."""

from __future__ import annotations

from torch import Tensor, nn

from siamese_core.diffusers_backend.networks import SiameseNetworks
from siamese_core.method.objective import ObjectiveSettings, StepTerms, TrainingBatch, siamese_step
from tests.support.small_models import recorded_calls

EARLY, LATE, TOTAL = 1, 5, 6


def run(
    networks: SiameseNetworks,
    batch: TrainingBatch,
    settings: ObjectiveSettings | None = None,
    step: int = LATE,
) -> tuple[StepTerms, list[float], list[tuple[str, int]]]:
    """The step's terms, the parts it back-propagated, and which networks ran between them."""
    parts: list[float] = []
    with recorded_calls(networks) as calls:

        def backward(part: Tensor) -> None:
            calls.append(("backward", 1))
            parts.append(part.item())
            part.backward()

        for parameter in networks.trained_parameters():
            parameter.grad = None
        terms = siamese_step(networks, batch, settings or ObjectiveSettings(), step, TOTAL, backward)
    return terms, parts, calls


def names_of(calls: list[tuple[str, int]]) -> list[str]:
    return [name for name, _ in calls]


def gradients(networks: SiameseNetworks) -> dict[str, Tensor]:
    modules: dict[str, nn.Module] = {"control": networks.control, "decoder": networks.decoder}
    return {
        f"{part}.{name}": parameter.grad.clone()
        for part, module in modules.items()
        for name, parameter in module.named_parameters()
        if parameter.grad is not None
    }
