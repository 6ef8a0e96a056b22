"""Files of weights: names that a wrapper has changed, and files that hold something else."""

import json
import os
import struct

import pytest
import timm
import torch
from safetensors.torch import load_file, save_file
from torch import nn
from torch.optim.swa_utils import AveragedModel

from softvq_lab.core import ConfigError
from softvq_lab.generators.model import make_generator
from softvq_lab.hub.models import load_generator, load_pair, load_tokenizer, save
from softvq_lab.latents.stats import LatentStats
from softvq_lab.pretrained.files import fit_weights, read_tensors, unwrap
from softvq_lab.settings.parse import parse
from softvq_lab.settings.sections import GeneratorConfig, TokenizerConfig
from softvq_lab.tokenizer.model import Tokenizer
from softvq_lab.training.losses import frozen_timm

PREFIXES = [
    "module.",
    "_orig_mod.",
    "module._orig_mod.",
    "_orig_mod.module.",
    "_orig_mod.module._orig_mod.",
    "_fsdp_wrapped_module.",
    "model.",
    "model._orig_mod.module.",
    "ema.",
    "ema_model.module.",
    "tokenizer.",
]


def renamed(path, change) -> None:
    save_file({change(k): v for k, v in load_file(path).items()}, path)


@pytest.fixture
def saved(tmp_path):
    save(Tokenizer(TokenizerConfig(codebook_size=12, tokens=5)).eval(), tmp_path / "saved")
    return tmp_path / "saved"


@pytest.mark.parametrize("prefix", PREFIXES)
def test_a_tokenizer_saved_from_a_wrapped_model_is_that_tokenizer(prefix, saved):
    plain = load_tokenizer(saved)
    renamed(saved / "model.safetensors", lambda k: prefix + k)
    wrapped = load_tokenizer(saved)
    assert wrapped.fingerprint == plain.fingerprint


def test_wrappers_in_the_middle_of_names_are_taken_off(saved):
    renamed(
        saved / "model.safetensors",
        lambda k: k.replace("encoder.", "encoder._orig_mod.").replace(
            ".blocks.1.", ".blocks.1._checkpoint_wrapped_module."
        ),
    )
    load_tokenizer(saved)


def test_what_the_wrappers_of_torch_save_is_read():
    net = nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 2))

    def fresh():
        return nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 2))

    for wrapped in (
        AveragedModel(net),
        torch.compile(net),
        AveragedModel(torch.compile(net)),
        nn.DataParallel(net),
    ):
        fit_weights(got := fresh(), wrapped.state_dict(), "file")
        assert all(torch.equal(a, b) for a, b in zip(got.parameters(), net.parameters()))


def test_names_that_are_wanted_stay_as_they_are():
    net = nn.ModuleDict({"module": nn.Linear(2, 3)})
    for prefix in ("", "module.", "_orig_mod."):
        state = {prefix + k: v for k, v in net.state_dict().items()}
        assert list(unwrap(state, net.state_dict())) == ["module.weight", "module.bias"]


@pytest.mark.parametrize("prefix", ["module.", "_orig_mod."])
def test_a_prefix_that_only_some_names_have_is_refused(prefix, saved):
    renamed(saved / "model.safetensors", lambda k: prefix + k if "encoder" in k else k)
    with pytest.raises(ValueError, match=f"model.safetensors: .* have the prefix '{prefix}'"):
        load_tokenizer(saved)


def test_a_file_with_two_models_is_refused(saved):
    path = saved / "model.safetensors"
    both = {f"{p}.{k}": v.clone() for p in ("model", "ema") for k, v in load_file(path).items()}
    save_file(both, path)
    with pytest.raises(ValueError, match="tensors have the prefix .*of one model only"):
        load_tokenizer(saved)


def test_weights_of_another_model_are_one_sentence(saved):
    save_file({f"layer{i}": torch.ones(2) for i in range(90)}, saved / "model.safetensors")
    with pytest.raises(ValueError, match="90 surplus: .* and 87 more. No name is in both") as e:
        load_tokenizer(saved)
    assert len(str(e.value)) < 600 and "\n" not in str(e.value)


