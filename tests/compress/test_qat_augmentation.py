"""Quantisation-aware training of students whose augmentation the quantised graph cannot take as it is."""

import numpy as np
import torch

from tinyasc.compress.deploy import deploy
from tinyasc.compress.qat import quantization_aware
from tinyasc.data import Split
from tinyasc.frontend import FrontEnd
from tinyasc.models import build
from tinyasc.training.features import Part, Prepared
from tinyasc.training.recipe import check_recipe
from tinyasc.training.recipe_parts import Qat
from tinyasc.training.run import Run, Trained

FRONT_END = FrontEnd(sample_rate=8000, clip_samples=8000, n_fft=512, win_length=512, hop_length=200, n_mels=16)


def test_crops_and_masks_inside_the_model_are_for_the_float_student(tmp_path):
    torch.manual_seed(0)
    features = np.random.default_rng(0).standard_normal((12, *FRONT_END.shape)).astype(np.float32)
    part = Part(features, np.arange(12) % 3)
    data = Prepared(part, part, ("a", "b", "c"), FRONT_END, Split((), (), ()), True, "0" * 32)
    values = {
        "name": "t",
        "model": {"family": "sepconv_ca", "base_channels": 8},
        "training": {"batch_size": 6},
        "augment": {"crop_frames": 24, "time_mask": 3, "mask_layers": ["blocks.0"], "roll": True},
    }
    recipe = check_recipe(values, "")
    module = build("sepconv_ca", n_classes=3, n_mels=16, base_channels=8).eval()
    trained = Trained(module, data.labels, FRONT_END, recipe, {}, True, tmp_path)
    deployed = deploy(trained, features)
    settings = Qat.model_validate({"epochs": 1, "freeze_epochs": 0, "lr": 1e-2})
    graph = quantization_aware(deployed, trained, settings, Run(tmp_path / "run"), data)
    assert graph.tensors[graph.input].shape == deployed.int8_graph.tensors[deployed.int8_graph.input].shape
    assert any(
        not np.array_equal(graph.tensors[name].data, tensor.data)
        for name, tensor in deployed.int8_graph.tensors.items()
        if tensor.data is not None and name in graph.tensors
    )
