"""What a faster sampler costs: distance of its images from the exact ones, realism, and mask adherence.

    python -m benchmarks.sampler_quality --model FILE --masks DIR --train DIR --plot docs/samplers.png --json

The exact images are those of DDIM with 500 steps, which is close enough to the solution of the sampling
equation. For a few masks at each guidance scale: the root mean square difference (of 255) between each
sampler's images and the exact ones (not for samplers that add noise), and its images per second (denoising
only, measured alternately). Then every sampler generates images for the same masks and seeds at the first
guidance scale: KID against the images of --masks and Dice of a segmentation network trained on --train, each
with its 95 % interval, and the difference of that Dice from the first sampler's, image by image.

--masks and --train are folders of real pairs. They default to the bundled nuclei, and --model to the bundled
model.
"""

from __future__ import annotations

import json
import sys
import tempfile
from collections.abc import Callable, Sequence
from contextlib import redirect_stdout
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from siamese_core import shipped
from siamese_core.architecture import LATENT_SCALE
from siamese_core.diffusers_backend.mask_sampling import Sampler, controlled_noise_predictor, sample_latents
from siamese_core.diffusers_backend.multistep_solvers import STOCHASTIC_SOLVERS
from siamese_core.diffusers_backend.prompt_encoding import encode_prompts
from siamese_core.diffusers_backend.siamese_model import SiameseModel, model_from_file
from siamese_core.learning.training_set import mask_hint
from siamese_core.masks.foreground_rule import PLAIN_MASKS
from siamese_core.pairs.pair_files import find_pairs, load_pair
from siamese_core.seeds import sample_seed
from siamese_core.weights.model_file import load_model
from training import generate
from training.evaluation.metrics.adherence import dice_of_pairs, train_judge
from training.evaluation.metrics.distances import Features, kid
from training.evaluation.metrics.features import efficientnet_lite0, extract
from training.segmentation.judge import SegmenterSettings
from training.statistics.intervals import Estimate, mean, statistic_estimate

from .measure import argument_parser, interleaved, note, prepare

_SEED = 42
_EXACT_STEPS = 500
_RESAMPLES = 1000


@dataclass(frozen=True)
class Solver:
    """A sampler and its number of steps."""

    sampler: Sampler
    steps: int

    @property
    def name(self) -> str:
        return f"{self.sampler} {self.steps}"


SOLVERS = (
    Solver("ddim", 50),
    Solver("ddim", 20),
    *(Solver("dpmpp-2m", steps) for steps in (8, 10, 15, 20)),
    *(Solver("unipc", steps) for steps in (11, 15, 19)),
    Solver("dpmpp-2m-sde", 25),
)
"""The first one is the paper's, with which the others are compared."""


@dataclass(frozen=True)
class Trajectories:
    """Images of a few masks from fixed noise, by any sampler."""

    model: SiameseModel
    prompt: str
    masks: Tensor  # (B, H, W) bool

    @torch.no_grad()
    def latents(self, solver: Solver, guidance: float) -> Tensor:
        """The scaled latents (B, 4, H/8, W/8)."""
        base, networks = self.model.base, self.model.networks
        context, unconditional = encode_prompts(base.text_encoder, base.tokenizer, [self.prompt, ""]).split(1)
        hint = mask_hint(self.masks).to(self.model.device)
        predict = controlled_noise_predictor(
            networks, [(hint, 1.0)], context, unconditional, guidance, shares_text=True
        )
        count, height, width = self.masks.shape
        seeds = [sample_seed(_SEED, index) for index in range(count)]
        return sample_latents(
            predict,
            seeds,
            height,
            width,
            solver.steps,
            device=self.model.device,
            sampler=solver.sampler,
            prediction=networks.prediction,
        )

    @torch.no_grad()
    def images(self, solver: Solver, guidance: float) -> Tensor:
        """The images (B, 3, H, W), float in 0..255, not rounded."""
        latents = self.latents(solver, guidance)
        pixels = [self.model.base.vae.decode(one / LATENT_SCALE).sample for one in latents.split(1)]
        return (torch.cat(pixels).float().clamp(-1.0, 1.0) + 1.0) * 127.5

    def distances(self, guidance: float) -> dict[str, float]:
        """Root mean square differences from the exact images (of 255), by deterministic solver."""
        exact = self.images(Solver("ddim", _EXACT_STEPS), guidance)
        found = {}
        for solver in SOLVERS:
            if solver.sampler in STOCHASTIC_SOLVERS:
                continue
            difference = self.images(solver, guidance) - exact
            found[solver.name] = float(difference.square().mean().sqrt())
            note(f"guidance {guidance:g}, {solver.name}: {found[solver.name]:.2f} of 255 from exact")
        return found


