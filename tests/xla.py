"""What XLA is told in the tests, and in the commands that they start."""

import os

# The tests spend their time on compiling. A training step takes 5.3 CPU seconds to compile at this level, 1.8 with the
# older emitters, 1.4 if its code is made in one part, and a tenth less without LLVM's expensive passes. .ci/run
# compiles some of the tests as users do.
QUICKLY = (
    "--xla_backend_optimization_level=0",
    "--xla_cpu_use_fusion_emitters=false",
    "--xla_cpu_parallel_codegen_split_count=1",
    "--xla_llvm_disable_expensive_passes=true",
)
# Seconds that devices wait for each other, before XLA ends the process: a busy machine needs more than its 40.
PATIENT = "--xla_cpu_collective_call_terminate_timeout_seconds=300"


def xla_flags(*, devices: int) -> str:
    """For XLA_FLAGS: this many virtual CPU devices, compiled quickly where the tests are."""
    given = os.environ.get("XLA_FLAGS")
    quickly = [flag for flag in QUICKLY if given is None or flag in given.split()]
    return " ".join([f"--xla_force_host_platform_device_count={devices}", PATIENT, *quickly])
