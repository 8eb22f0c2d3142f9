"""`vit-custom <command>`: one parser and one main each; argparse is used only here."""
