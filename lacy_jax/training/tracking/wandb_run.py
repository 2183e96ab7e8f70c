"""A run in W&B. Server, key, mode, project and entity come from W&B's own variables, never from a file of the run."""

import os
import shutil
from collections.abc import Mapping
from pathlib import Path

import wandb

from lacy_jax.errors import ConfigError
from lacy_jax.training.tracking.trackers import Outcome, Tracked


class WandbRun:
    """With a server, the run goes on after the last step that the server has.

    Without one (WANDB_MODE=offline) each start writes all steps anew, in place of the files of the starts before: W&B
    cannot continue a run offline, and metrics.jsonl has all of it.

    Raises:
        ConfigError: the folder holds settings of W&B, which could name another server.
    """

    def __init__(self, run: Tracked):
        folder = Path(os.environ.get("WANDB_DIR") or run.folder).absolute()
        if (stray := folder / "wandb" / "settings").exists():
            raise ConfigError(f"{stray} can name another server: remove it, and set WANDB_BASE_URL if you need one")
        self._run = wandb.init(
            project=os.environ.get("WANDB_PROJECT") or "lacy_jax",
            entity=os.environ.get("WANDB_ENTITY"),
            id=run.id,
            name=run.name,
            dir=str(folder),
            resume="allow",
            reinit="create_new",
            settings=wandb.Settings(
                base_url=os.environ.get("WANDB_BASE_URL") or "https://api.wandb.ai", console="off", silent=True
            ),
        )
        self._run.config.update(dict(run.settings), allow_val_change=True)
        self.last = self._run.starting_step - 1
        own = Path(self._run.settings.sync_dir)
        if self._run.settings.mode == "offline":
            for old in own.parent.glob(f"offline-run-*-{run.id}"):
                if old != own:
                    shutil.rmtree(old)

    def send(self, step: int, numbers: Mapping[str, float]) -> None:
        self._run.log(dict(numbers), step=step)

    def close(self, outcome: Outcome) -> None:
        self._run.finish(exit_code=0 if outcome == "ended" else 1)
