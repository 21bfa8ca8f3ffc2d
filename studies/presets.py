"""The sizes at which every study runs. A preset is the paper's settings and a row of what differs from them.

smoke      two CPU cores and minutes: embedded emoji at 64 px; says that everything works
desk       two CPU cores and an evening: the same images, better tokenizers, all anew by each seed; the README's picture
small      one A100 and under two hours: embedded emoji at 128 px, guarded against learning them by heart
paper      8 A100 and a good week: ImageNet at 256 px with the paper's settings (Sec. 4.1 and 4.2), else VAR's
paper512   8 A100 and five weeks: the same at 512 px

What a row does not name is the default of `Preset`, the paper's, or of `fvar.config`, which cites its source. The times
are of Table 2 with one seed, training and scoring; `Preset.hours` is the training alone, and a test holds
`fvar.estimate` to it.
"""

from __future__ import annotations

import functools
import os
from dataclasses import dataclass, field, fields, replace
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
    SpeedConfig,
    TeacherConfig,
    TokenizerConfig,
    TokenizerLossConfig,
    TokensConfig,
    TrainConfig,
    TransformerConfig,
    VarConfig,
)
from fvar.errors import UserError, unknown
from fvar.estimate import CLASSES, IMAGENET_CLASSES

DATASETS = get_args(get_type_hints(DataConfig)["dataset"])


@dataclass(frozen=True)
class Machine:
    """A class of machines, by what it makes of the networks' arithmetic while it trains them."""

    name: str
    speed: float  # FLOP/s, of all its processors together

    def hours(self, flops: float) -> float:
        """What training costs of its time."""
        return flops / self.speed / 3600


TWO_CORES = Machine("two cores", 2 * 24e9)  # measured with AVX2 and float32 on a busy machine, by CPU time
A100 = Machine("one A100", 0.4 * 312e12)  # assumed: 40 % of the peak in the maker's data sheet
EIGHT_A100 = Machine("8 A100", 8 * A100.speed)