@dataclass(frozen=True)
class Judges:
    """The segmenter and real features that the images of every sampler are measured with."""

    segmenter: torch.nn.Module
    side: int
    real: Features

    def adherence(self, pairs: Path) -> Any:
        """Dice (N,) of the mask predicted for each image against the pair's mask."""
        return dice_of_pairs(
            self.segmenter,
            find_pairs(pairs),
            side=self.side,
            rule=PLAIN_MASKS,
            description="adherence",
        )

    def distance(self, pairs: Path) -> Estimate:
        """KID between the images of ``pairs`` and the real ones."""
        images = [pair.image for pair in find_pairs(pairs)]
        return kid(self.real, extract(efficientnet_lite0(), images), resamples=_RESAMPLES, seed=_SEED)


def judged(train: Path, masks: Path, side: int) -> Judges:
    """A segmenter trained on the real pairs ``train``, and the features of the images of ``masks``."""
    segmenter = train_judge(find_pairs(train), SegmenterSettings(), side=side, rule=PLAIN_MASKS, seed=_SEED)
    images = [pair.image for pair in find_pairs(masks)]
    return Judges(segmenter, side, extract(efficientnet_lite0(), images, label="real"))


def generated(model: Path, masks: Path, folder: Path, solver: Solver, guidance: float, per_mask: int) -> Path:
    """Generate pairs with ``solver`` and return their folder."""
    output = folder / solver.name.replace(" ", "-")
    words = ["--checkpoint", model, "--masks", masks, "--output", output, "--per-mask", per_mask]
    words += ["--sampler", solver.sampler, "--steps", solver.steps, "--guidance", guidance, "--seed", _SEED]
    with redirect_stdout(sys.stderr):  # stdout is reserved for the results
        if generate.main([str(word) for word in words]):
            raise SystemExit(f"training.generate failed for {solver.name}")
    return output


