"""Advice in the core's error messages, worded for the commands; ``nodes/host/advice.py`` translates it.

Each constant is part of a sentence. A graph has widgets in place of flags, so no other text of the core,
except in the diffusers backend, may name a flag.
"""

from __future__ import annotations

# Reading masks

PICK_LABEL = (
    "pick the label that is foreground (--mask-label), or set the threshold to 0 to take every label."
)
LABEL_OF_FOREGROUND = "pick the label that is foreground with --mask-label."
PICK_COLOUR = "pick the colour that is foreground (--mask-colour)"
COLOUR_IN_PLACE_OF_LABEL = "pick a colour (--mask-colour), leave out the label,"
BY_BRIGHTNESS = "--mask-from brightness reads it by the threshold all the same."
BY_TRANSPARENCY = (
    "take what is opaque with --mask-from alpha, or what is transparent, as ComfyUI's mask editor saves it, "
    "with --mask-from alpha --invert."
)
NOT_BY_TRANSPARENCY = "leave out --mask-from alpha."
RAISE_THRESHOLD = "raise --mask-threshold"
INVERT = "--invert swaps it with the background"

# Model files

UNFINISHED_RUN = "the finished model is model.safetensors in the run's folder; --resume finishes the run"
ONE_FILE = "make one file of a diffusers folder with training.convert --to full"

# Training

DIVERGED = (
    "Lower --learning-rate, or use --mixed-precision bf16 or no instead of fp16, and continue from the last "
    "checkpoint with --resume --change-optimiser"
)
EIGHT_BITS = "--optimiser adamw8bit needs the package bitsandbytes: pip install -e '.[eightbit]'"
WHICH_RUN = "give the --output of the interrupted run, or start a new one without --resume in an empty folder"
NEW_RUN = "start a new run without --resume in an empty folder"
OTHER_OUTPUT = "give another --output"
STEPS = "--steps"
CONTINUES = "--resume continues from"

# Generating a dataset

FINISH_DATASET = (
    "finish it with the same command and --resume, or list the finished pairs with training.merge --partial"
)

DATASET_BEGUN = "give another folder, --resume that one, or --overwrite it"
OTHER_DATASET = "give the same settings as before, another folder, or --overwrite to begin anew"
BESIDE_OTHERS = ", or --overwrite to write beside what is there, which stays"
