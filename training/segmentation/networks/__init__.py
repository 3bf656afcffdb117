"""The segmentation networks, their losses and their pretrained weights."""
