"""What CLIP-ZSS adds while training and drops at test time."""
