"""What a stage computes: its configuration, made of `fvar.ingredients`, and the identity that names its results.

A `Stage` is a stage configuration plus the stages it needs; its `signature` hashes both and names its directory.
Nothing in this module needs torch.

Two things keep results valid while the code grows. A field added after the first results were kept says which value
means "as before" (`fvar.plain.since`); while it holds that value, signatures are what they were. And each stage kind
has a `REVISION`: whoever makes the same configuration compute something else raises it and adds a line to its history,
so that results of two codes never share a directory. From 2 on it is part of the signature, as are those of the stages
above.
"""

from __future__ import annotations

import functools
import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, fields, is_dataclass
from typing import ClassVar, Literal

from fvar.errors import UserError
from fvar.ingredients import (
    RESIDUALS,
    AutoencoderConfig,
    DataConfig,
    Digital,
    DistillConfig,
    Kernel,
    MambaConfig,
    Mask,
    Mixer,
    Optimiser,
    PublishedConfig,
    PyramidConfig,
    QuantiserConfig,
    Reading,
    Residual,
    RuntimeConfig,
    Schedule,
    Signal,
    TeacherConfig,
    TokenizerLossConfig,
    TrainConfig,
    TransformerConfig,
    Trunk,
)
from fvar.machine.precision import Precision
from fvar.plain import Checked, identity_text, joined, positive, since

__all__ = [  # whoever configures a stage finds all of it here
    "PLUGINS",
    "RESIDUALS",
    "STAGE_CONFIGS",
    "AutoencoderConfig",
    "CurveConfig",
    "DataConfig",
    "Digital",
    "DistillConfig",
    "Kernel",
    "MambaConfig",
    "Mask",
    "Mixer",
    "Optimiser",
    "Precision",
    "PublishedConfig",
    "PyramidConfig",
    "QuantiserConfig",
    "ReadabilityConfig",
    "Reading",
    "Residual",
    "RuntimeConfig",
    "SamplesConfig",
    "Schedule",
    "ScoresConfig",
    "Signal",
    "SpeedConfig",
    "Stage",
    "StageConfig",
    "TeacherConfig",
    "TokenizerConfig",
    "TokenizerLossConfig",
    "TokensConfig",
    "TrainConfig",
    "TransformerConfig",
    "Trunk",
    "VarConfig",
    "data_of",
    "signature",
]


@dataclass(frozen=True)
class StageConfig(Checked):
    """What a stage of one kind computes; each kind is a frozen dataclass that extends this."""

    kind: ClassVar[str]  # the first part of its run directory's name
    REVISION: ClassVar[int]  # raised when the same configuration computes something else; with a line of history


@dataclass(frozen=True)
class TokenizerConfig(StageConfig):
    """Trains one tokenizer. Inputs: none."""

    kind: ClassVar[str] = "tokenizer"
    REVISION: ClassVar[int] = 2  # 1: first; 2: silent scales, as the sharpest residual, are left out everywhere
    signal: Signal = "structure"
    data: DataConfig = field(default_factory=DataConfig)
    pyramid: PyramidConfig = field(default_factory=PyramidConfig)
    autoencoder: AutoencoderConfig = field(default_factory=AutoencoderConfig)
    quantiser: QuantiserConfig = field(default_factory=QuantiserConfig)
    loss: TokenizerLossConfig = field(default_factory=TokenizerLossConfig)
    train: TrainConfig = field(default_factory=lambda: TrainConfig(steps=100_000))
    rfid_images: int = 50_000  # held-out images on which rFID is logged at the end; 0: not; VAR: all of ImageNet's
    weights: str = ""  # sha256:... of imported weights; empty: trained here

    def __post_init__(self) -> None:
        super().__post_init__()
        self.data.require_heldout()
        if self.rfid_images < 0:
            raise UserError(f"rfid_images must be at least 0, got {self.rfid_images}")
        if self.autoencoder.downsample_factor != self.pyramid.downsample_factor:
            raise UserError(
                f"autoencoder.ch_mult {self.autoencoder.ch_mult} with patch {self.autoencoder.patch} downsamples by "
                f"{self.autoencoder.downsample_factor}, "
                f"but pyramid.downsample_factor is {self.pyramid.downsample_factor}"
            )
        if self.data.image_size != self.pyramid.image_size:
            raise UserError(
                f"data.image_size {self.data.image_size} differs from the pyramid's sharpest view: "
                f"{self.pyramid.patch_nums[-1]} * {self.pyramid.downsample_factor} = {self.pyramid.image_size} px"
            )


