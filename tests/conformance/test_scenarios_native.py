"""Every scenario comes out on the real processor as its header says, and as on the emulator."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import pytest
from native_host import native_objection

from emulator import extended
from emulator.engines import NATIVE
from pushcall.scenarios import catalogue

if TYPE_CHECKING:
    from pushcall.scenarios.catalogue import Scenario

_NEEDS: Final = {37174: extended.AVX, 49233: extended.FEATURES, 81209: extended.AVX}


@pytest.mark.parametrize("scenario", catalogue.scenarios(engine=NATIVE), ids=lambda each: each.name)
def test_each_variant_comes_out_natively_as_on_the_emulator(scenario: Scenario) -> None:
    needs = max(_NEEDS.get(number, 0) for number in scenario.numbers)
    if why := native_objection(needs):
        pytest.skip(why)
    verdict = catalogue.judge(scenario)
    assert verdict.held, "\n".join(catalogue.explained(verdict))
    emulated = catalogue.judge(catalogue.read(scenario.path))
    assert [each.summary for each in verdict.happened] == [
        each.summary for each in emulated.happened
    ]
