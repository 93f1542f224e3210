"""What is done with a model once it is trained: found on disk, merged, exported, asked, measured and compared."""