@dataclass(frozen=True)
class Preset:
    """What stages are configured from at one size. The methods give a stage's configuration, one per kind of stage.

    Seeds are the methods' business, and so is what a variant changes: fields hold neither.
    """

    name: str
    machine: Machine = EIGHT_A100
    hours: float = 0.0  # of training that Table 2 takes there with one seed, at most
    # Resized to 1.125x and cropped anew in each epoch: VAR. A token store holds ten crops of each image (ours).
    data: DataConfig = field(default_factory=lambda: DataConfig(crop="random", crops=10))
    tokenizers_by_seed: bool = False  # a seed trains tokenizers of its own; otherwise all share those of seed 0
    pyramid: PyramidConfig = field(default_factory=PyramidConfig)
    autoencoder: AutoencoderConfig = field(default_factory=AutoencoderConfig)
    quantiser: QuantiserConfig = field(default_factory=QuantiserConfig)
    alias_vocab: int = 512  # codes of the alias tokenizer, paper Sec. 4.2
    alias_autoencoder: AutoencoderConfig | None = None  # its network; None: shaped as the structure tokenizer's
    alias_loss: TokenizerLossConfig | None = None  # None: the structure tokenizer's
    alias_train: TrainConfig | None = None  # None: the structure tokenizer's
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
    speed_batches: tuple[int, ...] = SpeedConfig.batches

    def __hash__(self) -> int:
        return self._hash

    @functools.cached_property  # of all fields; asked for each seed of a plan
    def _hash(self) -> int:
        return hash(tuple(getattr(self, item.name) for item in fields(self)))

    def on(self, dataset: str, root: str = "") -> Preset:
        """The preset with other images. Raises `UserError` for an unknown data set."""
        if dataset not in DATASETS:
            raise unknown("dataset", dataset, DATASETS)
        changes: dict[str, Any] = {"dataset": dataset, "root": root}
        if dataset == "text":
            changes |= {"crop": "center", "crops": 1}  # a page has no margin to lose
        return replace(self, data=replace(self.data, **changes))

    # ------------------------------------------------------------------------------------------------ configurations

    def tokenizer(
        self,
        signal: Signal = "structure",
        kernel: Kernel = "disk",
        reading: Reading = "focus",
        rho_max: float | None = None,
        seed: int = 0,
    ) -> TokenizerConfig:
        """A tokenizer of the structure L_k or of the alias residual A_k. `rho_max` is in px of a 256 px image.

        The `latent_area` reading is VAR's own tokenizer: it sees the sharp image only, without blur or noise.
        """
        if reading == "latent_area":
            pyramid = replace(self.pyramid, kernel="none", rho_max=0.0, beta=(0.0, 0.0))
        else:
            radius = self.pyramid.rho_max if rho_max is None else rho_max
            pyramid = replace(self.pyramid, kernel=kernel, rho_max=radius)
        alias = signal == "alias"
        vocab = self.alias_vocab if alias else self.quantiser.vocab_size
        train = (alias and self.alias_train) or self.tokenizer_train
        return TokenizerConfig(
            signal=signal,
            data=self.data,
            pyramid=pyramid,
            autoencoder=(alias and self.alias_autoencoder) or self.autoencoder,
            quantiser=replace(self.quantiser, vocab_size=vocab, reading=reading),
            loss=(alias and self.alias_loss) or self.loss,
            train=replace(train, seed=self.tokenizer_seed(seed)),
            rfid_images=self.rfid_images,
        )

    def tokenizer_seed(self, seed: int) -> int:
        """Which seed trains the tokenizers that a seed of the study reads."""
        return seed if self.tokenizers_by_seed else 0

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
        """The deployment network, trained alone or beside its teacher. Another `depth` keeps the width of a head.

        From d24 on the rate falls to 1 % instead of 10 %, as VAR's README has it (`--wpe`); its weight decay of d24 is
        d16's, and its lower rate (`--tblr 8e-5`) is replaced by the paper's.
        """
        plain = _of_seed_0(self, teacher, distill, depth or self.transformer.depth, mixer)
        return replace(plain, train=_training(plain.train, seed), curve=_curve(plain.curve, seed))

    def sized(self, depth: int) -> TransformerConfig:
        """The transformer at another depth, with the width of a head as it is."""
        head_dim = self.transformer.dim // self.transformer.num_heads
        return replace(self.transformer, depth=depth, width=depth * head_dim, heads=depth)

    def speed(self, depth: int, seed: int) -> SpeedConfig:
        """Timing of the networks of a depth, as `samples` would use them."""
        return SpeedConfig(
            transformer=self.sized(depth),
            classes=CLASSES.get(self.data.dataset, IMAGENET_CLASSES),
            patch_nums=self.pyramid.patch_nums,
            autoencoder=self.autoencoder,
            quantiser=self.quantiser,
            batches=self.speed_batches,
            guidance=self.sampling.guidance,
            top_k=self.sampling.top_k,
            top_p=self.sampling.top_p,
            precision=self.sampling.precision,
            seed=seed,
        )

    def samples(self, seed: int) -> SamplesConfig:
        return _sampling(self.sampling, seed)

    def scores(self) -> ScoresConfig:
        """Against the preset's own images, from their middle."""
        return self._scores

    @functools.cached_property  # the same for every seed of a plan
    def _scores(self) -> ScoresConfig:
        return replace(self.scoring, reference=replace(self.data, crop="center", crops=1))


# Configurations with another seed. Variants of a large plan share them, whose identities are then worked out once.


@functools.cache
def _training(config: TrainConfig, seed: int) -> TrainConfig:
    return replace(config, seed=seed)


@functools.cache
def _sampling(config: SamplesConfig, seed: int) -> SamplesConfig:
    return replace(config, seed=seed)


@functools.cache
def _curve(config: CurveConfig, seed: int) -> CurveConfig:
    return replace(config, samples=_sampling(config.samples, seed))


@functools.cache  # as above, by seeds
def _of_seed_0(
    preset: Preset, teacher: TeacherConfig | None, distill: DistillConfig | None, depth: int, mixer: Mixer | None
) -> VarConfig:
    """What `Preset.var` gives, with seed 0."""
    size = preset.sized(depth)
    return VarConfig(
        transformer=replace(size, mixer=mixer or size.mixer),
        teacher=teacher,
        distill=distill or DistillConfig(),
        train=replace(preset.var_train, seed=0, final=0.01 if depth >= 24 else preset.var_train.final),
        curve=CurveConfig(
            every=preset.curve_every,
            samples=replace(preset.samples(0), count=preset.curve_samples),
            scores=preset.scores(),
        ),
    )


