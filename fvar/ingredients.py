"""What stages are configured from: one frozen, typed configuration per part, with the paper's values as defaults.

Defaults live here and in `fvar.config`, which makes stages of them, and nowhere else. In a comment, "paper" is the
longer ReFocus-VAR text with its equation or section, "VAR" the original's published training recipe, "ours" a choice
neither states. Where the paper contradicts itself, the readings are switches here (see READINGS.md). Nothing here needs
torch.

A field that was not there when the first results were kept says which value means "as before" (`fvar.plain.since`).
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from fvar.errors import DataChanged, UserError
from fvar.machine import content
from fvar.machine.names import printable
from fvar.machine.precision import Precision
from fvar.plain import Checked, fraction, positive, since

Signal = Literal["structure", "alias"]
Schedule = Literal["cosine", "linear", "geometric"]
Kernel = Literal["disk", "gaussian", "area", "bicubic", "ideal", "disk_pixel", "none"]
Digital = Literal["decimate", "area", "bicubic"]
Reading = Literal["focus", "independent", "latent_area"]
Trunk = Literal["separate", "shared"]
Optimiser = Literal["adamw", "muon"]
Mixer = Literal["var", "mvar"]
Mask = Literal["none", "center", "border"]
Residual = Literal["prefix_attention", "scale_attention", "mamba2", "feed_forward"]

# A block of the transformer is a list of modulated residuals; the last is what follows the teacher's cross-attention.
RESIDUALS: dict[Mixer, tuple[Residual, ...]] = {
    "var": ("prefix_attention", "feed_forward"),
    "mvar": ("scale_attention", "mamba2", "feed_forward"),
}


@dataclass(frozen=True)
class DataConfig(Checked):
    """Which images, at which size, split how."""

    dataset: Literal["emoji", "text", "cifar10", "folder", "webdataset"] = "folder"  # ImageNet layout, paper Sec. 4.1
    root: str = ""  # folder or shards; empty for the embedded emoji and rendered text
    image_size: int = 256  # px, paper Sec. 4.1 (256 and 512)
    crop: Literal["center", "random"] = "center"  # random: resize to 1.125x, then crop (VAR's recipe)
    flip: bool = False  # off: text and flags do not mirror
    crops: int = 1  # deterministic augmented copies of each training image in a token store
    holdout: float = 0.1  # share of every class kept from training (data sets without their own split)
    split_seed: int = 0
    bad_image_budget: float = 0.01  # share of unreadable files above which the stage fails
    allow_empty_classes: bool = since(False, before=False)  # leave out classes without a readable image
    content: str = since("", before="")  # digest of the files (fvar.machine.content); with it, root is not identity

    def __post_init__(self) -> None:
        super().__post_init__()
        positive(self, "image_size", "crops")
        fraction(self, "holdout", "bad_image_budget")

    def outside_identity(self) -> tuple[str, ...]:
        return ("root",) if self.content else ()

    def require_heldout(self) -> None:
        """Raise `UserError` where it is certain without a look at the files that no image is held out."""
        if self.dataset == "emoji" and not self.holdout:
            raise UserError(
                "data.holdout 0 keeps no images for validation, which this stage needs; raise it, 0.1 for a tenth"
            )

    def found(self, verify: bool = False) -> DataConfig:
        """With the `content` that `root` has now, which identifies these data from here on, wherever they lie.

        Nothing changes without a root. `verify` reads every byte (see `fvar.machine.content`). Raises `UserError`.
        """
        if not self.root or self.dataset in ("emoji", "text"):
            return self
        pattern = {"folder": "*/*", "webdataset": "*.[tT][aA][rR]"}.get(self.dataset, "*")
        return replace(self, content=content.digest(self.root, pattern, verify))

    def require_unchanged(self) -> None:
        """Raise `DataChanged` if `root` no longer holds the content that it had when this was planned."""
        if self.content and self.found().content != self.content:
            raise DataChanged(
                f"the files in {printable(self.root)} changed since this was planned: restore them and go on, or "
                "repeat the study's command, which takes them as another data set"
            )

    @property
    def title(self) -> str:
        """The data set as tables and labels name it: "emoji", or the folder and the first digits of its content."""
        if not self.root:
            return self.dataset
        name = re.sub(r"[^\w.-]+", "_", Path(self.root).name).strip("._-") or self.dataset
        return f"{name}-{self.content[:6]}" if self.content else name


@dataclass(frozen=True)
class PublishedConfig(Checked):
    """A file of statistics that somebody published of real images, as ADM's evaluator reads them (fvar.metrics)."""

    path: str = ""  # of the .npz
    content: str = ""  # its SHA-256, which identifies it wherever it lies

    def outside_identity(self) -> tuple[str, ...]:
        return ("path",)

    @classmethod
    def of(cls, path: str) -> PublishedConfig:
        """The file at `path`, as it is now. Raises `UserError` where it cannot be read."""
        return cls(str(Path(path).resolve()), content.of_file(path))

    def require_unchanged(self) -> None:
        """Raise `DataChanged` if the file no longer holds what it held when this was planned."""
        if content.of_file(self.path) != self.content:
            raise DataChanged(f"{printable(self.path)} changed since this was planned; repeat the study's command")


