"""Options for the TPU compiler are given only to one that knows them."""

import importlib.util

import jax
import pytest

from skyrm_jax.mesh import make_mesh
from skyrm_jax.plan.topology import topology
from skyrm_jax.train import compiler


def test_other_platforms_get_none() -> None:
    assert compiler.compiler_options(make_mesh(1, 1, 1, jax.devices()[:1])) is None


@pytest.mark.full
@pytest.mark.skipif(importlib.util.find_spec("libtpu") is None, reason="the TPU compiler is not installed: libtpu")
def test_an_option_that_the_compiler_does_not_know_takes_all_away(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    mesh = make_mesh(1, 4, 1, topology("v5e:2x2").devices)
    assert compiler.compiler_options(mesh) == compiler.TPU
    monkeypatch.setitem(compiler.TPU, "xla_tpu_not_an_option", True)
    compiler._known.cache_clear()
    assert compiler.compiler_options(mesh) is None
    assert "xla_tpu_not_an_option" in caplog.text
    compiler._known.cache_clear()
