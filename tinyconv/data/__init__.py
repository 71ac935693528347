"""Data sets and the loader that makes batches of them: NumPy arrays throughout."""

from tinyconv.data.dataset import Dataset, Subset, TensorDataset, random_split
from tinyconv.data.loader import DataLoader, default_collate

__all__ = ["DataLoader", "Dataset", "Subset", "TensorDataset", "default_collate", "random_split"]