@dataclass(frozen=True)
class PyramidConfig(Checked):
    """Focus states x -> (L_k, D_k, A_k), paper Eq. 1-4."""

    patch_nums: tuple[int, ...] = (2, 4, 8, 16)  # side of the token map per scale; K = 4, paper Sec. 4.2
    downsample_factor: int = 16  # px per token side; VAR's tokenizer
    rho_max: float = 12.0  # px at a side of `rho_reference`, paper Sec. 4.2
    rho_reference: int = 256  # side the radius refers to; 0: rho_max is in px whatever the side
    schedule: Schedule = "cosine"  # Eq. 2, read as (1 + cos)/2 so that it falls to 0
    kernel: Kernel = "disk"  # Eq. 2; gaussian: sigma = rho/2 (equal variance); see fvar.focus.kernels
    digital: Digital = "decimate"  # D_k of Eq. 4: "pure digital downsampling"
    beta: tuple[float, float] = (1e-3, 1e-2)  # noise of Eq. 3, rising linearly over the scales; paper Sec. 4.2

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.patch_nums or list(self.patch_nums) != sorted(set(self.patch_nums)) or self.patch_nums[0] < 1:
            raise UserError(f"pyramid.patch_nums must rise from at least 1, got {self.patch_nums}")
        positive(self, "downsample_factor")
        if self.rho_max < 0:
            raise UserError(f"pyramid.rho_max must be >= 0 px, got {self.rho_max}")

    @property
    def image_size(self) -> int:
        """Side of the sharpest view in px."""
        return self.patch_nums[-1] * self.downsample_factor

    @property
    def rho_max_px(self) -> float:
        """The largest radius in px of the image that is blurred."""
        return self.rho_max * self.image_size / self.rho_reference if self.rho_reference else self.rho_max


@dataclass(frozen=True)
class AutoencoderConfig(Checked):
    """VQGAN-style convolutional encoder and decoder in the original VAR's shape."""

    ch: int = 160  # VAR
    ch_mult: tuple[int, ...] = (1, 1, 2, 2, 4)  # VAR; the downsampling factor is 2 ** (len - 1)
    num_res_blocks: int = 2  # VAR
    z_channels: int = 32  # VAR
    norm_groups: int = 32  # of group normalisation, fewer where channels do not divide by it; VQGAN
    attention: bool = True  # self-attention at the lowest resolution; VAR
    patch: int = since(1, before=1)  # px, side of the squares of pixels that level 0 takes as one; VAR: 1
    dropout: float = 0.0

    @property
    def downsample_factor(self) -> int:
        return int(self.patch * 2 ** (len(self.ch_mult) - 1))


@dataclass(frozen=True)
class QuantiserConfig(Checked):
    """Multi-scale residual quantiser with phi shared over the scales (VAR)."""

    vocab_size: int = 8192  # structure codebook, paper Sec. 4.2 (alias: 512)
    reading: Reading = "focus"  # latent_area is VAR's own: the baseline
    num_phi: int = 4  # shared over the scales; 0: one per scale; VAR: share_quant_resi
    phi_ratio: float = 0.5  # VAR: phi(h) = (1 - r) h + r conv(h)
    commitment: float = 0.25  # VAR: beta
    codebook: Literal["ema", "gradient"] = "ema"  # ema: Razavi et al. 2019; gradient: VAR's codebook loss
    ema_decay: float = 0.99
    dead_after: int = 256  # steps without use after which a code is restarted; 0: never

    def __post_init__(self) -> None:
        super().__post_init__()
        positive(self, "vocab_size")
        if self.num_phi < 0:
            raise UserError(f"quantiser.num_phi must be at least 0, got {self.num_phi}")
        if self.vocab_size > 1 << 16:
            raise UserError(f"quantiser.vocab_size {self.vocab_size} exceeds 65536: token stores keep 16 bits a token")


