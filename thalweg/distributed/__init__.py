"""What a process holds of a tensor that several share, and sums over all of them, by torch.distributed."""
