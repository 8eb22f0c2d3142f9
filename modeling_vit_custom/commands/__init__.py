"""`vit-custom <command>`: a parser and a main each; the only place that knows argparse."""
