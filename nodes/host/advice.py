"""Translates advice in the core's messages from command-line flags to the widgets of a graph."""

from __future__ import annotations

from collections.abc import Mapping

from ...siamese_core import advice

_SAVE_PLAIN = "save it in black and white, with the foreground white"

IN_GRAPH: Mapping[str, str] = {
    advice.PICK_LABEL: "set label to the one that is foreground, or threshold to 0 to take every label.",
    advice.LABEL_OF_FOREGROUND: "set label to the one that is foreground.",
    advice.PICK_COLOUR: _SAVE_PLAIN,
    advice.COLOUR_IN_PLACE_OF_LABEL: "set label to 0,",
    advice.BY_BRIGHTNESS: f"{_SAVE_PLAIN}.",
    advice.BY_TRANSPARENCY: "save the alpha channel as a file of its own in black and white, or load this "
    "one file with Load Image (as Mask).",
    advice.NOT_BY_TRANSPARENCY: f"{_SAVE_PLAIN}.",
    advice.RAISE_THRESHOLD: "raise threshold",
    advice.INVERT: "invert the masks if foreground and background are swapped",
    advice.UNFINISHED_RUN: "the finished model is model.safetensors in the run's folder, which the training "
    "writes when it ends",
    advice.ONE_FILE: "give one file that holds the whole model",
    advice.DIVERGED: "Lower learning_rate, or set precision to bf16 or no instead of fp16, and train anew: "
    "set if_exists to new, or give another name",
    advice.EIGHT_BITS: "the 8-bit optimiser needs the package bitsandbytes",
    advice.WHICH_RUN: "give the name of the interrupted training, or set if_exists to new",
    advice.NEW_RUN: "set if_exists to new to train anew, or give another name",
    advice.OTHER_OUTPUT: "give another name",
    advice.STEPS: "steps",
    advice.CONTINUES: "queueing again continues from",
    advice.FINISH_DATASET: "queue the graph that makes it again",
    advice.DATASET_BEGUN: "give another folder",
    advice.OTHER_DATASET: "give another folder",
    advice.BESIDE_OTHERS: "",
}
"""Replacements by the core's phrase. No key may be part of a later one, since they are applied in order."""


def in_graph_words(text: str) -> str:
    """``text``, a message of the core, with the commands' advice replaced by the graph's."""
    for command, graph in IN_GRAPH.items():
        text = text.replace(command, graph)
    return text
