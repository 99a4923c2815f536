"""Which models train by the hybrid protocol unless told otherwise."""

import pytest
from torch import nn

from timm_gcp import METHODS, GCPError, GlobalCovariancePool
from timm_gcp.hybrid import HybridOptions, LastDecay

OTHER_FUNCTIONS = {"logm", "cov", "maxexp", "corr"}
NO_FUNCTION_OF_THE_COVARIANCE = {"gaussian", "bdc", "bcnn", "cbp"}
NO_ROOTS = OTHER_FUNCTIONS | NO_FUNCTION_OF_THE_COVARIANCE


def model(method):
    return nn.Sequential(GlobalCovariancePool(6, method, reduce=None))


@pytest.mark.parametrize("method", METHODS)
def test_roots_have_a_warm_phase_by_default(method):
    assert METHODS[method].is_root == (method not in NO_ROOTS)
    schedule = HybridOptions().schedule(model(method))
    assert (schedule is not None) == (method not in NO_ROOTS | {"isqrt"})


@pytest.mark.parametrize("method", sorted(OTHER_FUNCTIONS))
def test_other_functions_have_one_when_asked(method):
    for options in (HybridOptions(hybrid=True), HybridOptions(switch_epoch=3)):
        schedule = options.schedule(model(method))
        assert schedule is not None
        assert (schedule.warm, schedule.final) == ("isqrt", method)
    assert HybridOptions(hybrid=False).schedule(model(method)) is None


def test_widths_that_differ_are_refused():
    with pytest.raises(GCPError, match="21 features where 'gaussian' gives 28"):
        HybridOptions(hybrid=True).schedule(model("gaussian"))
    # Of the width of a root: it can be asked for.
    assert HybridOptions(hybrid=True).schedule(model("bdc")).final == "bdc"


def test_the_last_decay_is_a_rule_of_its_own():
    options = HybridOptions(switch_last_decay=True)
    options.check()
    assert options.rule() == LastDecay()
    for other in ({"switch_epoch": 3}, {"switch_lr_fraction": 0.1}, {"switch_conditioning": True}):
        with pytest.raises(GCPError, match=r"`switch_last_decay` and `.*` are two rules for one switch; choose one"):
            HybridOptions(switch_last_decay=True, **other).check()
    with pytest.raises(GCPError, match="`switch_last_decay` has no effect with `hybrid=False`"):
        HybridOptions(hybrid=False, switch_last_decay=True).check()
