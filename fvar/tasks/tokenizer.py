"""Training one tokenizer: what the loop of `fvar.training` runs for a `TokenizerConfig`.

The structure tokenizer reconstructs the image from all scales. In the focus readings it also reconstructs blurred views
from the scales that describe them, so that a prefix of the tokens decodes to a less focused image: for a quarter of the
batch one random scale k < K is decoded at full size and compared with L_k enlarged. VAR's own reading has no such loss.

The alias tokenizer reconstructs every residual A_k at its own size, f_hat_k averaged down to it, in units of its
amplitude (`fvar.tokenizer.dual`). No scale is a blurred version of another there, and an empty one is left out. Its
signal is not a picture, so neither the perceptual nor the adversarial loss applies.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from fvar.config import TokenizerConfig
from fvar.data import ImageSet, open_dataset, to_float
from fvar.errors import UserError
from fvar.focus import pyramid
from fvar.machine.seeds import seed_for
from fvar.machine.transfer import send
from fvar.tokenizer import discriminator, losses, perceptual
from fvar.tokenizer.codebook import EmaCodebook
from fvar.tokenizer.dual import SignalScaler, signal_views, silent_scales
from fvar.tokenizer.quantiser import Quantised, area, bicubic
from fvar.tokenizer.usage import CodebookUsage
from fvar.tokenizer.vqvae import VQVAE
from fvar.training.task import Metrics, Task

MEASURED_IMAGES = 512  # on which the alias amplitudes are measured
COARSE_SHARE = 4  # one image in four also reconstructs a blurred view


@dataclass
class TokenizerBatch:
    """Images, and what the generator's loss makes of them for those who come after it in the same step."""

    pixels: Tensor  # (B, 3, S, S) uint8
    coded: Quantised | None = None  # for the codebook's statistics, in `after_step`
    judged: tuple[Tensor, Tensor] | None = None  # real and made (B, 3, S, S) in [-1, 1], for the discriminator's loss


