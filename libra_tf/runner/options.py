"""What a run is told, for a caller that has no command line."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any


@dataclasses.dataclass(frozen=True)
class Options:
    """Stands in for the parsed flags of a run: every flag by its name, with its default.

    Attributes:
      mode: one of `libra_tf.runner.flags.MODES`.
      params_override: as the flag, or nested keys and values.
    """

    mode: str
    experiment: str | None = None
    dataset: str | None = None
    model_dir: str | None = None
    config_file: Sequence[str] | None = None
    params_override: str | Mapping[str, Any] | None = None
    cache_dir: str | None = None
    val_share: float | None = None
    seed: int | None = None
    patience: int | None = None
    checkpoint: str | None = None
    metrics: Sequence[str] | None = None
    frequency_limits: Sequence[int] | None = None
    report: bool | None = None
    report_threshold: float | None = None
    compare: str | None = None
    enable_async_checkpointing: bool = True
    tpu: str | None = None
    tf_data_service: str | None = None
    gin_file: Sequence[str] | None = None
    gin_params: Sequence[str] | None = None