# What smoke trains, and what desk starts from: networks of about a million parameters.
_EMOJI64 = Preset(
    "smoke",
    machine=TWO_CORES,
    data=DataConfig(dataset="emoji", image_size=64),
    pyramid=PyramidConfig(patch_nums=(1, 2, 4, 8), downsample_factor=8),
    autoencoder=AutoencoderConfig(ch=16, ch_mult=(1, 1, 2, 4), num_res_blocks=1, z_channels=16, norm_groups=4),
    quantiser=QuantiserConfig(vocab_size=512, ema_decay=0.95, dead_after=20),
    alias_vocab=64,
    loss=TokenizerLossConfig(perceptual=0.0, adversarial=0.0, bypass=0.8),
    tokenizer_train=TrainConfig(
        steps=300, batch_size=8, lr=0.16, optimiser="muon", warmup=0.08, eval_every=300, decay_classes=False
    ),
    rfid_images=0,
    transformer=TransformerConfig(depth=4, width=128, gamma_init=1e-5),
    var_train=TrainConfig(steps=200, batch_size=8, lr=0.48, optimiser="muon", eval_every=50, decay_classes=False),
    curve_every=0,
    curve_samples=225,
    # VAR's top_p is 0.96, for a network trained to its end. After few steps the tail of the distribution is noise: at
    # desk, over 450 samples, KID is 86e-3 with 0.96, 74e-3 with 0.7 and 67e-3 with 0.5. Recall is below 0.01 with each
    # of them, even where the coarse scales draw freely (top_p 1, at the last 0.4: KID 79e-3, recall 0.004).
    sampling=SamplesConfig(count=225, top_p=0.6),
    scoring=ScoresConfig(reference_count=512),
    readability=ReadabilityConfig(words=48),
    speed_batches=(1, 4, 16),
)

ROWS = (
    replace(_EMOJI64, hours=0.11),
    replace(
        _EMOJI64,
        name="desk",
        hours=0.45,
        tokenizers_by_seed=True,
        # 31 minutes per seed, measured. More than about 900 steps of the networks learn 1,669 images by heart (after
        # 4,400 held-out cross-entropy is 6.5 nats, not 4.0, and KID no lower), so time goes to the tokenizers: of
        # squares of 2 x 2 px, and for longer. With 900 steps each, seed 0 of the baseline: KID 63e-3, not 68e-3.
        autoencoder=replace(_EMOJI64.autoencoder, ch=48, ch_mult=(1, 1, 2), patch=2),
        tokenizer_train=replace(_EMOJI64.tokenizer_train, steps=700, eval_every=700),
        # A decoder that doubles its maps hardly makes the patterns of a residual, but one layer from a code to its
        # 8 x 8 px does: it explains 29 % of A_k in place of 17 %, with the paper's 512 codes and larger batches of what
        # is small. The median of a sparse signal is 0, so L1 is left out.
        alias_vocab=512,
        alias_autoencoder=replace(_EMOJI64.autoencoder, ch=64, ch_mult=(1,), patch=8),
        alias_loss=replace(_EMOJI64.loss, l1=0.0),
        alias_train=replace(_EMOJI64.tokenizer_train, steps=450, batch_size=32, lr=0.08, eval_every=450),
        var_train=replace(_EMOJI64.var_train, steps=750, eval_every=150, ema=0.98),  # 0.11 nats better held out
        sampling=replace(_EMOJI64.sampling, count=900, top_p=0.5),
    ),
    Preset(
        "small",
        machine=A100,
        hours=1.0,
        data=DataConfig(dataset="emoji", image_size=128),
        pyramid=PyramidConfig(downsample_factor=8),
        autoencoder=AutoencoderConfig(ch=64, ch_mult=(1, 1, 2, 4)),
        quantiser=QuantiserConfig(vocab_size=2048),
        alias_vocab=256,
        loss=TokenizerLossConfig(bypass=0.1),
        tokenizer_train=TrainConfig(steps=10_000, batch_size=32, lr=8e-4),
        rfid_images=1_000,
        transformer=TransformerConfig(depth=8),
        # Few images seen often: the weights that generalise best are kept, not the last.
        var_train=TrainConfig(steps=6_000, batch_size=64, lr=8e-4, deploy="best", eval_every=250),
        curve_every=1_000,
        curve_samples=1_000,
        sampling=SamplesConfig(count=2_000),
        scoring=ScoresConfig(reference_count=0, heldout=True),
    ),
    Preset("paper", hours=200.0),
    Preset(
        "paper512",
        hours=800.0,
        data=DataConfig(image_size=512, crop="random", crops=10),
        pyramid=PyramidConfig(patch_nums=(4, 8, 16, 32)),
    ),
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
