"""The three sizes at which every study runs, one row each, and the stage configurations they stand for.

smoke    two CPU cores and minutes: embedded emoji at 64 px; says that everything works and which way numbers move
small    one GPU, or hours of CPU: embedded emoji at 128 px
paper    8 A100 and days: ImageNet at 256 px with the paper's settings (Sec. 4.1 and 4.2)

A field that is not in a row has the default of `fvar.config`, where its source is cited.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import get_args, get_type_hints

from fvar.config import (
    AutoencoderConfig,
    CurveConfig,
    DataConfig,
    DistillConfig,
    Kernel,
    Precision,
    PyramidConfig,
    QuantiserConfig,
    Reading,
    SamplesConfig,
    ScoresConfig,
    Signal,
    TeacherConfig,
    TokenizerConfig,
    TokenizerLossConfig,
    TokensConfig,
    TrainConfig,
    TransformerConfig,
    VarConfig,
)
from fvar.errors import UserError, unknown

DATASETS = get_args(get_type_hints(DataConfig)["dataset"])
TABLE1_DEPTHS = (12, 16, 20, 24)  # the depths the paper prints


@dataclass(frozen=True)
class Training:
    """Optimisation of one network; `lr` is per 256 images (see `TrainConfig`)."""

    steps: int
    batch: int
    lr: float
    evaluate: int  # steps between held-out evaluations
    warmup: float = TrainConfig.warmup  # share of the steps


@dataclass(frozen=True)
class Preset:
    """One row: what is trained on, how large, how long, and how much of it is scored."""

    name: str
    dataset: str
    px: int
    patch_nums: tuple[int, ...]
    ch: int
    ch_mult: tuple[int, ...]
    blocks: int  # residual blocks per level
    groups: int  # of group normalisation
    z: int
    vocab: int  # structure codebook
    alias_vocab: int
    codebook: tuple[float, int]  # decay of its means, and steps after which an unused code restarts
    losses: tuple[float, float]  # weights of the perceptual and the adversarial term
    bypass: float  # share of the tokenizer's steps that let ever fewer images through unquantised
    tokenizer_train: Training
    depth: int
    head_dim: int  # the transformer is depth * head_dim wide and has depth heads
    depths: tuple[int, int, int, int]  # stand for the paper's d12, d16, d20, d24
    var_train: Training
    curve: tuple[int, int]  # steps between two points of sampled FID (0: none), and samples a point
    samples: int
    references: int  # real images scored against; 0: the whole split
    words: int  # per font size, that the OCR reads
    rfid_images: int  # held-out images of the finished tokenizer's rFID; 0: none
    precision: Precision
    data_root: str = ""  # `--data folder:/path`

    # ------------------------------------------------------------------------------------------------ configurations

    def data(self) -> DataConfig:
        return DataConfig(dataset=self.dataset, root=self.data_root, image_size=self.px)  # type: ignore[arg-type]

    def tokenizer(
        self,
        signal: Signal = "structure",
        kernel: Kernel = "disk",
        reading: Reading = "focus",
        rho_max: float | None = None,
    ) -> TokenizerConfig:
        """A tokenizer of the structure L_k or of the alias residual A_k. `rho_max` is in px of a 256 px image.

        The `latent_area` reading is VAR's own tokenizer: it sees the sharp image only, without blur or noise.
        """
        pyramid = PyramidConfig(patch_nums=self.patch_nums, downsample_factor=2 ** (len(self.ch_mult) - 1))
        if reading == "latent_area":
            pyramid = dataclasses.replace(pyramid, kernel="none", rho_max=0.0, beta=(0.0, 0.0))
        else:
            radius = pyramid.rho_max if rho_max is None else rho_max
            pyramid = dataclasses.replace(pyramid, kernel=kernel, rho_max=radius)
        perceptual, adversarial = self.losses
        return TokenizerConfig(
            signal=signal,
            data=self.data(),
            pyramid=pyramid,
            autoencoder=AutoencoderConfig(
                ch=self.ch,
                ch_mult=self.ch_mult,
                num_res_blocks=self.blocks,
                z_channels=self.z,
                norm_groups=self.groups,
            ),
            quantiser=QuantiserConfig(
                vocab_size=self.vocab if signal == "structure" else self.alias_vocab,
                reading=reading,
                ema_decay=self.codebook[0],
                dead_after=self.codebook[1],
            ),
            loss=TokenizerLossConfig(perceptual=perceptual, adversarial=adversarial, bypass=self.bypass),
            train=self._train(self.tokenizer_train, seed=0),
            rfid_images=self.rfid_images,
        )

    def tokens(self, signal: Signal = "structure") -> TokensConfig:
        return TokensConfig(signal=signal, data=self.data())

    def var(
        self,
        teacher: TeacherConfig | None,
        seed: int,
        distill: DistillConfig | None = None,
        depth: int | None = None,
    ) -> VarConfig:
        """The deployment network, trained alone or beside its teacher."""
        depth = depth or self.depth
        transformer = TransformerConfig(depth=depth, width=depth * self.head_dim, heads=depth)
        return VarConfig(
            transformer=transformer,
            teacher=teacher,
            distill=distill or DistillConfig(),
            train=self._train(self.var_train, seed),
            curve=self._curve(seed),
        )

    def _curve(self, seed: int) -> CurveConfig:
        every, count = self.curve
        samples = dataclasses.replace(self.samples_config(seed), count=count)
        return CurveConfig(every=every, samples=samples, scores=self.scores())

    def samples_config(self, seed: int) -> SamplesConfig:
        return SamplesConfig(count=self.samples, precision=self.precision, seed=seed)

    def scores(self) -> ScoresConfig:
        return ScoresConfig(reference=self.data(), reference_count=self.references)

    def _train(self, row: Training, seed: int) -> TrainConfig:
        return TrainConfig(
            steps=row.steps,
            batch_size=row.batch,
            lr=row.lr,
            eval_every=row.evaluate,
            warmup=row.warmup,
            precision=self.precision,
            seed=seed,
        )


# fmt: off
_T = Training
PRESETS = {preset.name: preset for preset in (
    #       name     data      px   patch_nums      ch   ch_mult       res grp  z   V_L   V_A  codebook      lpips gan  bypass tokenizer: steps batch lr   eval  depth x dim  d12 16  20  24         VAR: steps batch lr     eval   curve: every samples  samples  real  words   rfid
    Preset("smoke", "emoji",   64, (1, 2, 4, 8),   16, (1, 1, 2, 4),    1,  4, 16,  512,  64, (0.95,  20), (0.0, 0.0), 0.8, _T(    240,   8, 6.4e-2, 120, 0.08),   4,  32, ( 2,  3,  4,  5), _T(    200,  16, 2.4e-2,  40), (     0,    225),    225,    512,  48,      0, "bf16"),
    Preset("small", "emoji",  128, (2, 4, 8, 16),  64, (1, 1, 2, 4),    2, 32, 32, 2048, 256, (0.99, 256), (1.0, 0.5), 0.1, _T( 10_000,  64, 4e-4, 1000),   8,  64, ( 6,  8, 10, 12), _T( 20_000, 128, 4e-4,  1000), ( 2_000,  1_000),  2_000,      0, 512,  1_000, "bf16"),
    Preset("paper", "folder", 256, (2, 4, 8, 16), 160, (1, 1, 2, 2, 4), 2, 32, 32, 8192, 512, (0.99, 256), (1.0, 0.5), 0.0, _T(100_000, 256, 1e-4, 1000),  16,  64, (12, 16, 20, 24), _T(400_000, 256, 1e-4,  1000), (20_000, 10_000), 50_000, 50_000, 512, 50_000, "bf16"),
)}
# fmt: on


def preset(name: str, data: str = "") -> Preset:
    """A preset by name, on other data where `data` is "DATASET" or "DATASET:ROOT". Raises `UserError`."""
    if name not in PRESETS:
        raise unknown("preset", name, PRESETS)
    row = PRESETS[name]
    if not data:
        return row
    dataset, _, root = data.partition(":")
    if dataset not in DATASETS:
        raise unknown("dataset", dataset, DATASETS)
    if root and not Path(root).is_dir():
        raise UserError(f"--data {data}: {root} is not a folder")
    return dataclasses.replace(row, dataset=dataset, data_root=str(Path(root).resolve()) if root else "")
