"""Where a run runs: meshes, processes, a platform's compiler options, the C library's memory."""