@dataclass(frozen=True)
class TokensConfig(StageConfig):
    """Codes a data set through the tokenizer's own pyramid. Inputs: tokenizer.

    `signal` may differ from the tokenizer's: "without dual tokenizers" codes A_k by Q_L.
    """

    kind: ClassVar[str] = "tokens"
    REVISION: ClassVar[int] = 2  # 1: first; 2: tokens of silent scales are 0
    signal: Signal = "structure"
    data: DataConfig = field(default_factory=DataConfig)
    batch_size: int = 64
    seed: int = 0  # of the crops

    def __post_init__(self) -> None:
        super().__post_init__()
        self.data.require_heldout()


@dataclass(frozen=True)
class VarConfig(StageConfig):
    """Trains the deployment network. Inputs: tokens, and alias (tokens) where a teacher reads them."""

    kind: ClassVar[str] = "var"
    REVISION: ClassVar[int] = 2  # 1: first; 2: the teacher does not read tokens of silent scales
    transformer: TransformerConfig = field(default_factory=TransformerConfig)
    teacher: TeacherConfig | None = None
    distill: DistillConfig = field(default_factory=DistillConfig)
    train: TrainConfig = field(default_factory=TrainConfig)
    curve: CurveConfig = field(default_factory=lambda: CurveConfig())
    weights: str = ""  # sha256:... of imported weights; empty: trained here


@dataclass(frozen=True)
class SamplesConfig(StageConfig):
    """Generates class-balanced images, or a part of held-out ones. Inputs: var."""

    kind: ClassVar[str] = "samples"
    REVISION: ClassVar[int] = 1  # 1: first
    count: int = 50_000  # VAR: 50 per class
    guidance: float = 1.5  # VAR
    top_k: int = 900  # VAR; clamped to the vocabulary
    top_p: float = 0.96  # VAR
    batch_size: int = 64
    precision: Precision = "bf16"
    seed: int = 0
    # What of a held-out image is generated: its middle (inpainting) or all but that (outpainting); none: a whole image
    mask: Mask = since("none", before="none")

    def __post_init__(self) -> None:
        super().__post_init__()
        positive(self, "count", "batch_size")
        if not 0 < self.top_p <= 1:
            raise UserError(f"samples.top_p must be in (0, 1], got {self.top_p}")


@dataclass(frozen=True)
class ScoresConfig(StageConfig):
    """Scores samples against real images. Inputs: samples."""

    kind: ClassVar[str] = "scores"
    REVISION: ClassVar[int] = 1  # 1: first
    reference: DataConfig = field(default_factory=DataConfig)
    split: Literal["train", "heldout", "all"] = "train"
    reference_count: int = 0  # 0: the whole split; otherwise a class-balanced subset
    extractor: str = "inception-torchscript"  # one of fvar.metrics.features.EXTRACTORS
    batch_size: int = 64
    seed: int = 0  # of KID's subsets
    heldout: bool = since(False, before=False)  # also: against held-out images, and whether training images were copied
    published: PublishedConfig | None = since(None, before=None)  # in place of `reference`: ADM's file; adds sFID

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.split == "heldout":
            self.reference.require_heldout()


@dataclass(frozen=True)
class CurveConfig(Checked):
    """Samples that are drawn and scored while the network trains, beside the training: the convergence figure."""

    every: int = 0  # steps between two points; 0: none
    samples: SamplesConfig = field(default_factory=lambda: SamplesConfig(count=2048))  # ours
    scores: ScoresConfig = field(default_factory=lambda: ScoresConfig(reference_count=10_000))  # ours

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.every < 0:
            raise UserError(f"curve.every must be at least 0 steps, got {self.every}")


