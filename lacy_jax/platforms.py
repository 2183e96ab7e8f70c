def set_compiler_flags(platform):
    pass
