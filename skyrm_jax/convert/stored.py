"""Our own checkpoints read one tensor at a time, straight from the arrays that Orbax wrote."""

import json
from functools import cached_property
from typing import Any

import numpy as np
import tensorstore as ts

from skyrm_jax.checkpoint import Located
from skyrm_jax.convert.names import HfTensor
from skyrm_jax.convert.weights import EVERYTHING, check_finite, check_parameters
from skyrm_jax.data.remote import REMOTE, gcs_folder
from skyrm_jax.errors import UserError
from skyrm_jax.models.architecture import Architecture
from skyrm_jax.models.parameters import parameter_table


class StoredWeights:
    """The `model` arrays of a checkpoint.

    Raises:
        UserError: arrays are missing, misshapen or damaged; each is named.
    """

    def __init__(self, found: Located):
        self.folder = found.folder / "model"
        self.architecture: Architecture = found.architecture
        self._arrays: dict[str, Any] = {}
        check_parameters(
            self.architecture,
            {path: (array.shape, array.dtype.numpy_dtype) for path, array in self._open_all().items()},
        )

    def dtype(self, path: str) -> np.dtype[Any]:
        dtype: np.dtype[Any] = self._arrays[path].dtype.numpy_dtype
        return dtype

    def read(self, tensor: HfTensor, rows: slice = EVERYTHING) -> np.ndarray:
        array = self._arrays[tensor.path]
        if tensor.layer is not None:
            array = array[tensor.layer]
        if tensor.transpose:
            array = array.T
        try:
            value: np.ndarray = array[rows].read(order="C").result()
        except ValueError as error:
            raise UserError(f"{self.folder}: parameter {tensor.path} is damaged: {error}") from error
        return check_finite(value, f"{self.folder}: parameter {tensor.path}")

    def _open_all(self) -> dict[str, Any]:
        for path in parameter_table(self.architecture):
            try:
                self._arrays[path] = ts.open(self._spec(path), read=True, open=True).result()
            except ValueError as error:
                raise UserError(f"{self.folder}: parameter {path} cannot be opened: {error}") from error
        return self._arrays

    def _spec(self, path: str) -> dict[str, Any]:
        kvstore = _kvstore(f"{self.folder}/{path}/")
        if self._layout.get("use_ocdbt"):
            kvstore = {"driver": "ocdbt", "base": _kvstore(f"{self.folder}/"), "path": f"{path}/"}
        driver = "zarr3" if self._layout.get("use_zarr3") else "zarr"
        # Without this, a chunk that was lost is read as zeros.
        return {"driver": driver, "kvstore": kvstore, "fill_missing_data_reads": False}

    @cached_property
    def _layout(self) -> dict[str, Any]:
        file = self.folder / "_METADATA"
        try:
            layout: dict[str, Any] = json.loads(file.read_text())
        except (OSError, ValueError) as error:
            raise UserError(f"{file} cannot be read: {error}; the checkpoint is damaged") from error
        return layout


def _kvstore(folder: str) -> dict[str, Any]:
    """A folder, local or gs://, as TensorStore is told."""
    return gcs_folder(folder) if folder.startswith(REMOTE) else {"driver": "file", "path": folder}
