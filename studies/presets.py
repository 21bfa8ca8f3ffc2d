"""The sizes at which every study runs. A preset is the paper's settings and a row of what differs from them.

smoke    two CPU cores and minutes: embedded emoji at 64 px; says that everything works and which way numbers move
small    one GPU, or hours of CPU: embedded emoji at 128 px
paper    8 A100 and days: ImageNet at 256 px with the paper's settings (Sec. 4.1 and 4.2)

What a row does not name is the default of `Preset`, the paper's, or of `fvar.config`, which cites its source.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, get_args, get_type_hints

from fvar.config import (
    AutoencoderConfig,
    CurveConfig,
    DataConfig,
    DistillConfig,
    Kernel,
    Mixer,
    PyramidConfig,
    QuantiserConfig,
    ReadabilityConfig,
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


@dataclass(frozen=True)
class Preset:
    """What stages are configured from at one size. The methods give a stage's configuration, one per kind of stage.

    Seeds are the methods' business, and so is what a variant changes: fields hold neither.
    """

    name: str
    data: DataConfig = field(default_factory=DataConfig)
    pyramid: PyramidConfig = field(default_factory=PyramidConfig)
    autoencoder: AutoencoderConfig = field(default_factory=AutoencoderConfig)
    quantiser: QuantiserConfig = field(default_factory=QuantiserConfig)
    alias_vocab: int = 512  # codes of the alias tokenizer, paper Sec. 4.2
    loss: TokenizerLossConfig = field(default_factory=TokenizerLossConfig)
    tokenizer_train: TrainConfig = field(default_factory=lambda: TokenizerConfig().train)
    rfid_images: int = TokenizerConfig.rfid_images
    transformer: TransformerConfig = field(default_factory=TransformerConfig)
    var_train: TrainConfig = field(default_factory=TrainConfig)
    curve_every: int = 20_000  # steps between two points of sampled FID; 0: none; ours
    curve_samples: int = 10_000  # per point; ours
    sampling: SamplesConfig = field(default_factory=SamplesConfig)
    scoring: ScoresConfig = field(default_factory=lambda: ScoresConfig(reference_count=50_000))  # of the training split
    readability: ReadabilityConfig = field(default_factory=ReadabilityConfig)

    def on(self, dataset: str, root: str = "") -> Preset:
        """The preset with other images. Raises `UserError` for an unknown data set."""
        if dataset not in DATASETS:
            raise unknown("dataset", dataset, DATASETS)
        changes: dict[str, Any] = {"dataset": dataset, "root": root}
        return replace(self, data=replace(self.data, **changes))

    # ------------------------------------------------------------------------------------------------ configurations

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
        if reading == "latent_area":
            pyramid = replace(self.pyramid, kernel="none", rho_max=0.0, beta=(0.0, 0.0))
        else:
            radius = self.pyramid.rho_max if rho_max is None else rho_max
            pyramid = replace(self.pyramid, kernel=kernel, rho_max=radius)
        vocab = self.quantiser.vocab_size if signal == "structure" else self.alias_vocab
        return TokenizerConfig(
            signal=signal,
            data=self.data,
            pyramid=pyramid,
            autoencoder=self.autoencoder,
            quantiser=replace(self.quantiser, vocab_size=vocab, reading=reading),
            loss=self.loss,
            train=self.tokenizer_train,
            rfid_images=self.rfid_images,
        )

    def tokens(self, signal: Signal = "structure") -> TokensConfig:
        return TokensConfig(signal=signal, data=self.data)

    def var(
        self,
        teacher: TeacherConfig | None,
        seed: int,
        distill: DistillConfig | None = None,
        depth: int | None = None,
        mixer: Mixer | None = None,
    ) -> VarConfig:
        """The deployment network, trained alone or beside its teacher. Another `depth` keeps the width of a head."""
        depth, head_dim = depth or self.transformer.depth, self.transformer.dim // self.transformer.num_heads
        size = replace(self.transformer, depth=depth, width=depth * head_dim, heads=depth)
        return VarConfig(
            transformer=replace(size, mixer=mixer or size.mixer),
            teacher=teacher,
            distill=distill or DistillConfig(),
            train=replace(self.var_train, seed=seed),
            curve=CurveConfig(
                every=self.curve_every,
                samples=replace(self.samples(seed), count=self.curve_samples),
                scores=self.scores(),
            ),
        )

    def samples(self, seed: int) -> SamplesConfig:
        return replace(self.sampling, seed=seed)

    def scores(self) -> ScoresConfig:
        """Against the preset's own images."""
        return replace(self.scoring, reference=self.data)


ROWS = (
    Preset(
        "smoke",
        data=DataConfig(dataset="emoji", image_size=64),
        pyramid=PyramidConfig(patch_nums=(1, 2, 4, 8), downsample_factor=8),
        autoencoder=AutoencoderConfig(ch=16, ch_mult=(1, 1, 2, 4), num_res_blocks=1, z_channels=16, norm_groups=4),
        quantiser=QuantiserConfig(vocab_size=512, ema_decay=0.95, dead_after=20),
        alias_vocab=64,
        loss=TokenizerLossConfig(perceptual=0.0, adversarial=0.0, bypass=0.8),
        tokenizer_train=TrainConfig(steps=240, batch_size=8, lr=6.4e-2, warmup=0.08, eval_every=120),
        rfid_images=0,
        transformer=TransformerConfig(depth=4, width=128),
        var_train=TrainConfig(steps=200, batch_size=16, lr=2.4e-2, eval_every=40),
        curve_every=0,
        curve_samples=225,
        sampling=SamplesConfig(count=225),
        scoring=ScoresConfig(reference_count=512),
        readability=ReadabilityConfig(words=48),
    ),
    Preset(
        "small",
        data=DataConfig(dataset="emoji", image_size=128),
        pyramid=PyramidConfig(downsample_factor=8),
        autoencoder=AutoencoderConfig(ch=64, ch_mult=(1, 1, 2, 4)),
        quantiser=QuantiserConfig(vocab_size=2048),
        alias_vocab=256,
        loss=TokenizerLossConfig(bypass=0.1),
        tokenizer_train=TrainConfig(steps=10_000, batch_size=64, lr=4e-4),
        rfid_images=1_000,
        transformer=TransformerConfig(depth=8),
        var_train=TrainConfig(steps=20_000, batch_size=128, lr=4e-4),
        curve_every=2_000,
        curve_samples=1_000,
        sampling=SamplesConfig(count=2_000),
        scoring=ScoresConfig(reference_count=0),
    ),
    Preset("paper"),
)
PRESETS = {row.name: row for row in ROWS}


def preset(name: str, data: str = "", verify: bool = False) -> Preset:
    """A preset by name, on other data where `data` is "DATASET" or "DATASET:ROOT", identified by their content.

    `verify` reads every byte of them. Raises `UserError`.
    """
    if name not in PRESETS:
        raise unknown("preset", name, PRESETS)
    if not data:
        return PRESETS[name]
    dataset, _, root = data.partition(":")
    chosen = PRESETS[name].on(dataset, str(Path(root).resolve()) if root else "")
    if root and not os.path.isdir(root):
        raise UserError(f"--data {data}: {root} is not a folder")
    return replace(chosen, data=chosen.data.found(verify))