class TokenizerTask(Task[TokenizerBatch]):
    """The networks, losses and data of one tokenizer."""

    def __init__(
        self, config: TokenizerConfig, device: torch.device, workers: int = 2, flops_per_item: float = 0.0
    ) -> None:
        if config.signal == "alias" and config.quantiser.reading == "latent_area":
            raise UserError(
                "an alias tokenizer cannot read latent_area: that codes the sharpest view alone, and its residual is "
                "zero; set quantiser.reading to focus or independent"
            )
        torch.manual_seed(seed_for(config.train.seed, "init"))
        self.config = config
        self._device = device
        self.flops_per_item = flops_per_item
        self.images: ImageSet = open_dataset(config.data, "train", workers)
        self.heldout: ImageSet = open_dataset(config.data, "heldout", workers)
        if len(self.images) < config.train.batch_size:
            raise UserError(
                f"{len(self.images)} training images are fewer than a batch of {config.train.batch_size}; "
                "set train.batch_size lower, or choose a smaller preset"
            )
        self.patch_nums = config.pyramid.patch_nums
        self.pyramid = pyramid.from_config(config.pyramid).to(device).train()
        silent = silent_scales(self.pyramid, config.signal)
        self.vqvae = VQVAE(config.autoencoder, config.quantiser, self.patch_nums, silent).to(device).train()
        self.codebook: EmaCodebook | None = None
        if config.quantiser.codebook == "ema":
            self.codebook = EmaCodebook(config.quantiser, config.autoencoder.z_channels).to(device)
        self.scaler = SignalScaler(len(self.patch_nums)).to(device)
        if config.signal == "alias":
            self._measure_signal()
        self._build_judges()

    def _build_judges(self) -> None:
        loss, picture = self.config.loss, self.config.signal == "structure"
        side = self.config.data.image_size
        self.perceptual: perceptual.PerceptualDistance | None = None
        if picture and loss.perceptual > 0 and side >= perceptual.MIN_SIDE:
            self.perceptual = perceptual.PerceptualDistance().to(self._device)
        self.discriminator: discriminator.PatchDiscriminator | None = None
        if picture and loss.adversarial > 0 and side >= discriminator.MIN_SIDE:
            self.discriminator = discriminator.PatchDiscriminator(loss.discriminator_ch).to(self._device)
            self.phase_names = ("generator", "discriminator")
        else:
            self.phase_names = ("generator",)

    def _measure_signal(self) -> None:
        count = min(len(self.images), MEASURED_IMAGES)
        spread = [i * len(self.images) // count for i in range(count)]
        self.pyramid.eval()
        self.scaler.measure(self._views(self.images.batch(spread[i : i + 64])) for i in range(0, count, 64))
        self.pyramid.train()

    # ------------------------------------------------------------------------------------------ what the loop asks for

    @property
    def size(self) -> int:
        return len(self.images)

    @property
    def device(self) -> torch.device:
        return self._device

    def state_modules(self) -> dict[str, nn.Module]:
        modules: dict[str, nn.Module | None] = {
            "vqvae": self.vqvae,
            "scaler": self.scaler,
            "codebook": self.codebook,
            "discriminator": self.discriminator,
        }
        return {name: module for name, module in modules.items() if module is not None}

    def parameter_groups(self, phase: str) -> list[tuple[str, nn.Parameter]]:
        module = self.discriminator if phase == "discriminator" else self.vqvae
        assert module is not None
        return [(name, parameter) for name, parameter in module.named_parameters() if parameter.requires_grad]

    def fetch(self, indices: Tensor, generator: torch.Generator) -> TokenizerBatch:
        return TokenizerBatch(self.images.batch(indices, generator))

    def phases(self, step: int) -> tuple[str, ...]:
        return self.phase_names if self._playing(step) else self.phase_names[:1]

    def loss(self, phase: str, batch: TokenizerBatch, step: int) -> tuple[Tensor, Metrics]:
        return self._discriminator_loss(batch) if phase == "discriminator" else self._generator_loss(batch, step)

    def after_step(self, step: int, batches: Sequence[TokenizerBatch]) -> None:
        coded = [batch.coded for batch in batches if batch.coded is not None]
        scales = range(len(self.patch_nums))
        indices = [torch.cat([part.drawn[k] for part in coded]) for k in scales]
        self.vqvae.quantize.record_hits(indices)
        if self.codebook:
            residuals = [torch.cat([part.residuals[k] for part in coded]) for k in scales]
            self.codebook.update(self.vqvae.quantize.embedding.weight, indices, residuals)

    def heldout_loss(self, metrics: Mapping[str, float]) -> float | None:
        return 1 - metrics["explained"] if "explained" in metrics else None

    @torch.no_grad()
    def evaluate(self, step: int) -> dict[str, float]:
        """Codebook usage and perplexity, `psnr` in dB of the image (of the residuals, alias), `explained` variance.

        `explained` is 1 - error / power over all scaled views that are reconstructed; the image, for structure.
        """
        self.vqvae.eval()
        self.pyramid.eval()
        usage = CodebookUsage(self.patch_nums, self.config.quantiser.vocab_size)
        decibels: list[Tensor] = []
        errors, powers = torch.zeros(2, dtype=torch.float64)
        for pixels in self._heldout_batches():
            views = self._views(pixels)
            coded = self.vqvae.quantise(self.vqvae.latents(views))
            usage.add(coded.drawn)
            for k, made, target in self._reconstructions(coded, views):
                if self.config.signal == "structure":
                    made = made.clamp(-1, 1)
                decibels.append(losses.psnr(self.scaler.restore(k, made), self.scaler.restore(k, target)))
                errors += (made.double() - target.double()).square().mean((1, 2, 3)).sum().cpu()
                powers += target.double().var((1, 2, 3)).sum().cpu()
        self.vqvae.train()
        self.pyramid.train()
        if not decibels:  # no scale of the residual carries a signal, as at rho_max = 0
            return usage.summary()
        quality = {"psnr": float(torch.cat(decibels).mean()), "explained": float(1 - errors / powers)}
        return quality | usage.summary()

    # ---------------------------------------------------------------------------------------------------------- losses

    def _generator_loss(self, batch: TokenizerBatch, step: int) -> tuple[Tensor, Metrics]:
        """Reconstruction and quantisation. Leaves the codes and, for the discriminator, both images in `batch`."""
        cfg, pixels = self.config, batch.pixels
        views = self._views(pixels, self._noise_source())
        coded = self.vqvae.quantise(self.vqvae.latents(views), self._bypass(len(pixels), step))
        batch.coded = coded
        quantisation = cfg.quantiser.commitment * coded.commitment + coded.codebook
        metrics: dict[str, Tensor | float] = {"commitment": coded.commitment, "codebook": coded.codebook}
        if cfg.signal == "alias":
            parts = [
                losses.pixel_loss(made, target, cfg.loss) for _, made, target in self._reconstructions(coded, views)
            ]
            # Without blur no scale has a signal: there is nothing to learn, but a loss to differentiate.
            reconstruction = torch.stack(parts).mean() if parts else 0 * self.vqvae.decoder.last_layer.sum()
            return reconstruction + quantisation, metrics | {"reconstruction": reconstruction}
        target = to_float(send(pixels, self._device))
        made, coarse = self._picture(coded, views)
        reconstruction = losses.pixel_loss(made, target, cfg.loss)
        metrics["reconstruction"] = reconstruction
        if self.perceptual:
            distance = self.perceptual(made, target).mean()
            reconstruction = reconstruction + cfg.loss.perceptual * distance
            metrics["perceptual"] = distance
        total = reconstruction + cfg.loss.coarse_views * coarse + quantisation
        metrics["coarse"] = coarse
        if self.discriminator and self._playing(step):
            batch.judged = target, made.detach()
            adversarial = losses.hinge_generator(self.discriminator(made))
            weight = losses.adaptive_weight(reconstruction, adversarial, self.vqvae.decoder.last_layer)
            total = total + cfg.loss.adversarial * weight * adversarial
            metrics |= {"adversarial": adversarial, "adaptive_weight": weight}
        return total, metrics

    def _discriminator_loss(self, batch: TokenizerBatch) -> tuple[Tensor, Metrics]:
        assert self.discriminator is not None
        assert batch.judged is not None
        real, fake = batch.judged
        logits_real, logits_fake = self.discriminator(torch.cat([real, fake])).chunk(2)
        loss = losses.hinge_discriminator(logits_real, logits_fake)
        return loss, {"logits_real": logits_real.mean(), "logits_fake": logits_fake.mean()}

    def _noise_source(self) -> torch.Generator | None:
        """Where the pyramid's noise comes from: a generator of this step, or the one that a GPU has for itself.

        A GPU would wait for numbers drawn in main memory, several hundred million of them at the paper's size.
        """
        seed = int(torch.randint(2**62, ()))
        return torch.Generator().manual_seed(seed) if self._device.type == "cpu" else None

    def _bypass(self, count: int, step: int) -> Tensor | None:
        """Which images of the batch (B,) are decoded from their latents as they are.

        At first all, falling linearly to none. Codes near the mean tell nothing of what varies little, such as colour,
        so a decoder that only ever sees codes gives the encoder no reason to let it vary more.
        """
        steps = self.config.loss.bypass * self.config.train.steps
        if step >= steps:
            return None
        return send(torch.rand(count) < 1 - step / steps, self._device)

    def _playing(self, step: int) -> bool:
        return step >= self.config.loss.adversarial_after * self.config.train.steps

    def _picture(self, coded: Quantised, views: list[Tensor]) -> tuple[Tensor, Tensor]:
        """The image from all scales, and the loss of the blurred views from some; decoded in one go."""
        cfg, scales, device = self.config, len(self.patch_nums), self._device
        final = coded.f_hats[-1]
        if cfg.loss.coarse_views == 0 or cfg.quantiser.reading == "latent_area" or scales == 1:
            return self._render(final), final.new_zeros(())
        rows = torch.arange(-(-len(final) // COARSE_SHARE), device=device)
        k = send(torch.randint(scales - 1, (len(rows),)), device)
        prefixes = torch.stack([f_hat[: len(rows)] for f_hat in coded.f_hats[:-1]])[k, rows]
        blurred = torch.stack([bicubic(v[: len(rows)], cfg.data.image_size) for v in views[:-1]])[k, rows]
        made = self._render(torch.cat([final, prefixes]))
        return made[: len(final)], losses.pixel_loss(made[len(final) :], blurred, cfg.loss)

    def _reconstructions(self, coded: Quantised, views: list[Tensor]) -> Iterator[tuple[int, Tensor, Tensor]]:
        """(scale, made, target) of every view this signal has to reconstruct."""
        if self.config.signal == "structure":
            yield len(views) - 1, self._render(coded.f_hats[-1]), views[-1]
            return
        for k in self.scaler.audible_scales:
            yield k, self._render(area(coded.f_hats[k], self.patch_nums[k])), views[k]

    def _render(self, f_hat: Tensor) -> Tensor:
        return self.vqvae.render(f_hat).float()

    def _views(self, pixels: Tensor, generator: torch.Generator | None = None) -> list[Tensor]:
        x = to_float(send(pixels, self._device))
        return signal_views(self.pyramid, self.scaler, self.config.signal, x, generator)

    def _heldout_batches(self) -> Iterator[Tensor]:
        count = min(self.config.train.eval_images, len(self.heldout))
        size = min(self.config.train.batch_size, 64)
        for first in range(0, count, size):
            yield self.heldout.batch(range(first, min(first + size, count)))