@dataclass(frozen=True)
class TokenizerLossConfig(Checked):
    """Reconstruction losses of a tokenizer (VQGAN's; VAR names but does not publish its weights)."""

    l1: float = 1.0  # VQGAN
    l2: float = 1.0
    perceptual: float = 1.0  # shift-tolerant LPIPS, only on views of at least 32 px
    adversarial: float = 0.5  # hinge PatchGAN times the adaptive weight, only on views of at least 21 px
    adversarial_after: float = 0.3  # warm-up, as a share of the steps
    discriminator_ch: int = 64  # width of the PatchGAN; Isola et al. 2017
    coarse_views: float = 0.1  # weight of reconstructing the blurred views from the first k scales; ours
    bypass: float = 0.0  # share of the steps over which ever fewer images are decoded without quantisation; ours


@dataclass(frozen=True)
class TrainConfig(Checked):
    """Optimisation. `lr` is scaled by batch_size / 256, as in VAR."""

    steps: int = 400_000  # paper Sec. 4.2 (tokenizers: 100K)
    batch_size: int = 256  # over all ranks; paper Sec. 4.2
    lr: float = 1e-4  # per 256 images; paper Sec. 4.2
    optimiser: Optimiser = since("adamw", before="adamw")  # VAR; muon learns more in few steps (fvar.training.muon)
    betas: tuple[float, float] = (0.9, 0.95)  # VAR
    weight_decay: float = 0.05  # on matrices only; VAR
    decay_classes: bool = since(True, before=False)  # and on the class embedding; VAR's code, which does not exclude it
    clip: float = 2.0  # gradient norm; VAR
    warmup: float = 0.02  # share of the steps; VAR
    warmup_from: float = 0.005  # of the peak; VAR
    flat: float = 0.05  # share of the steps after the warm-up held at the peak, before the linear fall; VAR
    final: float = 0.1  # of the peak; VAR: 0.1 for d16 and d20, else 0.01
    precision: Precision = "bf16"  # "mixed precision", paper Sec. 4.2
    ema: float = 0.0  # decay of averaged weights; VAR keeps none
    deploy: Literal["last", "best"] = "last"  # which weights the stage leaves; best: by held-out loss; VAR: last
    eval_every: int = 1000  # steps between held-out evaluations
    eval_images: int = 2048
    seed: int = 0

    def __post_init__(self) -> None:
        super().__post_init__()
        positive(self, "steps", "batch_size", "eval_every", "eval_images")
        fraction(self, "warmup", "flat")
        if self.optimiser == "muon" and self.precision == "fp16":
            raise UserError("train.optimiser muon cannot skip the overflows of precision fp16; use bf16 or fp32")


@dataclass(frozen=True)
class MambaConfig(Checked):
    """Mamba-2, M-VAR's mixer of the scales (Dao & Gu 2024); all values are M-VAR's."""

    d_state: int = 64  # numbers of state per channel
    d_conv: int = 4  # tokens that the causal convolution sees
    expand: int = 2  # inner width over the transformer's
    head_dim: int = 64  # channels that decay alike

    def __post_init__(self) -> None:
        super().__post_init__()
        positive(self, "d_state", "d_conv", "expand", "head_dim")


