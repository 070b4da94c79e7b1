"""Makes what several rooms' tests share importable: this directory is on the path."""
