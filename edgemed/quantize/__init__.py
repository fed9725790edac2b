"""Makes a model smaller and shows what was kept: calibration, error compensation, bit allocation, clinical report."""
