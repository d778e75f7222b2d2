"""Each fault that operators make with names and certificates, and each service that can't stay up, is named."""

from pathlib import Path

import pytest
from tests.delivery.edge_faults import EDGE_FAULTS, EdgeFault, sound_edge

from wopr.ops.checks import Verdict


@pytest.mark.parametrize("fault", EDGE_FAULTS, ids=lambda fault: fault.name)
def test_a_planted_fault_is_named_with_its_remedy_and_a_sound_edge_is_not(fault: EdgeFault, tmp_path: Path) -> None:
    with sound_edge(tmp_path) as edge:
        assert edge.found(fault.check).verdict is Verdict.OK
        fault.plant(edge)
        finding = edge.found(fault.check)
    assert finding.verdict in (Verdict.FAILED, Verdict.WARNING), finding
    assert finding.remedy
