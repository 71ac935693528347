"""The physics of imaging, on NumPy arrays."""

from tinyconv.imaging.mri import bias_field, rician_noise, simulate_acquisition

__all__ = ["bias_field", "rician_noise", "simulate_acquisition"]
