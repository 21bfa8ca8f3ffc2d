"""The code inside a promoted model: what `mlflow.pyfunc.load_model("models:/NAME/1")` loads and runs.

    model.predict({"class": [3], "count": 4})                   images (4, H, W, 3) uint8
    model.predict({"class": [3, 5], "seed": 1, "guidance": 2})  one image of each class

MLflow copies this file into the model as it is, beside the sources of `fvar` ("models from code": nothing is pickled).
So it imports nothing from `studies`, and nothing of `fvar` before MLflow has put the model's own copy on the path.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from mlflow.exceptions import MlflowException
from mlflow.models import set_model
from mlflow.pyfunc.model import PythonModel, PythonModelContext
from numpy.typing import NDArray
from pandas import DataFrame  # MLflow resolves the hints of `predict`

RUNS = "runs"  # artifact: run directories of the student, its tokens (configuration alone) and its tokenizer
OPTIONS = ("guidance", "top_k", "top_p", "seed")  # which a request may change; defaults are the model's configuration


class Sampler(PythonModel):
    """A class-conditional image generator."""

    def load_context(self, context: PythonModelContext) -> None:
        """Load both networks onto the device of the model's configuration."""
        from fvar.machine.distributed import pick_device
        from fvar.models.loading import load_var
        from fvar.rundir import RunDir
        from fvar.sampling import prepare
        from fvar.tokenizer.bundle import load_tokenizer

        self.config: Mapping[str, Any] = context.model_config
        self.device = pick_device(self.config["device"])
        (student,) = Path(context.artifacts[RUNS]).glob("var-*")
        run = RunDir.open(student)
        self.vqvae = load_tokenizer(run.input("tokens").input("tokenizer"), self.device).vqvae
        self.var = load_var(run, self.vqvae)
        prepare(self.var, self.vqvae, self.config["precision"], self.device)

    def predict(
        self, context: PythonModelContext, model_input: DataFrame, params: Mapping[str, Any] | None = None
    ) -> NDArray[np.uint8]:
        """Generate images.

        Parameters
        ----------
        model_input
            A row per request. `class`: numbers of classes. `count`: images of each of them (1). `guidance`, `top_k`,
            `top_p`, `seed`: as `python -m fvar.sample` takes them, which makes the same images.
        params
            Not used.

        Returns
        -------
        NDArray[np.uint8]
            (N, H, W, 3): the images of the first class, then those of the next.

        Raises
        ------
        MlflowException
            For a class that the model does not know, or an option outside its range.
        """
        rows = model_input.to_dict("records")
        requests = [{str(key): value for key, value in row.items() if _given(value)} for row in rows]
        return np.concatenate([batch for request in requests for batch in self._images(request)])

    def _images(self, request: Mapping[str, Any]) -> Iterator[NDArray[np.uint8]]:
        """The images of one request, in batches."""
        import torch

        from fvar.sampling import image_seeds, sample

        each, count = [int(number) for number in np.atleast_1d(request["class"])], int(request.get("count", 1))
        if not each or count < 1 or not all(0 <= number < self.var.num_classes for number in each):
            raise MlflowException.invalid_parameter_value(
                f"class must list numbers from 0 to {self.var.num_classes - 1}, and count be at least 1; "
                f"found class {each}, count {count}"
            )
        options = {**self.config, **{key: request[key] for key in OPTIONS if key in request}}
        labels = [number for number in each for _ in range(count)]
        size = int(options["batch_size"])
        for first in range(0, len(labels), size):
            batch = labels[first : first + size]
            try:
                made = sample(
                    self.var,
                    self.vqvae,
                    torch.tensor(batch, device=self.device),
                    guidance=float(options["guidance"]),
                    top_k=int(options["top_k"]),
                    top_p=float(options["top_p"]),
                    seeds=image_seeds(int(options["seed"]), range(first, first + len(batch))),
                )
            except ValueError as error:
                raise MlflowException.invalid_parameter_value(str(error)) from error
            yield made.images.permute(0, 2, 3, 1).cpu().numpy()


def _given(value: object) -> bool:
    """Whether a cell of the table holds something: MLflow fills those of optional columns with None or NaN."""
    return value is not None and not (isinstance(value, float) and np.isnan(value))


set_model(Sampler())
