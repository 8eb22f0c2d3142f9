"""What a training minimises: losses, teachers, masked images."""
