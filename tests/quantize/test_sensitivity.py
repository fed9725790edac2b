"""The sensitivity file: measured once, taken up again after a kill, never mixed with other inputs."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from checkpoints import write_checkpoint
from small_models import Text, matrices, model, shaken, texts

from edgemed.core.errors import UsageError
from edgemed.models.checkpoint import open_checkpoint

pytest.importorskip("torch")
pytest.importorskip("transformers")
from edgemed.quantize.layer_replay import LayerReplay
from edgemed.quantize.sensitivity import (
    Sensitivity,
    SensitivityInputs,
    checkpoint_digest,
    measured_sensitivity,
    read_sensitivity,
    texts_digest,
)

INPUTS = SensitivityInputs(checkpoint="c", texts="t", rounding="nearest")
NAMES = ("model.layers.0.mlp.up_proj.weight", "model.layers.1.self_attn.q_proj.weight", "model.embed_tokens.weight")
SHARES = {"coarse": 0.2, "fine": 0.02, "finer": 0.002}


class Rounding:
    """Random errors in place of a rounding; counts what was asked, and can be killed."""

    def __init__(self, of: object, dies_after: int = 99) -> None:
        self.weights = matrices(of)
        self.asked: list[tuple[str, str]] = []
        self.dies_after = dies_after

    def __call__(self, tensor: str, name: str) -> np.ndarray:
        if len(self.asked) == self.dies_after:
            raise KeyboardInterrupt
        self.asked.append((tensor, name))
        return shaken(self.weights[tensor], SHARES[name])


def measure(
    output: Path, rounding: Rounding, *kinds: str, inputs: SensitivityInputs = INPUTS, names: tuple[str, ...] = NAMES
) -> Sensitivity:
    formats = dict.fromkeys(names, kinds or ("coarse", "fine"))
    return measured_sensitivity(model(), texts(), formats, rounding, inputs, output)


def test_each_cost_is_the_divergence_with_that_tensor_alone(tmp_path: Path) -> None:
    parent = model()
    found = measure(tmp_path / "s.json", Rounding(parent))
    replay = LayerReplay(parent, texts())
    for row in found.tensors:
        for cost in row.costs:
            lost = replay.divergence({row.tensor: Rounding(parent)(row.tensor, cost.format)})
            assert (cost.kl, cost.plain_kl) == (lost.weighted, lost.plain)
            assert found.cost(row.tensor, cost.format) == cost.kl
    assert found.n_tokens == 65
    assert read_sensitivity(tmp_path / "s.json") == found


def test_a_killed_run_is_taken_up_where_it_ended(tmp_path: Path) -> None:
    output = tmp_path / "s.json"
    killed = Rounding(model(), dies_after=5)
    with pytest.raises(KeyboardInterrupt):
        measure(output, killed)
    assert not output.exists()
    resumed = Rounding(model())
    found = measure(output, resumed)
    assert resumed.asked == [(NAMES[2], "coarse"), (NAMES[2], "fine")]  # a tensor is kept when all of it is measured
    assert found == measure(tmp_path / "other.json", Rounding(model()))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["other.json", "s.json"]


def test_a_line_cut_off_by_the_kill_is_measured_again(tmp_path: Path) -> None:
    output = tmp_path / "s.json"
    with pytest.raises(KeyboardInterrupt):
        measure(output, Rounding(model(), dies_after=5))
    part = output.with_name("s.json.part")
    part.write_bytes(part.read_bytes()[:-20])
    with pytest.raises(KeyboardInterrupt):
        measure(output, Rounding(model(), dies_after=2))  # what is written behind the torn line is read
    resumed = Rounding(model())
    measure(output, resumed)
    assert {tensor for tensor, _ in resumed.asked} == {NAMES[2]}


def test_a_finished_file_is_used_as_it_is_and_added_to(tmp_path: Path) -> None:
    output = tmp_path / "s.json"
    first = measure(output, Rounding(model()))
    again = Rounding(model())
    assert measure(output, again) == first
    assert not again.asked
    more = measure(output, again, "fine", "finer", names=NAMES[:1])
    assert again.asked == [(NAMES[0], "finer")]
    assert {row.tensor for row in more.tensors} == set(NAMES)
    assert [cost.format for cost in more.tensors[1].costs] == ["coarse", "fine", "finer"]


def test_figures_of_other_inputs_are_not_taken(tmp_path: Path) -> None:
    output = tmp_path / "s.json"
    measure(output, Rounding(model()))
    with pytest.raises(KeyboardInterrupt):
        measure(output, Rounding(model(), dies_after=5), inputs=INPUTS.model_copy(update={"texts": "x"}))
    other = Rounding(model())
    measure(output, other, inputs=INPUTS.model_copy(update={"rounding": "compensated"}))
    assert len(other.asked) == 6


def test_options_carry_cost_and_bytes(tmp_path: Path) -> None:
    found = measure(tmp_path / "s.json", Rounding(model()), names=NAMES[:1])
    options = found.options(lambda tensor, name: len(tensor) + len(name))
    assert [(option.format, option.n_bytes) for option in options] == [("coarse", 39), ("fine", 37)]
    assert options[0].cost > options[1].cost > 0


@pytest.mark.parametrize(
    "spoil",
    [
        lambda text: "{",
        lambda text: text.replace('"kl"', '"k"'),
        lambda text: text.replace('"schema_version": 1', '"schema_version": 2'),
    ],
)
def test_a_file_that_is_none_is_refused_with_its_name(spoil: Callable[[str], str], tmp_path: Path) -> None:
    path = tmp_path / "s.json"
    measure(path, Rounding(model()), names=NAMES[:1])
    path.write_text(spoil(path.read_text()))
    with pytest.raises(UsageError, match=r"s\.json is no sensitivity file"):
        read_sensitivity(path)


def test_a_missing_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="cannot be read"):
        read_sensitivity(tmp_path / "none.json")


def test_digests_change_with_any_weight_and_any_token(tmp_path: Path) -> None:
    one, two = texts(), texts()
    assert texts_digest(one) == texts_digest(two)
    two[0] = Text(two[0].ids, two[0].weights * 2)
    assert texts_digest(one) != texts_digest(two)
    folder = write_checkpoint(tmp_path / "c", "qwen2")
    before = checkpoint_digest(open_checkpoint(folder))
    assert before == checkpoint_digest(open_checkpoint(folder))
    weights = folder / "model.safetensors"
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)
    assert checkpoint_digest(open_checkpoint(folder)) != before
