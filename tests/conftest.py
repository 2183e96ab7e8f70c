"""Every test sees eight CPU devices, whatever the machine has: meshes are tested where no accelerator is."""

import os

os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ.setdefault("XLA_FLAGS", "--xla_force_host_platform_device_count=8")