@dataclass(frozen=True)
class TransformerConfig(Checked):
    """VAR's transformer, or M-VAR's: width = 64 * depth and heads = depth unless said otherwise."""

    depth: int = 16  # paper Table 2
    width: int = 0  # 0: 64 * depth; VAR
    heads: int = 0  # 0: depth; VAR
    mlp_ratio: float = 4.0  # VAR
    drop_path: float = -1.0  # peak, rising over the blocks; -1: 0.1 * depth / 24; VAR
    label_drop: float = 0.1  # share of labels replaced by "unconditional"; VAR
    attn_l2_norm: bool = True  # VAR
    shared_aln: bool = False  # one class modulation for all blocks, each with an offset; VAR: d36 at 512 px
    norm_eps: float = 1e-6  # VAR
    gamma_init: float = since(0.0, before=1e-5)  # factor of gamma's first weights; 0: by depth, see `gamma_factor`
    checkpointing: bool = False  # recompute activations in the backward pass
    mixer: Mixer = since("var", before="var")  # what a block is made of, see RESIDUALS; mvar: M-VAR (Ren et al. 2024)
    mamba: MambaConfig = since(default_factory=MambaConfig, before=MambaConfig())  # of mixer mvar alone

    def __post_init__(self) -> None:
        super().__post_init__()
        positive(self, "depth")
        if self.dim % self.num_heads:
            raise UserError(f"transformer.width {self.dim} is not a multiple of its {self.num_heads} heads")
        inner = self.mamba.expand * self.dim
        if self.mixer == "mvar" and inner % self.mamba.head_dim:
            raise UserError(
                f"transformer.mamba.head_dim {self.mamba.head_dim} does not divide the inner width "
                f"{self.mamba.expand} * {self.dim} = {inner}"
            )

    @property
    def residuals(self) -> tuple[Residual, ...]:
        """What a block adds to its input, one after the other."""
        return RESIDUALS[self.mixer]

    @property
    def dim(self) -> int:
        return self.width or 64 * self.depth

    @property
    def num_heads(self) -> int:
        return self.heads or self.depth

    @property
    def gamma_factor(self) -> float:
        """By which the weights that make gamma start smaller: VAR's README (`--alng`) has one for each depth."""
        by_depth = ((20, 1e-3), (24, 1e-4), (30, 1e-5))
        return self.gamma_init or next((factor for depth, factor in by_depth if self.depth <= depth), 5e-6)

    @property
    def drop_path_peak(self) -> float:
        return self.drop_path if self.drop_path >= 0 else 0.1 * self.depth / 24


@dataclass(frozen=True)
class TeacherConfig(Checked):
    """High-frequency residual teacher with Alias-Gate Cross-Attention, paper Sec. 3.3 and 3.5, Eq. 9-12."""

    blocks: int = 2  # how many of the last blocks have AG-XAttn; paper Sec. 4.2
    last_scales: int = 0  # restrict AG-XAttn to the last M scales; 0: all scales
    visibility: Literal["own", "before"] = "own"  # alias scales a query sees: <= its own, or < its own
    gate: Literal["sigmoid", "none"] = "sigmoid"  # alpha of Eq. 11; none: Eq. 10 literally
    gate_bias: float = -4.0  # the gate starts near 0; ours
    head_dim: int = 64  # width of one cross-attention head; ours
    heads: int = 2  # few narrow heads keep AG-XAttn under 3 % of the parameters; paper Sec. 3.5
    trunk: Trunk = "separate"  # separate: "both networks process the batch"
    learns: Literal["online", "frozen"] = "online"  # its own cross-entropy in the same step, or a trained checkpoint
    # Whose alias tokens it reads: its image's own; a control: another image's of the batch, or none, without AG-XAttn
    alias: Literal["own", "other", "none"] = since("own", before="own")

    def __post_init__(self) -> None:
        super().__post_init__()
        positive(self, "blocks", "head_dim", "heads")

    @property
    def reads_alias(self) -> bool:
        """Whether it has AG-XAttn, and so needs alias tokens."""
        return self.alias != "none"


@dataclass(frozen=True)
class DistillConfig(Checked):
    """Online distillation, paper Eq. 13."""

    lambda_feat: float = 1.0  # paper Sec. 4.2
    lambda_logit: float = 0.5  # paper Sec. 4.2
    feature_blocks: int = 2  # features of the last 1-2 blocks; paper Sec. 3.6
    scale_weights: tuple[float, ...] = ()  # one weight per scale; empty: all 1


@dataclass(frozen=True)
class RuntimeConfig(Checked):
    """How a stage runs; never part of its identity and free to differ between two attempts."""

    device: str = "auto"
    threads: int = 0  # CPU threads of a process; 0: torch's choice
    workers: int = 2  # image decoding threads
    compile: bool = False
    parallel: Literal["ddp", "fsdp"] = "ddp"  # fsdp: transformers are sharded over the ranks (FSDP2), for d24 and above
    accumulate: int = 1  # micro-batches per step and rank
    checkpoint_steps: int = 0  # 0: by time only
    checkpoint_seconds: float = 300.0
    keep_checkpoints: int = 2  # the newest; the best by held-out loss is kept besides
    log_every: int = 10
    bad_steps: int = 10  # steps with a non-finite loss or gradient that are skipped before the stage stops
    spike_sigmas: float = 8.0  # an alarm line for a loss this many standard deviations above the last 100; 0: never
