"""Settings dataclasses: what a record keeps of them."""

from __future__ import annotations

from dataclasses import dataclass

from siamese_core.settings import option, recorded


@dataclass(frozen=True)
class Settings:
    rate: float = option(0.1, "learning rate")
    decay: float = option(0.0, "weight decay", added_later=True)


def test_a_setting_added_later_is_left_out_of_records_at_its_default() -> None:
    assert recorded(Settings()) == {"rate": 0.1}


def test_a_setting_added_later_is_recorded_at_any_other_value() -> None:
    assert recorded(Settings(decay=0.5)) == {"rate": 0.1, "decay": 0.5}
