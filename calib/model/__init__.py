"""What is being solved: the noise model, local terms, references, gauge, flags."""