@dataclass(frozen=True)
class ReadabilityConfig(StageConfig):
    """Has an OCR read rendered words off a structure tokenizer's reconstructions, scale by scale. Inputs: tokenizer."""

    kind: ClassVar[str] = "readability"
    REVISION: ClassVar[int] = 1  # 1: first
    words: int = 512  # per font size, or as many as the held-out pages of data set text hold; ours
    batch_size: int = 16  # pages

    def __post_init__(self) -> None:
        super().__post_init__()
        positive(self, "words", "batch_size")


@dataclass(frozen=True)
class SpeedConfig(StageConfig):
    """Times the sampling of untrained networks, which take as long as trained ones. Inputs: none."""

    kind: ClassVar[str] = "speed"
    REVISION: ClassVar[int] = 1  # 1: first
    mixers: tuple[Mixer, ...] = ("var", "mvar")  # var is VAR's and FVAR's deployment network alike
    transformer: TransformerConfig = field(default_factory=TransformerConfig)  # its mixer is replaced
    classes: int = 1000  # ImageNet
    patch_nums: tuple[int, ...] = PyramidConfig.patch_nums
    autoencoder: AutoencoderConfig = field(default_factory=AutoencoderConfig)  # whose decoder makes the images
    quantiser: QuantiserConfig = field(default_factory=QuantiserConfig)
    batches: tuple[int, ...] = (1, 8, 64)  # images made at once; ours
    warmup: int = 1  # rounds before those that count; ours
    rounds: int = 7  # ours
    guidance: float = SamplesConfig.guidance
    top_k: int = SamplesConfig.top_k
    top_p: float = SamplesConfig.top_p
    precision: Precision = "bf16"
    seed: int = 0  # another one is timed again

    def __post_init__(self) -> None:
        super().__post_init__()
        positive(self, "classes", "rounds")
        if not self.mixers or not self.batches or min(self.batches) < 1 or self.warmup < 0:
            raise UserError("speed needs a mixer, batches of at least 1 image and no negative warmup")


STAGE_CONFIGS: dict[str, type[StageConfig]] = {
    cls.kind: cls
    for cls in (TokenizerConfig, TokensConfig, VarConfig, SamplesConfig, ScoresConfig, ReadabilityConfig, SpeedConfig)
}


PLUGINS: dict[str, str] = {}  # the module of each kind that is not fvar's own, see `fvar.plugins`


def data_of(config: object) -> Iterator[DataConfig]:
    """The data sets that a configuration names, at any depth."""
    if isinstance(config, DataConfig):
        yield config
    elif is_dataclass(config):
        for item in fields(config):
            yield from data_of(getattr(config, item.name))


@dataclass(frozen=True)
class Stage:
    """A configuration plus the stages whose output it reads, by role."""

    config: StageConfig
    inputs: Mapping[str, Stage] = field(default_factory=dict)

    @property
    def kind(self) -> str:
        return self.config.kind

    @functools.cached_property
    def signature(self) -> str:
        """16 hex digits that change with any value and revision, of this stage or of one above it."""
        return signature(self.config, {role: stage.signature for role, stage in self.inputs.items()})

    @functools.cached_property
    def name(self) -> str:
        """Name of the run directory."""
        return f"{self.kind}-{self.signature}"

    def chain(self) -> Iterator[Stage]:
        """This stage and all above it, inputs first, each once."""
        return iter(self._chain)

    @functools.cached_property
    def _chain(self) -> tuple[Stage, ...]:
        above = {stage.name: stage for upstream in self.inputs.values() for stage in upstream.chain()}
        return (*above.values(), self)


def signature(config: StageConfig, inputs: Mapping[str, str], revision: int = 0) -> str:
    """Hash of a stage's kind, configuration, revision (0: today's) and the signatures of its inputs."""
    above = json.dumps(dict(sorted(inputs.items())))
    body = {"kind": json.dumps(config.kind), "config": identity_text(config), "inputs": above}
    if (revision := revision or config.REVISION) > 1:
        body["revision"] = str(revision)
    return hashlib.sha256(joined(body).encode()).hexdigest()[:16]
