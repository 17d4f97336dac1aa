"""What a round costs when nothing is trained. Knows Flower and nothing else."""
