"""`lacy_jax.prepare` and `lacy_jax.train`, for notebooks and programs: no flags, no signals outside the main thread."""

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Literal

from lacy_jax.checks import parse
from lacy_jax.config import Config
from lacy_jax.config_dict import config_to_dict
from lacy_jax.console import reporting
from lacy_jax.data.prepare import prepare as prepare_data
from lacy_jax.data.prepared import Prepared
from lacy_jax.errors import ConfigError
from lacy_jax.folders import unwritable
from lacy_jax.paths import expand_home
from lacy_jax.start import preparing_problems, settings_problems

if TYPE_CHECKING:
    from lacy_jax.checkpoints.loading import LoadedModel
    from lacy_jax.data.tokenizer import TextTokenizer

Say = Literal["progress", "nothing"]


def prepare(config: Config, *, say: Say = "progress") -> Prepared:
    """Marks the facts of the corpus, trains its tokenizer and packs its windows, where that is not done yet.

    Raises:
        ConfigError, DataError: the settings or the data cannot be used.
    """
    config, tokenizer = _checked(config, preparing_problems)
    with reporting(quiet=say == "nothing") as reporter:
        return prepare_data(config, tokenizer=tokenizer, progress=reporter.update)


def train(config: Config, *, workdir: str = "", say: Say = "progress") -> "LoadedModel":
    """Prepares what is missing, trains to the end of the budget, and gives the model.

    Repeat the call to continue a run that was stopped, or to get the model of a finished one. If Ctrl-C stops the run,
    it is saved and its model is returned; `step` says how far it came.

    Args:
        workdir: where the run lies; "": runs/<config name>-<method>.

    Raises:
        ConfigError, DataError: the settings, the data or the workdir cannot be used.
        CheckpointError: the workdir cannot keep checkpoints, or holds a run with other settings or data.
        FolderError: another run works in the workdir.
        MeshError: the devices, the batch or the model do not fit config.mesh.
    """
    from lacy_jax.checkpoints.format import check_savable
    from lacy_jax.checkpoints.loading import load_model  # JAX: preparing needs none
    from lacy_jax.runtime.distributed import claimed_by_all
    from lacy_jax.training.announce import describe_long_run
    from lacy_jax.training.loop import train as run_training

    config, tokenizer = _checked(config, settings_problems)
    workdir = expand_home(workdir) or config.workdir
    check_savable(workdir, name="workdir")
    if problem := unwritable(workdir, buckets="allowed"):
        raise ConfigError(f"workdir={workdir}: {problem}")
    with reporting(quiet=say == "nothing") as reporter, claimed_by_all(workdir, say=reporter.say):
        if long := describe_long_run(config):
            reporter.say(long)
        prepared = prepare_data(config, tokenizer=tokenizer, progress=reporter.update)
        reporter.finish()
        run_training(config, prepared=prepared, workdir=workdir, reporter=reporter)
    return load_model(workdir)


def _checked(config: Config, problems: Callable[[Config], Iterable[str]]) -> "tuple[Config, TextTokenizer | None]":
    """The settings, checked, with those of the model in `config.model.initial`, and its tokenizer."""
    config = parse(config_to_dict(config), check=problems)
    if not config.model.initial:
        return config, None
    from lacy_jax.checkpoints.initial import with_initial

    return with_initial(config)
