"""What commit eae3bc5 made of inputs of every shape, pinned: see test_golden.py."""
