"""The benchmark for a graphics card runs, at its smallest and on the CPU."""

from __future__ import annotations

import json

import pytest
import torch

from benchmarks import gpu


def test_its_small_form_gives_all_figures(capsys: pytest.CaptureFixture[str]) -> None:
    gpu.main(["--tiny", "--json", "--batch", "1", "--repeats", "1", "--threads", "1"])
    result = json.loads(capsys.readouterr().out)
    for kind in ("fast", "lean"):
        assert result["step"][kind]["speedup"] > 0
        assert 0 < result["step"][kind]["counted_gib"] < 2
    samplers = {"ddim", "dpmpp-2m", "unipc", "dpmpp-2m-sde"}
    assert result["sampling"]["images_per_second"].keys() == {"published", *samplers}
    assert "speedup" in gpu.as_text(result)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a card")
def test_without_a_card_the_full_form_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        gpu.main([])
    assert "--tiny runs small networks" in capsys.readouterr().err
