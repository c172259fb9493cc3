"""Files in, frames and sound out (numpy, PyAV and librosa only)."""
