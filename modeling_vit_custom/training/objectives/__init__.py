"""Training objectives: losses, distillation from teachers, masked images."""