def compare(model: Path, masks: Path, train: Path, args: Any) -> list[dict[str, Any]]:
    """One row of figures per solver."""
    file = load_model(model)
    networks = model_from_file(file)
    side = int(file.training.get("resolution", networks.base.architecture.resolution))
    pairs = find_pairs(masks)
    shown = [load_pair(pair, size=(side, side)).mask for pair in pairs[: args.trajectories]]
    tracks = Trajectories(networks, str(file.training.get("prompt", "")), torch.from_numpy(np.stack(shown)))
    distances = {guidance: tracks.distances(guidance) for guidance in args.guidance}
    works: dict[str, Callable[[], Any]] = {
        solver.name: partial(tracks.latents, solver, args.guidance[0]) for solver in SOLVERS
    }
    seconds = interleaved(works, args.repeats, "sampling")
    judges = judged(train, masks, side)
    rows, first = [], None
    with tempfile.TemporaryDirectory() as folder:
        for solver in SOLVERS:
            per_mask = -(-args.images // len(pairs))
            output = generated(model, masks, Path(folder), solver, args.guidance[0], per_mask)
            dice = judges.adherence(output)
            first = dice if first is None else first
            rows.append(
                {
                    "solver": solver.name,
                    "distance": {f"{scale:g}": found.get(solver.name) for scale, found in distances.items()},
                    "images_per_second": len(shown) / seconds[solver.name],
                    "kid": _interval(judges.distance(output)),
                    "adherence": _interval(_mean(dice)),
                    "adherence_difference": _interval(_mean(dice - first)),
                    "images": len(dice),
                }
            )
    return rows


def _mean(values: Any) -> Estimate:
    sizes = (0, len(values))
    return statistic_estimate(values, mean, sizes=sizes, resamples=_RESAMPLES, seed=_SEED, stream="adherence")


def _interval(estimate: Estimate) -> list[float | None]:
    return [estimate.value, estimate.low, estimate.high]


def as_markdown(rows: Sequence[dict[str, Any]]) -> str:
    """The rows as a Markdown table."""
    scales = list(rows[0]["distance"])
    titles = ["sampler, steps", *(f"distance, guidance {scale}" for scale in scales)]
    titles += ["images/s", "KID", "adherence", "difference"]
    lines = [titles, ["---"] * len(titles)]
    for row in rows:
        cells = [row["solver"], *(_distance(row["distance"][scale]) for scale in scales)]
        cells.append(f"{row['images_per_second']:.2f}")
        lines.append([*cells, *(_cell(row[key]) for key in ("kid", "adherence", "adherence_difference"))])
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _distance(value: float | None) -> str:
    return "" if value is None else f"{value:.2f}"


def _cell(interval: Sequence[float | None]) -> str:
    value, low, high = interval
    return f"{value:.3f}" if low is None else f"{value:.3f} ({low:.3f} to {high:.3f})"


def plot(rows: Sequence[dict[str, Any]], file: Path) -> None:
    """Plot distance over speed, with a line per sampler and a panel per guidance scale."""
    from matplotlib.figure import Figure
    from matplotlib.ticker import LogLocator, NullFormatter, StrMethodFormatter

    scales = list(rows[0]["distance"])
    figure = Figure(figsize=(4.2 * len(scales), 3.2), layout="constrained")
    panels = figure.subplots(1, len(scales), sharex=True, squeeze=False)[0]
    for panel, scale in zip(panels, scales, strict=True):
        for sampler, marker in (("ddim", "o"), ("dpmpp-2m", "s"), ("unipc", "^")):
            own = [row for row in rows if row["solver"].split()[0] == sampler]
            own.sort(key=lambda row: row["images_per_second"])
            speeds = [row["images_per_second"] for row in own]
            panel.plot(speeds, [row["distance"][scale] for row in own], marker=marker, label=sampler)
            for row, speed in zip(own, speeds, strict=True):
                place = (speed, row["distance"][scale])
                steps = row["solver"].split()[1]
                panel.annotate(steps, place, (4, 4), textcoords="offset points", fontsize=8)
        panel.set(title=f"guidance {scale}", xlabel="images a second", xscale="log", yscale="log")
        for axis in (panel.xaxis, panel.yaxis):
            axis.set_major_locator(LogLocator(subs=(1, 2, 5)))
            axis.set_major_formatter(StrMethodFormatter("{x:g}"))
            axis.set_minor_formatter(NullFormatter())
    panels[0].set_ylabel("distance from the exact images, of 255")
    panels[0].legend()
    figure.savefig(file, dpi=80)


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argument_parser(__doc__)
    parser.add_argument("--model", type=Path, default=shipped.MODEL, help="full model file")
    parser.add_argument(
        "--masks",
        type=Path,
        default=shipped.HELD_OUT,
        help="real pairs: masks to generate for, images to compare with",
    )
    parser.add_argument(
        "--train", type=Path, default=shipped.TRAIN, help="real pairs to train the judging network on"
    )
    parser.add_argument("--guidance", type=float, nargs="+", default=[3.0, 9.0], help="guidance scales")
    parser.add_argument(
        "--trajectories", type=int, default=8, help="number of masks for which exact images are computed"
    )
    parser.add_argument("--images", type=int, default=200, help="minimum number of images per sampler")
    parser.add_argument("--repeats", type=int, default=3, help="rounds of the speed comparison")
    parser.add_argument("--plot", type=Path, help="image file for the plot of distance against speed")
    args = parser.parse_args(arguments)
    prepare(args.threads)
    rows = compare(args.model, args.masks, args.train, args)
    if args.plot:
        plot(rows, args.plot)
    print(json.dumps(rows, indent=1) if args.json else as_markdown(rows))


if __name__ == "__main__":
    main()
