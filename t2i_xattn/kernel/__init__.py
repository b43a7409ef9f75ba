"""Attention as the kernel gets it: queries, keys, values, mask and scale."""
