"""Options of XLA for the training step, by platform.

They go with the compile request, not through the environment: nothing else that the process compiles is changed.
An option that this XLA does not know is left out; in XLA_FLAGS it would end the process.
"""

import logging
import os
import re

import jax

Options = dict[str, str | bool]

_log = logging.getLogger(__name__)

# Collectives of FSDP and data parallelism beside the computation, instead of before and after it. Source: "Tips" of
# docs.jax.dev/en/latest/gpu_performance_tips.html and docs.nvidia.com/jax-toolbox; github.com/AI-Hypercomputer/maxtext
# for TPUs. On one device they do nothing. Not measured by us on either; what was is in docs/tpu.md.
_OPTIONS: dict[str, Options] = {
    "tpu": {
        "xla_tpu_enable_data_parallel_all_reduce_opt": True,
        "xla_tpu_data_parallel_opt_different_sized_ops": True,
        "xla_tpu_enable_async_collective_fusion": True,
        "xla_tpu_enable_async_collective_fusion_fuse_all_gather": True,
        "xla_tpu_enable_async_collective_fusion_multiple_steps": True,
        "xla_tpu_overlap_compute_collective_tc": True,
        "xla_enable_async_all_gather": True,
        # In MiB, above every size: no product with gathered weights is cut into a ring of small ones with a
        # collective-permute between two of them. By the compiler's own estimate one product is faster (docs/tpu.md).
        "xla_jf_spmd_threshold_for_windowed_einsum_mib": "1000000",
    },
    "gpu": {
        "xla_gpu_enable_latency_hiding_scheduler": True,
        "xla_gpu_enable_pipelined_all_gather": True,
        "xla_gpu_enable_pipelined_all_reduce": True,
        "xla_gpu_enable_pipelined_reduce_scatter": True,
    },
}
# Names that this process' XLA has refused: not asked for again, nor said to be set.
_unknown: set[str] = set()


def compiler_options(platform: str) -> Options:
    """XLA's options for "cpu", "gpu" or "tpu", less those it was found not to have.

    Those that XLA_FLAGS or LIBTPU_INIT_ARGS set are not among them, either: these decide.
    """
    given = f"{os.environ.get('XLA_FLAGS', '')} {os.environ.get('LIBTPU_INIT_ARGS', '')}"
    named = {word.lstrip("-").partition("=")[0] for word in given.split()} | _unknown
    return {name: value for name, value in _OPTIONS.get(platform, {}).items() if name not in named}


def compile_with_options(lowered: jax.stages.Lowered, *, platform: str) -> jax.stages.Compiled:
    """The program, compiled with this platform's options; one that this XLA does not know is left out, with a warning.

    XLA gains and loses options with every release: jaxlib 0.11.2 has no xla_gpu_enable_pipelined_all_gather any more.
    """
    while True:
        options = compiler_options(platform)
        try:
            return lowered.compile(compiler_options=options)
        except jax.errors.JaxRuntimeError as error:
            unknown = re.search(r"No such compile option: '(\w+)'", str(error))
            if unknown is None or unknown[1] not in options:
                raise
            _log.warning("this XLA has no option %s: the step is compiled without it", unknown[1])
            _unknown.add(unknown[1])


def describe_options(platform: str) -> str:
    """One line for the log."""
    options = compiler_options(platform)
    return f"XLA options: {', '.join(name.removeprefix('xla_') for name in options) or 'its own defaults'}"
