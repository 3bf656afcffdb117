"""Reading the results of a rating study written by ``training.rate score``."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..statistics.crossed import Estimate
from .study_files import RatingError

RESULTS = "ratings.json"


@dataclass(frozen=True)
class Rated:
    """The ratings of one source; ``raters`` maps each rater to the mean opinion score of its images."""

    images: int
    mean_opinion_score: Estimate
    taken_for_real: Estimate
    raters: Mapping[str, float]


@dataclass(frozen=True)
class StudyResults:
    """The results by source, including the real images, and the folders that the images were taken from."""

    sources: Mapping[str, Rated]
    folders: Mapping[str, Path]


def read_results(study: Path) -> StudyResults:
    """Read ``study``, a ``ratings.json`` or the folder that contains it.

    Raises RatingError when it is missing or invalid.
    """
    path = study / RESULTS if study.is_dir() else study
    try:
        record = json.loads(path.read_text("utf-8"))
        sources = {str(source["source"]): _rated(source, record["raters"]) for source in record["sources"]}
        folders = {str(name): Path(folder) for name, folder in record["settings"].get("folders", {}).items()}
    except OSError as error:
        raise RatingError(
            f"{path}: cannot be read ({error.strerror}); give the folder that training.rate score has written"
        ) from error
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise RatingError(
            f"{path}: no results of a rating study; give the folder that training.rate score has written"
        ) from error
    return StudyResults(sources, folders)


def _rated(source: Mapping[str, Any], raters: list[Mapping[str, Any]]) -> Rated:
    opinion, taken = (Estimate(**source[key]) for key in ("mean_opinion_score", "taken_for_real"))
    means = {str(rater["rater"]): float(rater["means"][source["source"]]) for rater in raters}
    return Rated(int(source["items"]), opinion, taken, means)
