"""Third-party pretrained weights: finding, downloading and reading them safely."""