def in_type(folder, change):
    "The weights of a saved folder, each as `change` makes it."
    path = folder / "model.safetensors"
    weights = {k: change(v) for k, v in load_file(path).items()}
    save_file(weights, path)
    return weights


def a_generator(bond="0123456789abcdef"):
    return make_generator(GeneratorConfig(), 5, 3, 2, LatentStats.given(0.0, 1.0, 3), bond)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("kind", ["tokenizer", "generator"])
def test_rounded_weights_are_loaded_as_float32_and_have_a_fingerprint_of_their_own(
    tmp_path, dtype, kind
):
    model = a_generator() if kind == "generator" else Tokenizer(TokenizerConfig(tokens=6))
    save(model, tmp_path / "a")
    weights = in_type(tmp_path / "a", lambda v: v.to(dtype))  # whole numbers too
    load = load_generator if kind == "generator" else load_tokenizer
    found = load(tmp_path / "a")
    own = model.state_dict()
    for name, v in found.state_dict().items():
        assert v.dtype == own[name].dtype and torch.equal(v, weights[name].to(v.dtype)), name
    assert found.fingerprint != model.fingerprint
    save(found, tmp_path / "b")  # and is a model like any other
    assert load(tmp_path / "b").fingerprint == found.fingerprint


def test_weights_in_float64_are_the_same_weights(saved):
    before = load_tokenizer(saved).fingerprint
    in_type(saved, torch.Tensor.double)
    assert load_tokenizer(saved).fingerprint == before
    in_type(saved, lambda v: v + 0.25)
    with pytest.raises(ValueError, match="do not belong together"):
        load_tokenizer(saved)


def test_a_model_halved_by_its_own_method_and_saved_is_loaded(tmp_path):
    model = Tokenizer(TokenizerConfig(codebook_size=9, tokens=3))
    save(model.half(), tmp_path / "a")
    assert {p.dtype for p in load_tokenizer(tmp_path / "a").parameters()} == {torch.float32}


@pytest.mark.parametrize("dtype", [torch.int8, torch.float8_e4m3fn, torch.float8_e5m2])
def test_weights_of_a_type_that_is_not_computed_with_are_one_message(saved, dtype):
    in_type(saved, lambda v: v.to(dtype) if v.ndim > 1 else v)
    name = str(dtype).removeprefix("torch.")
    with pytest.raises(ValueError, match=f"is in {name}, .* Save the weights in float32") as e:
        load_tokenizer(saved)
    assert "\n" not in str(e.value)


def test_weights_that_float16_could_not_hold_are_refused(saved):
    in_type(saved, lambda v: (v + 1e6).half())
    with pytest.raises(ValueError, match="is not finite: .* Save it in bfloat16 or float32"):
        load_tokenizer(saved)


def test_one_rounded_tensor_does_not_hide_the_weights_of_another_model(saved, tmp_path):
    in_type(saved, lambda v: v * 1.5)
    path = saved / "model.safetensors"
    weights = load_file(path)
    name = next(k for k, v in weights.items() if v.ndim > 1)
    save_file(weights | {name: weights[name].half()}, path)
    with pytest.raises(ValueError, match="do not belong together"):
        load_tokenizer(saved)


def test_a_number_that_float32_cannot_hold_is_refused(saved):
    in_type(saved, lambda v: v.double() + 1e300)
    with pytest.raises(ValueError, match="is not finite: .* too large for float32"):
        load_tokenizer(saved)


def test_whole_numbers_stay_whole(tmp_path):
    net = torch.nn.BatchNorm1d(3)
    state = net.state_dict()
    fit_weights(net, state | {"num_batches_tracked": torch.tensor(7.0)}, "a.safetensors")
    assert net.num_batches_tracked == 7
    with pytest.raises(ValueError, match="num_batches_tracked is in float32 .* Save it in int64"):
        fit_weights(net, state | {"num_batches_tracked": torch.tensor(0.5)}, "a.safetensors")


