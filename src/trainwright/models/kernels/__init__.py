"""What computes the layers of a model faster: attention within documents, and the kernels of others."""
