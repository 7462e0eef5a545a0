"""What a run starts from: its tokenised store and its model."""

import json
from pathlib import Path
from typing import Any

import jax
from jax.sharding import Mesh
from rich.console import Console

from skyrm_jax import checkpoint
from skyrm_jax.config import TrainConfig
from skyrm_jax.data.store import Store
from skyrm_jax.errors import UserError
from skyrm_jax.models.architecture import Architecture
from skyrm_jax.models.parameters import Params, initialise, shardings
