"""The whole engine on CuPy's arrays: on a GPU where there is one, else in the stand-in of cupy_on_cpu."""
