"""How numba is used: the compiler and its stamp, threads, vector lanes, splines, cached tables."""