@pytest.mark.parametrize("of", ["tokenizer", "generator", "both"])
def test_a_pair_is_a_pair_when_it_was_saved_in_half_precision(tmp_path, of):
    tokenizer = Tokenizer(TokenizerConfig(tokens=5, latent_dim=3, codebook_size=9))
    save(tokenizer, tmp_path / "tokenizer")
    save(a_generator(tokenizer.fingerprint), tmp_path / "generator")
    for name in ("tokenizer", "generator"):
        if of in (name, "both"):
            in_type(tmp_path / name, lambda v: v.half() if v.is_floating_point() else v)
    load_pair(tmp_path / "generator", tmp_path / "tokenizer")
    other = Tokenizer(TokenizerConfig(tokens=5, latent_dim=3, codebook_size=8))
    save(other, tmp_path / "other")
    in_type(tmp_path / "other", lambda v: v.half() if v.is_floating_point() else v)
    with pytest.raises(ValueError, match="was trained on latents of tokenizer"):
        load_pair(tmp_path / "generator", tmp_path / "other")


# timm's networks


@pytest.fixture(scope="module")
def resnet(tmp_path_factory):
    path = tmp_path_factory.mktemp("timm") / "resnet.safetensors"
    save_file(timm.create_model("resnet10t").state_dict(), path)
    return path


@pytest.mark.parametrize("prefix", ["", "module._orig_mod.", "model.", "backbone.module."])
@pytest.mark.parametrize("kwargs", [{}, {"num_classes": 0}, {"features_only": True}])
def test_a_network_of_timm_is_read_through_the_same_door(prefix, kwargs, resnet, tmp_path):
    weights = load_file(resnet)
    save_file({prefix + k: v for k, v in weights.items()}, tmp_path / "w.safetensors")
    net = frozen_timm("resnet10t", str(tmp_path / "w.safetensors"), **kwargs)
    assert all(torch.equal(v, weights[k]) for k, v in net.state_dict().items())


@pytest.mark.parametrize("kwargs", [{}, {"num_classes": 0}, {"features_only": True}])
@pytest.mark.parametrize("kind", ["another", "without its end"])
def test_timm_leaves_no_layer_at_random_without_a_word(kind, kwargs, resnet, tmp_path):
    weights = load_file(resnet)
    bad = {k: v for k, v in weights.items() if not k.startswith("layer4.0.conv2")}
    save_file(
        {"w": torch.ones(2)} if kind == "another" else bad, path := tmp_path / "w.safetensors"
    )
    with pytest.raises(ValueError, match="w.safetensors does not fit timm's resnet10t. It lacks"):
        frozen_timm("resnet10t", str(path), **kwargs)


# Files that are something else


def header(**tensors) -> bytes:
    text = json.dumps(tensors).encode()
    return struct.pack("<Q", len(text)) + text


FAR = {"dtype": "F32", "shape": [10**12], "data_offsets": [0, 4 * 10**12]}


@pytest.mark.parametrize(
    "content,says",
    [
        (b"", "it is empty"),
        (b"version https://git-lfs.github.com/spec/v1\n", "a pointer of Git LFS.*git lfs pull"),
        (b"<!doctype html><html>", "a web page.*resolve"),
        (b"PK\3\4" + bytes(26) + b"x/data.pkl", "a pickle.*not opened. Convert it: python -c"),
        (b"\x80\x02}q\0.", "a pickle"),
        (b"PK\3\4" + bytes(26) + b"weights.npy", "a zip archive"),
        (b"GGUF\3\0\0\0", "a GGUF file"),
        (b"\x08\x07\x12\x07pytorch", "an ONNX file"),
        (b"\x89HDF\r\n\x1a\n", "an HDF5 file"),
        (b'{"metadata": {}, "weight_map": {"a": "model-1.safetensors"}}', "index.*Join the files"),
        (header(a=FAR), "cut off: 0 of 4000000000000 bytes"),
        (
            struct.pack("<Q", 10**15) + b'{"a"',
            "cut off or damaged: its header has 1000000000000000",
        ),
        (struct.pack("<Q", 4) + b"words", "not a readable safetensors file"),
        (header(a={"dtype": "F32"}), "not a readable safetensors file"),
        (header(a={**FAR, "data_offsets": ["0", "4"]}), "not a readable safetensors file"),
        (header(a={**FAR, "data_offsets": [0, 1e300]}), "not a readable safetensors file"),
    ],
)
def test_a_file_of_another_kind_is_named_and_takes_no_memory(content, says, tmp_path):
    (tmp_path / "w.safetensors").write_bytes(content)
    with pytest.raises(ValueError, match=f"w.safetensors .*{says}"):
        read_tensors(tmp_path / "w.safetensors")


