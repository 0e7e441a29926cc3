"""The work of each stage of a run, one module each: what a module imports is what its stage depends on."""
