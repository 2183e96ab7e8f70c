"""What XLA is told in the tests, and in the commands that they start."""

import os

UNOPTIMIZED = "--xla_backend_optimization_level=0"  # the tests spend their time on compiling
# Seconds that devices wait for each other, before XLA ends the process: a busy machine needs more than its 40.
PATIENT = "--xla_cpu_collective_call_terminate_timeout_seconds=300"


def xla_flags(*, devices: int) -> str:
    """For XLA_FLAGS: this many virtual CPU devices, and the tests' own level of optimization."""
    given = os.environ.get("XLA_FLAGS", UNOPTIMIZED).split()
    level = [flag for flag in given if flag == UNOPTIMIZED]
    return " ".join([f"--xla_force_host_platform_device_count={devices}", PATIENT, *level])