def test_a_truncated_download_says_how_much_is_there(resnet, tmp_path):
    data = resnet.read_bytes()
    (tmp_path / "w.safetensors").write_bytes(data[: len(data) // 2])
    with pytest.raises(
        ValueError, match=r"is cut off: \d+ of \d+ bytes of tensors.*Fetch it again"
    ):
        read_tensors(tmp_path / "w.safetensors")


def test_a_folder_and_a_pickle_in_the_place_of_a_file_say_what_to_do(tmp_path):
    with pytest.raises(ValueError, match="is a folder. Name a file"):
        read_tensors(tmp_path)
    torch.save({"a": torch.ones(2)}, tmp_path / "w.pt")
    with pytest.raises(ValueError, match="w.pt is not a readable safetensors file, it is a pickle"):
        read_tensors(tmp_path / "w.pt")


def test_a_pipe_in_the_place_of_a_file_is_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "w.safetensors")
    with pytest.raises(ValueError, match="no file of the disk, but a pipe"):
        read_tensors(tmp_path / "w.safetensors")


@pytest.mark.parametrize("name", ["model.pt", "last.ckpt", "pytorch_model.bin"])
def test_a_pickle_in_the_place_of_a_model_says_what_to_do(name, tmp_path):
    torch.save({"a": torch.ones(2)}, tmp_path / name)
    says = f"{name} is a pickle of PyTorch.*Convert it"
    for place in (tmp_path, tmp_path / name):
        with pytest.raises(ValueError, match=says):
            load_tokenizer(place)
    with pytest.raises(ValueError, match="model.safetensors is a file. Name the folder"):
        (tmp_path / "model.safetensors").touch()
        load_tokenizer(tmp_path / "model.safetensors")


@pytest.mark.parametrize(
    "entry,value",
    [
        ("tokens", 10**9),
        ("tokens", 0),
        ("num_classes", 10**10),
        ("num_classes", -2),
        ("tokens", 4.0),
    ],
)
def test_sizes_of_a_generator_are_bounded_before_memory_is_taken(entry, value, saved, tmp_path):
    tokenizer = load_tokenizer(saved)
    sizes = tokenizer.tokens, tokenizer.latent_dim
    stats = LatentStats.given(0.0, 1.0, sizes[1])
    config = GeneratorConfig(width=24, depth=1, heads=2)
    save(make_generator(config, *sizes, 3, stats, tokenizer.fingerprint), tmp_path / "g")
    info = json.loads((tmp_path / "g" / "config.json").read_text())
    (tmp_path / "g" / "config.json").write_text(json.dumps(info | {entry: value}))
    with pytest.raises(ValueError, match=f"{entry}={value} of a generator. Possible"):
        load_generator(tmp_path / "g")
    for setting in ("depth", "width", "head_width"):
        with pytest.raises(ConfigError, match=f"{setting}=.*less than or equal"):
            parse(GeneratorConfig, {setting: 10**7})


def test_a_model_in_parts_says_how_to_join_them(saved):
    (saved / "model.safetensors").rename(saved / "model-00001-of-00001.safetensors")
    index = {"weight_map": {"a": "model-00001-of-00001.safetensors"}}
    (saved / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(ValueError, match="has no model.safetensors; .*index.json is the index"):
        load_tokenizer(saved)
